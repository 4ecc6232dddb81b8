"""The check before an extraction: spans over tokens, time, disk, and the refusal."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.segment import Segment as Piece
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.cli.check import role_styles, show_encodings
from attnprobe.encode import encode
from attnprobe.errors import RecordError, SelectionError, StoreError
from attnprobe.models import LoadedModel
from attnprobe.records import read_records, write_records
from attnprobe.signs import printable, visible
from attnprobe.types import Record, Segment
from attnprobe.workflows import check as checking
from attnprobe.workflows import costs
from attnprobe.workflows.check import check, size_text
from attnprobe.workflows.costs import Timing, total_seconds
from attnprobe.workflows.extract import ExtractSettings, extract
from tests.tiny import make_record, make_tokenizer, save_model, tiny_llama

EXAMPLES = Path(__file__).parents[1] / "artifacts" / "examples"
LENGTHS = (4, 6, 9, 14, 30)


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(tiny_llama(max_position_embeddings=1024), make_tokenizer(), "tiny")


@pytest.fixture(scope="module")
def records():
    return [make_record(number, length=LENGTHS[number % 5]) for number in range(20)]


def test_the_report_counts_what_the_dataset_holds(loaded, records, tmp_path):
    report = check(records, loaded, n_records=2, out=tmp_path / "not" / "there")
    encodings = [encode(record, loaded.tokenizer) for record in records]
    assert [e.record.id for e in report.encodings] == ["item-000/coarse", "item-001/coarse"]
    assert report.encodings[0].spans == encodings[0].spans
    assert report.n_records == 20
    assert report.lengths.n_tokens.tolist() == [e.n_tokens for e in encodings]
    assert report.lengths.n_steps.sum() == sum(e.n_steps for e in encodings)
    assert list(report.role_records) == [
        "special", "instruction", "template", "history", "coarse_answer", "answer",
    ]  # fmt: skip
    assert set(report.role_records.values()) == {20}
    assert sum(report.role_tokens.values()) == sum(e.n_tokens for e in encodings)
    assert report.free_bytes > 0
    assert report.fits


def test_the_sample_is_spread_over_the_lengths_and_leaves_nothing_behind(
    loaded, records, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = check(records, loaded)
    sizes = sorted(report.lengths.n_tokens.tolist())
    assert [timing.n_tokens for timing in report.timings] == [sizes[0], sizes[10], sizes[-1]]
    assert all(timing.seconds > 0 for timing in report.timings)
    assert 0 < report.seconds < 120
    assert list(tmp_path.iterdir()) == []


def test_records_to_time_are_not_too_large_and_not_alike():
    n_tokens = np.array([5, 9, 9, 9, 7, 100])
    n_bytes = np.array([1.0, 1, 1, 1, 1, 1e12])
    assert costs.choose_sample(n_tokens, n_bytes) == [1, 0]
    assert costs.choose_sample(n_tokens[-1:], n_bytes[-1:]) == [0]


def test_a_sample_that_takes_too_long_ends_after_one_length(loaded, records, monkeypatch):
    monkeypatch.setattr(costs, "SAMPLE_SECONDS", -1.0)
    report = check(records, loaded)
    assert len(report.timings) == 1
    assert report.seconds > 0


def test_time_grows_with_tokens_between_and_beyond_what_was_measured():
    timings = [Timing(10, 1.0), Timing(30, 5.0)]
    assert total_seconds(np.array([10, 30]), timings) == pytest.approx(6)
    assert total_seconds(np.array([20]), timings) == pytest.approx(3)
    assert total_seconds(np.array([60, 5]), timings) == pytest.approx(10 + 0.5)
    assert total_seconds(np.array([5, 20]), timings[:1]) == pytest.approx(0.5 + 2)


@pytest.mark.parametrize("keep", [("rows",), ("steps",), ("pooled", "rows"), ("full",)])
@pytest.mark.parametrize("encoding", ["u16", "u8", "f32"])
def test_the_disk_is_estimated_and_rather_too_large(loaded, records, tmp_path, keep, encoding):
    settings = ExtractSettings(keep=keep, encoding=encoding)
    sizes = check_sizes(records, loaded, settings)
    extract(records, loaded, tmp_path / "run", settings).close()
    real = sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert real / 1.25 < sizes < real * 1.6  # sharp random attention shrinks more than real one


def check_sizes(records, loaded, settings):
    survey = checking._Survey(None, 0)
    for _ in survey.watch(encode(record, loaded.tokenizer) for record in records):
        pass
    each = costs.stored_bytes(survey.lengths(), settings, loaded.n_layers, loaded.n_heads)
    return each.sum() + costs.shard_bytes(settings, loaded.n_layers, loaded.n_heads)


def test_fewer_layers_and_heads_take_less(loaded, records):
    whole = check(records[:2], loaded)
    part = check(records[:2], loaded, ExtractSettings(layers=(0,), heads=(1, 2)))
    assert part.n_bytes < whole.n_bytes


def test_what_the_disk_cannot_hold_is_refused(loaded, records, tmp_path):
    report = check(records[:2], loaded, out=tmp_path)
    report.require_room()
    full = replace(report, free_bytes=1_500, n_bytes=2_340_000)
    assert not full.fits
    with pytest.raises(StoreError) as caught:
        full.require_room()
    assert str(caught.value) == (
        f"{tmp_path}: this extraction will not fit on the disk; got 1.5 kB free, expected 2.34 MB; "
        "make room, write elsewhere, or store less: --keep steps, --encoding u8, fewer --layers or "
        "--heads."
    )


def test_rules_are_applied_and_uncut_records_counted(loaded):
    data = EXAMPLES / "chatglm.jsonl"
    report = check(data, loaded, rules=EXAMPLES / "chatglm.toml")
    assert report.role_records["demo_1.answer"] == 4
    assert report.role_records["history"] == 4
    assert report.role_records["coarse_answer"] == 2
    assert report.n_uncut == 0
    plain = Record("x", "x", "x", (Segment("prompt", "1 2"),), (Segment("answer", "3"),), joiner="")
    report = check([*read_records(data), plain], loaded, rules=EXAMPLES / "chatglm.toml")
    assert report.n_uncut == 1


def test_the_alpaca_example_can_be_checked(loaded):
    report = check(EXAMPLES / "alpaca.csv", loaded, rules=EXAMPLES / "alpaca.toml", n_records=9)
    assert len(report.encodings) == report.n_records == 4
    assert report.role_records["step_3"] == 2
    assert report.role_records["history"] == report.role_records["answer"] == 4


def test_where_the_model_writes_the_longest_text_counts(loaded, records):
    settings = ExtractSettings(decode="greedy", max_new_tokens=5)
    without = [replace(record, target=()) for record in records[:5]]
    for asked in (records[:5], without):
        report = check(asked, loaded, settings)
        assert report.lengths.n_steps.tolist() == [5] * 5
        assert len(report.timings) == 3
        assert report.seconds > 0
    assert "answer" not in report.role_records


def test_bad_input_is_named(loaded, records):
    without = replace(records[0], target=(), where="data.jsonl:1")
    with pytest.raises(RecordError) as caught:
        check([without], loaded)
    assert str(caught.value) == (
        "data.jsonl:1 (id 'item-000/coarse'): decoding 'gold' needs a target; add 'target', or "
        "let the model write with --decode greedy."
    )
    with pytest.raises(RecordError, match="no records to check; expected at least one"):
        check([], loaded)
    with pytest.raises(SelectionError, match="the model has no such layer"):
        check(records[:1], loaded, ExtractSettings(layers=(7,)))


def test_sizes_have_units():
    assert [size_text(n) for n in (0, 999, 1500, 2_500_000, 7 * 10**9, 3 * 10**12)] == [
        "0 B", "999 B", "1.5 kB", "2.5 MB", "7 GB", "3 TB",
    ]  # fmt: skip


# ---------------------------------------------------------------- what is printed


def shown(*records, **console):
    encodings = [encode(record, make_tokenizer()) for record in records]
    file = io.StringIO()
    show_encodings(encodings, Console(file=file, width=80, highlight=False, **console))
    return file.getvalue()


RECORD = Record(
    "a/x", "a", "x", (Segment("history", "1 23"), Segment("ask", "Go.")), (Segment("answer", "4"),)
)


def test_without_a_terminal_roles_stand_in_brackets():
    assert shown(RECORD) == (
        "a/x: 8 tokens of prompt, 1 of target\n"
        "── prompt\n"
        "⟦special⟧<s>⟦history⟧1│·│23⟦template⟧↵\n"
        "⟦ask⟧G│o│.↵\n"
        "\n"
        "── target\n"
        "⟦answer⟧4\n"
        "\n"
        "⟦role⟧ begins a span, · space, ↵ line break, │ between tokens\n"
    )


def test_on_a_terminal_every_role_has_a_colour_and_a_legend():
    text = shown(RECORD, force_terminal=True, color_system="truecolor")
    assert "⟦" not in text
    styles = role_styles(["special", "history", "template", "ask", "answer"])
    for role in ("history", "ask", "answer"):
        red, green, blue = styles[role].bgcolor.triplet
        assert text.count(f"48;2;{red};{green};{blue}m") >= 2  # the span and the legend
        assert f" {role} " in text


def test_no_two_roles_look_alike_and_the_order_decides():
    roles = [*(f"step_{n}" for n in range(30)), "template", "special", "unparsed"]
    styles = role_styles(roles + roles)
    assert list(styles) == roles
    assert len(set(styles.values())) == len(roles)
    assert role_styles(roles[:5]) == {role: styles[role] for role in roles[:5]}


def test_control_characters_never_reach_the_terminal():
    assert visible("a b\n\t\x1b[31m\u202e") == "a·b↵⇥\\x1b[31m\\u202e"
    assert printable("数列 a\x07") == "数列 a\\x07"
    hostile = Record("\x1b]0;x\x07", "a", "x", (Segment("\x1b[2J", "1\x1b[2J"),))
    text = shown(hostile)
    assert "\x1b" not in text
    assert "\x07" not in text
    coloured = shown(hostile, force_terminal=True, color_system="truecolor")
    pieces = [piece.text for piece in Piece.split_lines([Piece(coloured)]) for piece in piece]
    assert not any("\x1b[2J" in piece or "\x1b]0" in piece for piece in pieces)


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def run(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_the_command_prints_spans_roles_and_estimate(model_folder, tmp_path):
    data = tmp_path / "data.jsonl"
    write_records([make_record(number) for number in range(3)], data)
    done = run(
        data, "-m", model_folder, "-n", 1, "--keep", "steps", "--keep", "rows", "-o", tmp_path
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.count("⟦history⟧") == 1
    assert "item-000/coarse: " in done.stdout
    assert "item-001/coarse: " not in done.stdout
    for words in ("roles", "coarse_answer", "longest record", "steps, rows as u16", "free"):
        assert words in done.stdout
    assert "data.jsonl: reading all records" in done.stderr


def test_the_command_gives_json(model_folder):
    rules = EXAMPLES / "chatglm.toml"
    data = EXAMPLES / "chatglm.jsonl"
    done = run(data, "-m", model_folder, "--segment", rules, "--json", "--encoding", "u8")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["records"] == 4
    assert facts["encoding"] == "u8"
    assert facts["fits"] is True
    assert {"role": "history", "records": 4, "tokens": 56} in facts["roles"]
    (first, *_) = facts["shown"]
    covered = [n for span in first["spans"] for n in range(span["start"], span["stop"])]
    assert covered == list(range(len(first["tokens"])))


def test_the_command_refuses_after_it_has_shown(model_folder, monkeypatch, tmp_path):
    data = tmp_path / "data.jsonl"
    write_records([make_record(0)], data)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(checking.shutil, "disk_usage", lambda _: usage)
    done = run(data, "-m", model_folder)
    assert done.exit_code == 2
    assert "⟦history⟧" in done.stdout
    assert "this extraction will not fit on the disk; got 10 B free" in done.stderr


def test_the_command_names_a_bad_rule(model_folder, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text("[[prompt]]\nrole = 'x'\npattern = 'nowhere'\n")
    done = run(EXAMPLES / "chatglm.jsonl", "-m", model_folder, "--segment", rules)
    assert done.exit_code == 2
    assert "rules.toml, [[prompt]] 1 (role 'x'): this rule matches nothing" in done.stderr
