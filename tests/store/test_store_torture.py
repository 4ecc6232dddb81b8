"""A run survives kills, crashes and flipped bits; `scripts/torture_store.py` does it at length."""

import sys

import pytest

from tests.store.torture import crashes, flips, kills, zygote

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and kills, writers")


def test_writers_that_are_killed_lose_nothing_and_end_the_same(tmp_path):
    outcome = kills.torture_by_kills(tmp_path, 20, seed=1)
    assert outcome.violations == []
    assert outcome.n_done >= 20
    # where the kills fall depends on the machine: that they fell after something was sealed is all
    # that can be asked of so few
    assert outcome.facts["sealed files found whole"] > 0
    assert outcome.facts["records read between kills"] > 0


def test_crashes_lose_nothing_that_has_its_receipt(tmp_path):
    outcome = crashes.torture_by_crashes(tmp_path, 20, seed=1)
    assert outcome.violations == []
    assert outcome.n_done == outcome.facts["runs resumed to their end"] == 20
    assert outcome.facts["records with a safe receipt read right"] > 50


def test_every_flipped_bit_is_reported_and_none_is_read(tmp_path):
    outcome = flips.torture_by_flips(tmp_path, 50, seed=1)
    assert outcome.violations == []
    assert outcome.n_done == 50
    parts = ("data", "index columns", "HDF5 metadata", "the manifest", "receipts")
    assert all(outcome.facts[f"in {part}"] >= 10 for part in parts)
    assert outcome.facts["refused by the reader"] > 20


FORGETFUL = """
from attnprobe.store import jsonfile, publish, writer
def sync(path, real=publish.sync):
    if path.is_dir() or {name!r} in path.name: real(path)
publish.sync = jsonfile.sync = writer.sync = sync
"""
"""A writer that forces only some of its files onto the disk, those with `name` in their name."""


@pytest.mark.parametrize(
    ("name", "found"), [("json", "is listed, but"), ("h5", "sealed records cannot be read")]
)
def test_a_writer_that_forgets_to_sync_is_found_out(monkeypatch, tmp_path, name, found):
    code = FORGETFUL.format(name=name)
    before, line, after = zygote.ENTRY.partition("from tests.store.torture import zygote\n")
    monkeypatch.setattr(zygote, "ENTRY", f"{before}{code}{line}{after}")
    outcome = crashes.torture_by_crashes(tmp_path, 5, seed=1)
    assert any(found in violation for violation in outcome.violations)


def test_a_reader_that_lets_a_flipped_bit_pass_would_be_found_out(monkeypatch, tmp_path):
    monkeypatch.setattr(flips.store, "verify", lambda *_, **__: type("V", (), {"faults": ()}))
    outcome = flips.torture_by_flips(tmp_path, 5, seed=1)
    assert len(outcome.violations) == 5
    assert all("not reported by verify --full" in text for text in outcome.violations)
