"""From what a model writes to pass rates: runs that hold texts, resumed, scored."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import attnprobe
from attnprobe.cli import app
from attnprobe.errors import EncodeError, RecordError, SelectionError, StoreError
from attnprobe.models import LoadedModel
from attnprobe.records import write_records
from attnprobe.tasks.sequences import SequenceSettings
from attnprobe.tasks.sequences import generate as generate_sequences
from attnprobe.types import Record, Segment
from attnprobe.workflows.extract import ExtractSettings, extract
from attnprobe.workflows.score import score_run
from tests.tiny import make_record, make_tokenizer, save_model, tiny_llama

GREEDY = ExtractSettings(("rows",), decode="greedy", records_per_chunk=3, max_new_tokens=12)
SAMPLE = ExtractSettings(
    ("steps",), decode="sample", records_per_chunk=3, max_new_tokens=12, seed=5
)
WAYS = {"greedy": GREEDY, "sample": SAMPLE}


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(tiny_llama(), make_tokenizer(), "tiny")


@pytest.fixture(scope="module")
def parrot():
    """A model that writes `8`, whatever it is given."""
    return LoadedModel(saying("8"), make_tokenizer(), "parrot")


def saying(character):
    """A tiny model whose head prefers one character by far."""
    import torch

    model = tiny_llama(tie_word_embeddings=False)
    (token,) = make_tokenizer()(character, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.model.norm.weight.zero_()
        model.model.norm.weight[0] = 1
        model.lm_head.weight.zero_()
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
        model.model.embed_tokens.weight.abs_()
        model.lm_head.weight[token, 0] = 50
    return model


def records(n=4):
    return [make_record(i, style) for i in range(n) for style in ("coarse", "stepwise")]


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").glob("*.h5"))}


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize("how", WAYS)
def test_an_interrupted_run_of_texts_ends_bit_identical(loaded, tmp_path, how):
    extract(records(), loaded, tmp_path / "whole", WAYS[how]).close()

    def interrupt(done, total):
        if done >= 5:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        extract(records(), loaded, tmp_path / "cut", WAYS[how], on_progress=interrupt)
    assert len(shards(tmp_path / "cut")) == 1
    extract(records(), loaded, tmp_path / "cut", WAYS[how]).close()
    assert shards(tmp_path / "whole") == shards(tmp_path / "cut")
    assert len(shards(tmp_path / "whole")) == 3


def test_a_run_holds_what_was_written_with_its_roles(loaded, tmp_path):
    with extract(records(), loaded, tmp_path / "run", GREEDY) as run:
        for record in records():
            encoding = run.encoding(record.id)
            written = encoding.ids[encoding.n_prompt :].tolist()
            assert encoding.record == record
            assert 1 <= len(written) <= 12
            if 1 not in written and 0 not in written:
                assert encoding.generated == loaded.tokenizer.decode(written)
            assert run.weights(record.id).sizes["query"] == len(written)
        assert run.settings["decode"] == "greedy"
        assert run.settings["max_new_tokens"] == 12
        assert run.info()["counts"]["generated_byte"] > 0


def test_other_ways_of_writing_do_not_continue_a_run(loaded, tmp_path):
    extract(records(1), loaded, tmp_path / "run", SAMPLE).close()
    for change in ({"seed": 6}, {"temperature": 0.5}, {"top_p": 0.9}, {"max_new_tokens": 9}):
        (name,) = change
        other = ExtractSettings(
            **{f: getattr(SAMPLE, f) for f in ("keep", "decode", "records_per_chunk")}
            | {"max_new_tokens": 12, "seed": 5} | change
        )  # fmt: skip
        with pytest.raises(StoreError, match=name):
            extract(records(1), loaded, tmp_path / "run", other)
    changed = [Record(**{f: getattr(r, f) for f in ("id", "item", "style", "prompt", "target")})
               for r in records(1)]  # fmt: skip
    with pytest.raises(StoreError, match="item-000/coarse"):
        extract(changed, loaded, tmp_path / "run", SAMPLE)


def test_records_without_a_target_can_be_written_but_not_shown(loaded, tmp_path):
    bare = Record("a", "a", "own", (Segment("question", "2 3 5"),))
    with pytest.raises(RecordError, match="or let the model write with --decode greedy"):
        extract([bare], loaded, tmp_path / "gold")
    with extract([bare], loaded, tmp_path / "run", GREEDY) as run:
        assert run.encoding("a").generated is not None
        with pytest.raises(RecordError, match="nothing to score against"):
            score_run(run)


def test_a_prompt_that_fills_the_context_is_told_before_anything_is_written(loaded, tmp_path):
    with pytest.raises(EncodeError, match="the prompt fills the model's context"):
        extract([*records(1), make_record(length=200)], loaded, tmp_path / "run", GREEDY)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decode": "greedly"}, "--decode: unknown decoding; got greedly; did you mean 'greedy'?"),
        ({"max_new_tokens": 5}, "--max-new-tokens: decoding 'gold' does not use this; got 5; add "
                                "--decode greedy or sample."),
        ({"decode": "greedy", "temperature": 0.7}, "--temperature: decoding 'greedy' does not use "
                                                   "this; got 0.7; add --decode sample."),
        ({"decode": "greedy", "seed": 3}, "--seed: decoding 'greedy' does not use this"),
        ({"decode": "sample", "temperature": 0.0}, "--temperature: out of range; got 0.0, expected "
                                                   "above 0."),
        ({"decode": "sample", "top_p": 1.5}, "--top-p: out of range; got 1.5, expected above 0, at "
                                             "most 1."),
        ({"decode": "sample", "max_new_tokens": 0}, "--max-new-tokens: too small; got 0"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(SelectionError) as caught:
        ExtractSettings(**settings)
    assert message in str(caught.value)


def test_scores_are_those_of_the_texts(loaded, parrot, tmp_path):
    made = [
        Record(f"i{n}/direct", f"i{n}", "direct", (Segment("history", "1 2"),),
               (Segment("answer", answer),), task="t", split="seen",
               meta={"horizon": 1, "answer": [int(answer)]})
        for n, answer in enumerate(("8888", "888", "7"))
    ]  # fmt: skip
    settings = ExtractSettings(("steps",), decode="greedy", max_new_tokens=4)
    with extract(made, parrot, tmp_path / "run", settings) as run:
        assert [run.encoding(r.id).generated for r in made] == ["8888"] * 3
        assert run.encoding("i0/direct").spans[-1].role == "answer"
        (row,) = score_run(run)
    assert (row["style"], row["split"], row["n"]) == ("direct", "seen", 3)
    assert row["pass_rate"] == pytest.approx(1 / 3)
    assert row["pass_low"] < 1 / 3 < row["pass_high"]
    np.testing.assert_allclose(row["mae"], (0 + 8000 + 8881) / 3)


def test_nothing_but_eos_is_stored_and_fails(tmp_path):
    import torch

    model = saying("8")
    with torch.no_grad():
        model.lm_head.weight[1, 0] = 99
    loaded = LoadedModel(model, make_tokenizer(), "silent")
    settings = ExtractSettings(("rows",), decode="greedy")
    with extract(records(1), loaded, tmp_path / "run", settings) as run:
        encoding = run.encoding("item-000/coarse")
        assert (encoding.generated, encoding.n_steps) == ("", 1)
        assert [row["pass_rate"] for row in score_run(run)] == [0, 0]
        assert [row["parsed"] for row in score_run(run)] == [0, 0]


def test_a_run_of_targets_has_nothing_to_score(loaded, tmp_path):
    with (
        extract(records(1), loaded, tmp_path / "run") as run,
        pytest.raises(SelectionError) as caught,
    ):
        score_run(run)
    assert str(caught.value) == (
        f"{tmp_path / 'run'}: there is nothing to score: the model was shown the targets and wrote "
        "nothing; got decode 'gold'; extract again, into another folder, with --decode greedy."
    )


def test_the_command_from_data_to_scores(tmp_path):
    model, data, run = save_model(tmp_path / "tiny"), tmp_path / "data.jsonl", tmp_path / "run"
    settings = SequenceSettings(("arithmetic", "geometric"), ("direct", "coarse"), n_per_family=2)
    write_records(generate_sequences(settings), data)
    runner = CliRunner()

    def invoke(*arguments):
        return runner.invoke(app, [str(argument) for argument in arguments])

    result = invoke(
        "extract", data, "-m", model, "-o", run, "--keep", "steps", "--decode", "sample",
        "--max-new-tokens", 8, "--temperature", 0.8, "--top-p", 0.9, "--seed", 2,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(invoke("score", run, "--json").stdout)
    assert [(row["style"], row["split"], row["n"]) for row in rows] == [
        ("direct", "seen", 4), ("coarse", "seen", 4)
    ]  # fmt: skip
    rows = json.loads(invoke("score", run, "--by", "task,language", "--json").stdout)
    assert [(row["task"], row["language"]) for row in rows] == [
        ("arithmetic", "en"), ("geometric", "en")
    ]  # fmt: skip
    table = invoke("score", run).stdout
    assert "direct" in table
    assert "0 %" in table
    with attnprobe.open_run(run) as opened:
        assert all(opened.encoding(i).generated is not None for i in opened.records.index)
    bad = invoke("score", run, "--by", "styl")
    assert (bad.exit_code, bad.stdout) == (2, "")
    assert "did you mean 'style'?" in bad.stderr


@pytest.mark.smollm2
def test_smollm2_writes_after_a_prompt_and_is_captured(smollm2, tmp_path):
    settings = SequenceSettings(("arithmetic",), ("direct",), n_per_family=2)
    made = list(generate_sequences(settings))
    greedy = ExtractSettings(("steps",), decode="greedy", max_new_tokens=12)
    with extract(made, smollm2, tmp_path / "run", greedy) as run:
        texts = [run.encoding(record.id).generated for record in made]
        assert all(text.strip() for text in texts)
        assert run.records.worst_error.max() < 1e-3
        assert score_run(run)[0]["n"] == 2
