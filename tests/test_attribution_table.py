"""Pointing at known sources: figures by hand, terms among tokens, and the table in short form."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from attnprobe.encode import encode
from attnprobe.errors import DatasetError
from attnprobe.measures.pointing import chance, pointing
from attnprobe.models import LoadedModel
from attnprobe.tasks.sequences import SequenceSettings, generate
from attnprobe.tasks.sequences.oracle import oracle_spans, term_spans
from tests.tiny import make_record, make_tokenizer, tiny_llama

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import make_attribution_table  # noqa: E402
from attributing import measuring, page, subjects  # noqa: E402

# figures


def test_pointing_is_that_worked_out_by_hand():
    truth = np.array([False, True, False, True, False])
    found = pointing(np.array([0.5, 3.0, -1.0, 0.25, 0.25]), truth)
    # ranks: 1 (true), 0, 4 (an equal false one before the true one), 3 (true), 2
    assert found.values() == (1.0, 0.5, 3.25 / 4, (1 / 1 + 2 / 4) / 2)
    none = pointing(np.zeros(5), truth)
    assert none.values() == (0.0, 0.0, 0.0, (1 / 4 + 2 / 5) / 2)
    assert pointing(truth.astype(float), truth).values() == (1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="no true source"):
        pointing(np.zeros(3), np.zeros(3, bool))


@pytest.mark.parametrize(("n_sources", "n_true"), [(12, 1), (13, 2), (5, 5)])
def test_chance_is_the_mean_over_random_rankings(n_sources, n_true):
    rng = np.random.default_rng(0)
    truth = np.arange(n_sources) < n_true
    drawn = [pointing(rng.random(n_sources), truth).values() for _ in range(4000)]
    expected = np.array(chance(n_sources, n_true).values())
    np.testing.assert_allclose(np.mean(drawn, axis=0), expected, atol=0.02)


# terms among tokens


def sequence(family, **settings):
    made = SequenceSettings(families=(family,), styles=("direct",), n_per_family=1, **settings)
    return encode(next(generate(made)), make_tokenizer())


def text_of(encoding, span):
    return "".join(encoding.texts[span.start : span.stop]).strip()


@pytest.mark.parametrize(
    ("family", "split"),
    [("order2_recurrence", "seen"), ("geometric", "seen"), ("periodic", "unseen")],
)
def test_terms_are_found_and_the_rule_reads_the_oracle_ones(family, split):
    encoding = sequence(family, split=split)
    meta = encoding.record.meta
    history, numbers = (term_spans(encoding, role) for role in ("history", "answer"))
    assert [float(text_of(encoding, span)) for span in history] == meta["history"]
    assert [float(text_of(encoding, span)) for span in numbers] == meta["answer"]
    assert history[0].role == "history_1"
    terms = [*meta["history"], *meta["answer"]]
    for number, sources in enumerate(oracle_spans(encoding)):
        values = [float(text_of(encoding, span)) for span in sources]
        if family == "geometric":
            assert values[-1] * meta["parameters"]["ratio"] == pytest.approx(
                terms[12 + number], abs=0.006
            )
        elif family == "periodic":
            assert values == [terms[12 + number]]
        else:
            weighted = zip(meta["parameters"]["coefficients"], reversed(values), strict=True)
            value = sum(c * x for c, x in weighted) + meta["parameters"]["constant"]
            assert value == terms[12 + number]


def test_records_without_known_sources_are_refused():
    with pytest.raises(DatasetError) as error:
        oracle_spans(encode(make_record(), make_tokenizer()))
    assert str(error.value) == (
        "record 'item-000/coarse': it is not known what the answer follows from; expected a record "
        "of number sequences, with meta.oracle."
    )
    record = sequence("arithmetic").record
    other = replace(record, meta={**record.meta, "history": record.meta["history"][1:]})
    with pytest.raises(DatasetError) as error:
        oracle_spans(encode(other, make_tokenizer()))
    assert "the printed terms are not those of the sequence; got 12 in the history and 3" in str(
        error.value
    )


# the table


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(tiny_llama(), make_tokenizer(), "tiny")


@pytest.fixture
def easy(monkeypatch):
    """Let every number count as predicted, and look at few methods and short paths."""
    monkeypatch.setattr(
        subjects, "predicted", lambda loaded, encoding, numbers: (True,) * len(numbers)
    )
    names = ("input_x_gradient", "feature_ablation", "attn_lrp", measuring.KNOCKOUT)
    monkeypatch.setattr(measuring, "METHOD_NAMES", names)


FAMILIES = (
    "arithmetic", "second_difference", "order2_recurrence", "modular", "geometric", "logistic_map"
)  # fmt: skip


def test_correct_numbers_are_those_the_model_would_write(loaded):
    encoding = sequence("arithmetic")
    numbers = term_spans(encoding, "answer")
    assert subjects.predicted(loaded, encoding, numbers) == (False,) * 3
    first = numbers[0]
    import torch

    ids = encoding.ids.copy()
    for at in range(first.start, first.stop):
        logits = loaded.model(torch.from_numpy(ids[None].astype(np.int64))).logits
        ids[at] = int(logits[0, at - 1].argmax())
    written = replace(encoding, ids=ids)
    assert subjects.predicted(loaded, written, numbers)[0]


def test_what_was_measured_is_not_measured_again(loaded, easy, tmp_path, monkeypatch):
    file = tmp_path / "lines.jsonl"
    rows = measuring.measure(loaded, FAMILIES, (2, 1), file)
    assert len(rows) == 2 * len(FAMILIES)
    assert [row["losses"] is not None for row in rows] == [True, False] * len(FAMILIES)
    for row in rows:
        assert row["pointing"].keys() == set(measuring.METHOD_NAMES)
        assert all(len(values) == 3 for values in row["pointing"].values())
        assert np.array(row["pointing"]["knockout"]).shape == np.array(row["chance"]).shape
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    file.write_text("".join(lines[:-2]) + lines[-2][:20], encoding="utf-8")
    done = []
    monkeypatch.setattr(
        measuring,
        "_facts",
        lambda real, *args: (
            done.append(args[0].encoding.record.id)
            or {"pointing": {}, "chance": [], "losses": None if not args[1] else {}}
        ),
    )
    again = measuring.measure(loaded, FAMILIES, (2, 1), file)
    assert done == [rows[-2]["record"], rows[-1]["record"]]
    assert again[:-2] == rows[:-2]


def test_knockout_of_a_term_is_what_hiding_it_costs(loaded):
    encoding = sequence("arithmetic")
    subject = subjects.Subject(
        encoding, term_spans(encoding, "history"), term_spans(encoding, "answer"), (True,) * 3,
        oracle_spans(encoding),
    )  # fmt: skip
    found = measuring.scores(loaded, subject, measuring.KNOCKOUT)
    from attnprobe.attention import knockout
    from attnprobe.workflows.outcomes import log_probs

    starts = [start for start, _ in subject.columns]
    for term in subject.history[:2]:
        stop = min([start for start in starts if start > term.start])
        edges = [(None, None, (stop, None), (term.start, stop))]
        plain = log_probs(loaded, [encoding.ids.tolist()])[0]
        with knockout(loaded.model, edges):
            cut = log_probs(loaded, [encoding.ids.tolist()])[0]
        for row, number in enumerate(subject.numbers):
            own = slice(number.start - 1, number.stop - 1)
            expected = (plain[own] - cut[own]).sum()
            assert found[row, term.start : stop].sum() == pytest.approx(expected, abs=1e-4)
    columns = subject.columns
    assert columns[0][0] == 0
    assert columns[-1][1] == encoding.n_tokens
    assert all(a[1] == b[0] for a, b in pairwise(columns))


def test_the_page_tells_what_was_found(loaded, easy, tmp_path):
    rows = measuring.measure(loaded, FAMILIES, (1, 1), tmp_path / "lines.jsonl")
    summed = make_attribution_table.summed_up(rows, (*FAMILIES, "tent_map"))
    assert summed["without"] == ["tent_map"]
    assert summed["families"] == dict.fromkeys(FAMILIES, 3)
    means = [np.mean(row["pointing"]["attn_lrp"], axis=0) for row in rows]
    assert summed["pointing"]["attn_lrp"]["AUPRC"] == pytest.approx(np.mean(means, axis=0)[3])
    by_chance = np.mean([1 / 12, 1 / 13, 1 / 14])
    assert summed["by_family"]["chance"]["arithmetic"] == pytest.approx(by_chance)
    planted = {"n": 20, "shares": {"attn_lrp": {"chain": 1.0}, "knockout": {"chain": 0.5}}}
    facts = {
        "model": {"weights": "a" * 64, "tokens": 2_000_000}, "planted": planted,
        "params": {"shapley": {"samples": 10}}, "logit": ["attn_lrp"], **summed,
    }  # fmt: skip
    text = page.page(json.loads(json.dumps(facts)))
    assert "| attn_lrp | 1.00 |" in text
    assert "6 problems in the style `direct` with 18 numbers that are predicted" in text
    assert "Of tent_map no number was predicted." in text
    assert "Taken away by `embedding`:" in text
    assert "| *random rankings* |" in text
    assert "shapley: samples 10" in text
    few = make_attribution_table.faithful([row for row in rows if row["family"] == "modular"])
    assert "why" in few
    with pytest.raises(SystemExit, match="predicts no number of any problem"):
        make_attribution_table.summed_up([], FAMILIES)
