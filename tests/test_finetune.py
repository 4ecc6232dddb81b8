"""Fine-tuning: what is learned, that it can be stopped and repeated, and what it refuses."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from attnprobe.encode import encode
from attnprobe.errors import EncodeError, FinetuneError, ModelError, RecordError, SelectionError
from attnprobe.finetune import FinetuneSettings, Watchers, fine_tune
from attnprobe.finetune.examples import (
    IGNORED,
    Collator,
    Example,
    example_of,
    plan_batches,
    target_loss,
)
from attnprobe.finetune.lora import with_lora
from attnprobe.finetune.splitting import data_digest, held_back
from attnprobe.finetune.training import TargetTrainer
from attnprobe.models import fingerprint, load_model
from attnprobe.records import write_records
from tests.model_kinds import save_gguf
from tests.tiny import make_record, save_model, tiny_llama

SETTINGS = FinetuneSettings(
    learning_rate=5e-3, max_steps=6, batch_size=4, rank=2, validation=0.25, validations=2,
    written=2, seed=3,
)  # fmt: skip


class StopError(Exception):
    """Stands for a process that is killed."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_model(tmp_path_factory.mktemp("base") / "tiny"))


@pytest.fixture(scope="module")
def records():
    return [make_record(n, style) for n in range(8) for style in ("coarse", "stepwise")]


@pytest.fixture(scope="module")
def trained(model, records, tmp_path_factory):
    return fine_tune(records, model, tmp_path_factory.mktemp("adapter") / "a", SETTINGS)


def weights(folder, name="adapter_model.safetensors"):
    return load_file(folder / name)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def watch(at, what):
    """Raise in the middle of a training."""

    def on_progress(done, _total):
        if done == at:
            raise what

    return Watchers(on_progress=on_progress)


# what is learned


def test_labels_are_the_target_and_the_end_of_text_and_nothing_else(model):
    loaded = load_model(model)
    encoding = encode(make_record(), loaded.tokenizer)
    example = example_of(encoding, loaded)
    assert list(example.ids) == [*encoding.ids.tolist(), loaded.tokenizer.eos_token_id]
    assert example.labels[: encoding.n_prompt] == [IGNORED] * encoding.n_prompt
    assert example.labels[encoding.n_prompt :] == list(example.ids[encoding.n_prompt :])


def test_padding_is_masked_and_not_learned(model):
    loaded = load_model(model)
    batch = Collator(loaded)([Example((1, 2, 3), 1), Example((4, 5), 1)])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, loaded.pad_id]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 2, 3], [IGNORED, 5, IGNORED]]
    assert "attention_mask" not in Collator(loaded)([Example((1, 2, 3), 1)])


def test_the_loss_is_that_of_transformers(model):
    loaded = load_model(model)
    batch = Collator(loaded)([Example((1, 2, 3, 9), 1), Example((4, 5), 1)])
    with torch.no_grad():
        found = loaded.model(**batch)
    total, n_tokens = target_loss(found.logits, batch["labels"])
    assert n_tokens == 4
    assert (total / n_tokens).item() == pytest.approx(found.loss.item(), rel=1e-6)


def test_a_long_record_must_leave_room_for_the_end_of_text(model):
    loaded = load_model(model)
    encoding = encode(make_record(), loaded.tokenizer)
    loaded.model.config.max_position_embeddings = encoding.n_tokens
    with pytest.raises(EncodeError, match="end-of-text token are longer than the model's context"):
        example_of(encoding, loaded)


def test_training_lowers_the_loss_of_records_it_never_saw(trained):
    log = [json.loads(line) for line in (trained.path / "log.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in log if "validation_loss" in line]
    assert len(losses) == 2
    assert losses[-1] < losses[0]
    assert trained.record["measured"]["validation_loss"] == losses[-1]
    assert trained.record["measured"]["n_written"] == 2


def test_all_weights_can_be_trained_and_make_a_model(model, records, tmp_path):
    settings = replace(SETTINGS, full=True, max_steps=3)
    done = fine_tune(records, model, tmp_path / "m", settings)
    loaded = load_model(str(done.path))
    assert loaded.adapter is None
    assert fingerprint(loaded.model) != done.record["base_fingerprint"]
    assert loaded.tokenizer.get_vocab() == load_model(model).tokenizer.get_vocab()


def test_the_adapter_runs_on_its_base_as_it_was_trained(trained, model):
    loaded = load_model(str(trained.path))
    assert loaded.adapter.base == model
    assert loaded.adapter.base_fingerprint == trained.record["base_fingerprint"]
    assert not (trained.path / "checkpoints").exists()
    assert trained.record["complete"] is True
    assert trained.record["settings"]["rank"] == 2


def test_saving_asks_nobody_about_the_base(tmp_path, monkeypatch):
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", pytest.fail)
    wrapped = with_lora(tiny_llama(), SETTINGS, "some/where-far-away")
    wrapped.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/where-far-away"


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(FinetuneError, match="no adapter can be put on this model"):
        with_lora(torch.nn.Embedding(3, 4), SETTINGS, "strange")


# batches and splits


def test_every_record_comes_once_per_pass_and_batches_are_of_similar_length():
    lengths = np.random.default_rng(0).integers(5, 300, 1000).tolist()
    plan = plan_batches(lengths, FinetuneSettings(batch_size=10, epochs=2.0))
    assert sorted(i for step in plan[:100] for i in step) == list(range(1000))
    assert sorted(i for step in plan[100:] for i in step) == list(range(1000))
    assert plan[:100] != plan[100:]
    padded = sum(len(step) * max(lengths[i] for i in step) for step in plan)
    assert padded < 1.05 * 2 * sum(lengths)


def test_a_limit_in_tokens_is_kept():
    lengths = [10] * 100
    plan = plan_batches(lengths, FinetuneSettings(batch_size=4, max_tokens=1234))
    assert len(plan) == 1234 // 40
    assert len(plan_batches(lengths, FinetuneSettings(batch_size=4, max_tokens=1))) == 1
    assert len(plan_batches(lengths, FinetuneSettings(batch_size=4, max_steps=77))) == 77


def test_items_are_held_back_with_all_their_styles(records):
    trained, measured = held_back(records, 0.25, seed=0)
    assert {r.item for r in trained} & {r.item for r in measured} == set()
    assert len(measured) == 4
    assert len(trained) == 12
    assert held_back(records, 0.0, seed=0)[1] == []
    assert held_back(list(reversed(records)), 0.25, seed=0)[1] == list(reversed(measured))


def test_data_have_one_digest_however_they_are_stored(records, tmp_path):
    from attnprobe.records import read_records

    path = tmp_path / "data.jsonl"
    write_records(records, path)
    assert data_digest(read_records(path)) == data_digest(records)
    assert data_digest(records[1:]) != data_digest(records)


@pytest.mark.parametrize("full", [False, True])
def test_dequantised_models_are_trained(full, records, tmp_path):
    path = tmp_path / "tiny.gguf"
    save_gguf(path, tiny_llama())
    settings = replace(SETTINGS, full=full, max_steps=2)
    done = fine_tune(records, str(path), tmp_path / "a", settings)
    assert load_model(str(done.path)).adapter is None if full else True
    assert np.isfinite(done.record["measured"]["validation_loss"])


# repeated, stopped, continued


def test_the_same_seed_gives_the_same_adapter(trained, model, records, tmp_path):
    again = fine_tune(records, model, tmp_path / "a", SETTINGS)
    assert same(weights(again.path), weights(trained.path))
    other = fine_tune(records, model, tmp_path / "b", replace(SETTINGS, seed=4))
    assert not same(weights(other.path), weights(trained.path))


@pytest.mark.parametrize("full", [False, True])
def test_a_stopped_training_ends_as_if_it_had_not_stopped(
    full, model, records, tmp_path, monkeypatch
):
    settings = replace(SETTINGS, full=full, dropout=0.1, learning_rate=1e-3, max_steps=40)
    name = "model.safetensors" if full else "adapter_model.safetensors"
    straight = fine_tune(records, model, tmp_path / "straight", settings)
    monkeypatch.setattr("attnprobe.finetune.training.SAVE_MINUTES", 0)
    with pytest.raises(StopError):
        fine_tune(records, model, tmp_path / "cut", settings, watchers=watch(9, StopError()))
    assert json.loads((tmp_path / "cut" / "attnprobe.json").read_text())["complete"] is False
    starts = []
    watchers = Watchers(on_progress=lambda done, total: starts.append(done))
    done = fine_tune(records, model, tmp_path / "cut", settings, watchers=watchers)
    assert starts[0] == 8  # losses are logged every second step, and so are checkpoints made
    assert same(weights(done.path, name), weights(straight.path, name))
    logs = [(folder.path / "log.jsonl").read_text() for folder in (done, straight)]
    assert "train_loss" not in logs[0]
    for line, other in zip(*(map(json.loads, log.splitlines()) for log in logs), strict=True):
        for key in ("loss", "validation_loss", "learning_rate", "step"):
            assert line.get(key) == other.get(key)


def test_a_training_that_is_interrupted_saves_first(model, records, tmp_path):
    settings = replace(SETTINGS, dropout=0.1)
    straight = fine_tune(records, model, tmp_path / "straight", settings)

    def interrupt(done, _total):
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(
            records, model, tmp_path / "cut", settings, watchers=Watchers(on_progress=interrupt)
        )
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint-3" / "attnprobe.json").is_file()
    assert not (tmp_path / "cut" / "adapter_config.json").exists()
    done = fine_tune(records, model, tmp_path / "cut", settings)
    assert same(weights(done.path), weights(straight.path))


def test_a_finished_training_is_not_repeated(trained, model, records):
    before = (trained.path / "adapter_model.safetensors").stat().st_mtime_ns
    again = fine_tune(records, model, trained.path, SETTINGS)
    assert (again.record, again.was_there, trained.was_there) == (trained.record, True, False)
    assert (trained.path / "adapter_model.safetensors").stat().st_mtime_ns == before


# refused


def test_other_settings_are_refused_with_what_differs(trained, model, records):
    with pytest.raises(FinetuneError) as caught:
        fine_tune(records[2:], model, trained.path, replace(SETTINGS, rank=4))
    assert "another fine-tuning was finished here" in str(caught.value)
    assert "rank 2 there, 4 asked for" in str(caught.value)
    assert "data_sha256" in str(caught.value)
    assert "add --overwrite" in str(caught.value)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_trained_on_is_never_overwritten(overwrite, model, records, tmp_path):
    whole = replace(SETTINGS, full=True, max_steps=1)
    base = fine_tune(records, model, tmp_path / "base", whole).path
    before = weights(base, "model.safetensors")
    data = tmp_path / "run" / "data.jsonl"
    write_records(records, data)
    for source, out, told in (
        (base, base, "holds the model"),
        (base, tmp_path, "holds the model"),
        (model, data.parent, "holds the data"),
    ):
        with pytest.raises(FinetuneError) as caught:
            fine_tune(data, str(source), out, SETTINGS, overwrite=overwrite)
        assert told in str(caught.value)
        assert "use another -o" in str(caught.value)
    assert same(weights(base, "model.safetensors"), before)
    assert data.is_file()


def test_a_folder_with_something_else_is_left_alone(model, records, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(FinetuneError, match=r"no attnprobe\.json in it"):
            fine_tune(records, model, tmp_path, SETTINGS, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_record_without_a_target_is_named(model, records, tmp_path):
    bare = replace(records[3], target=())
    with pytest.raises(RecordError, match=r"item-001/stepwise.*there is no target to learn"):
        fine_tune([*records[:3], bare], model, tmp_path / "a", SETTINGS)
    with pytest.raises(RecordError, match="no records to train on"):
        fine_tune([], model, tmp_path / "a", SETTINGS)
    assert not (tmp_path / "a").exists()


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(
    model, records, tmp_path, monkeypatch
):
    monkeypatch.setattr("attnprobe.finetune.training.SAVE_MINUTES", 0)
    plain = TargetTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        loss = plain(self, *args, **kwargs)
        return loss * float("inf") if self.state.global_step == 3 else loss

    monkeypatch.setattr(TargetTrainer, "compute_loss", compute_loss)
    with pytest.raises(FinetuneError) as caught:
        fine_tune(records, model, tmp_path / "a", SETTINGS)
    kept = tmp_path / "a" / "checkpoints" / "checkpoint-3"
    assert "the gradient is no number any more, so training stopped" in str(caught.value)
    assert "got step 4 of 6, --lr 0.005" in str(caught.value)
    assert f"the last checkpoint stays in {kept}" in str(caught.value)
    assert all(torch.isfinite(w).all() for w in weights(kept).values())
    assert load_model(str(kept)).adapter is not None


def test_a_validation_loss_that_is_no_number_is_no_success(model, records, tmp_path):
    wild = replace(SETTINGS, learning_rate=1e30, max_steps=1, warmup=0.0, validations=1)
    with pytest.raises(FinetuneError, match="the validation loss is no number any more"):
        fine_tune(records, model, tmp_path / "a", wild)
    record = json.loads((tmp_path / "a" / "attnprobe.json").read_text())
    assert record["complete"] is False
    assert not (tmp_path / "a" / "adapter_model.safetensors").exists()


def test_a_model_of_no_numbers_is_told_of_before_any_step(records, tmp_path):
    path = save_model(tmp_path / "broken")
    loaded = load_model(str(path))
    with torch.no_grad():
        loaded.model.lm_head.weight[0] = float("nan")
    loaded.model.save_pretrained(path)
    with pytest.raises(FinetuneError, match=r"the loss is no number.*there was no checkpoint yet"):
        fine_tune(records, str(path), tmp_path / "a", SETTINGS)


def test_memory_that_runs_out_says_what_to_lower(model, records, tmp_path, monkeypatch):
    def compute_loss(self, *_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TargetTrainer, "compute_loss", compute_loss)
    with pytest.raises(FinetuneError) as caught:
        fine_tune(records, model, tmp_path / "a", SETTINGS)
    assert "memory ran out" in str(caught.value)
    assert "got 4 records of up to" in str(caught.value)
    assert "lower --batch-size (now 4)" in str(caught.value)
    assert "--full" not in str(caught.value)
    fewer = replace(SETTINGS, full=True, dtype="bfloat16")
    with pytest.raises(FinetuneError, match=r"longest records, or leave out --full; then"):
        fine_tune(records, model, tmp_path / "b", fewer)


def test_other_errors_are_not_taken_for_a_lack_of_memory(model, records, tmp_path, monkeypatch):
    def compute_loss(self, *_args, **_kwargs):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(TargetTrainer, "compute_loss", compute_loss)
    with pytest.raises(RuntimeError, match="shapes differ"):
        fine_tune(records, model, tmp_path / "a", SETTINGS)


def test_a_tokenizer_of_another_model_is_refused(records, tmp_path):
    path = save_model(tmp_path / "small", vocab_size=100)
    with pytest.raises((ModelError, EncodeError), match="token"):
        fine_tune(records, str(path), tmp_path / "a", SETTINGS)
    assert not (tmp_path / "a").exists()


def test_without_peft_the_way_to_get_it_is_told(model, records, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(FinetuneError, match=r'pip install "attnprobe\[finetune\]"'):
        fine_tune(records, model, tmp_path / "a", SETTINGS)


def test_an_adapter_on_an_adapter_is_refused(trained, model, records, tmp_path):
    with pytest.raises(FinetuneError, match="an adapter cannot be trained on another adapter"):
        fine_tune(records, str(trained.path), tmp_path / "a", SETTINGS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, "--rank: too small; got 0, expected ≥ 1"),
        ({"learning_rate": -1.0}, "--lr: out of range; got -1.0"),
        ({"validation": 1.0}, "--validation: out of range"),
        ({"max_steps": 5, "max_tokens": 9}, "two limits at once"),
        ({"seed": 2**32}, "--seed: out of range; got 4294967296, expected below 2³²"),
        ({"full": True, "dtype": "float16"}, "cannot be trained in float16"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(SelectionError) as caught:
        replace(FinetuneSettings(), **changes)
    assert words in str(caught.value)
