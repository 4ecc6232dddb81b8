"""How the reference model is made: its tokenizer, its texts, its training, and its folder."""

import dataclasses
import json
import signal
import subprocess
import sys
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from attnprobe.encode import encode
from attnprobe.errors import ModelError
from attnprobe.models import load_model
from attnprobe.models import reference as known
from attnprobe.tasks.sequences import FAMILIES, SequenceSettings, families_of, generate, split_of
from attnprobe.tasks.styles import STYLES, NumberFormat

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from reference import texts, tokens, wider  # noqa: E402
from reference.card import weights_digest  # noqa: E402
from reference.export import export  # noqa: E402
from reference.muon import Muon, orthogonal  # noqa: E402
from reference.training import Start, Training, TrainSettings, _Workers, make_model  # noqa: E402

TINY = TrainSettings(
    tokens=1800, decay=600, plain_chunks=0, batch_tokens=256, batches=2, warmup=2,
    precision="float32",
)  # fmt: skip


@pytest.fixture
def few_texts(monkeypatch):
    """Chunks that are made in a moment."""
    monkeypatch.setattr(texts, "PER_CHUNK", 100)


class NoValidation:
    def measure(self, model, tokenizer, precision):
        return {}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokens.make_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


# tokenizer


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_style_is_encoded_with_each_digit_a_token(tokenizer, language):
    settings = SequenceSettings(language=language, styles=tuple(STYLES), n_per_family=1)
    for record in generate(settings):
        encoding = encode(record, tokenizer)
        text = record.prompt_text + record.target_text
        assert tokenizer.decode(encoding.ids[1:]) == text
        assert encoding.ids[0] == tokenizer.bos_token_id
        names = tokenizer.convert_ids_to_tokens(encoding.ids.tolist())
        assert not any(name.startswith("<0x") for name in names)
        digits = [name for name in names if any(c.isdigit() for c in name)]
        assert all(len(name) == 1 for name in digits)
        assert len(digits) == sum(c.isdigit() for c in text)


@pytest.mark.parametrize("text", ["龘é x", "日本 12.5%\n\t-3", "Ünïcode — “quoted”", "  1  2 "])
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"][1:]) == text


# texts


def test_training_texts_are_tokenized_as_encode_does(tokenizer):
    settings = SequenceSettings(split="train", n_per_family=2, language="zh")
    for record in generate(settings):
        (example,) = texts._encoded(tokenizer, [texts.pieces_of(record)])
        encoding = encode(record, tokenizer)
        assert example.ids == [*encoding.ids.tolist(), tokenizer.eos_token_id]
        assert example.weights[encoding.n_prompt :] == [1.0] * (encoding.n_steps + 1)
        assert max(example.weights[: encoding.n_prompt]) == texts.PROMPT_WEIGHT


def test_every_sequence_is_of_the_training_split():
    rng = np.random.default_rng(0)
    for _ in range(300):
        instance, settings = texts.draw_instance(rng, texts.Mixture(wider=0.5, varied=0.5))
        assert split_of(instance.terms) == settings.split == "train"
        assert instance.family.name in families_of("train")


@pytest.mark.parametrize("name", list(wider.WIDER))
def test_wider_parameters_lie_outside_the_range_that_is_kept_unseen(name):
    shape = SequenceSettings(number_format=NumberFormat(6, 2)).shape
    rng = np.random.default_rng(1)

    def drawn(family, far):
        found = set()
        for _ in range(3000):
            fixed = family.draw(rng, shape, far=far)
            found.add(json.dumps([fixed.get(k) for k in KEPT[name]]))
        return found

    assert not drawn(wider.WIDER[name], False) & drawn(FAMILIES[name], True)


KEPT = {
    "arithmetic": ("difference",), "geometric": ("ratio",),
    "second_difference": ("second_difference",), "order2_recurrence": ("coefficients",),
    "modular": ("p",), "run_length": ("runs",), "logistic_map": ("rate",),
    "euler_ode": ("system", "k", "a"),
}  # fmt: skip


def test_the_second_term_back_never_comes_without_the_last():
    assert all(a != 0 for a, _ in wider.WiderOrder2Recurrence.near_coefficients)


def test_a_chunk_follows_from_seed_and_number(tokenizer, monkeypatch):
    monkeypatch.setattr(texts, "PER_CHUNK", 500)
    made = [texts.batches_of(tokenizer, s, c, texts.Mixture(), 2048) for s, c in
            ((0, 5), (0, 5), (0, 6), (1, 5))]  # fmt: skip
    first, again, *others = ([batch.ids.tolist() for batch in batches] for batches in made)
    assert first == again
    assert all(first != other for other in others)
    padded = sum(batch.ids.numel() for batch in made[0])
    assert padded < 1.06 * sum(batch.n_tokens for batch in made[0])


def test_computations_on_random_numbers_are_right():
    rng = np.random.default_rng(2)
    for line in (texts._line(rng) for _ in range(200)):
        left, right = line.split(" = ")
        assert abs(eval(left.replace("mod", "%")) - float(right)) <= 0.0051, line
    for _ in range(50):
        values, sums = (
            [float(n) for n in part.split()] for part in texts._sums(rng).split("\n")
        )  # fmt: skip
        assert np.allclose(np.reshape(values, (-1, 3)).sum(1), sums)


def test_practice_is_of_training_sequences_and_right(tokenizer):
    rng = np.random.default_rng(3)
    for ((text, weight),) in (texts._practice(rng) for _ in range(150)):
        lines = text.split("\n")
        steps = [line for line in lines if " = " in line]
        assert weight == 1.0
        assert len(steps) in (3, 6)
        assert len(lines) == (6 if len(steps) == 6 else 4)
        for left, right in (step.split(" = ") for step in steps):
            assert abs(eval(left) - float(right)) <= 0.5 * 10 ** -(len(right) - right.find(".") - 1)
    assert texts._practice(np.random.default_rng(4)) == texts._practice(np.random.default_rng(4))


@pytest.mark.usefixtures("few_texts")
def test_without_practice_texts_are_what_they_were(tokenizer):
    batches = texts.batches_of(tokenizer, 0, 5, texts.Mixture(), 2048)
    other = texts.batches_of(tokenizer, 0, 5, texts.Mixture(practice=0.2), 2048)
    assert [b.ids.tolist() for b in batches] != [b.ids.tolist() for b in other]
    few = dataclasses.replace(texts.Mixture(), families={"arithmetic": 1.0})
    rng = np.random.default_rng(5)
    assert {texts.draw_instance(rng, few)[0].family.name for _ in range(20)} == {"arithmetic"}


# training


def test_muon_is_that_of_torch_to_the_rounding_of_bfloat16():
    torch.manual_seed(0)
    start = [torch.randn(24, 16), torch.randn(16, 40)]
    gradients = [[torch.randn_like(matrix) for matrix in start] for _ in range(3)]
    ends = []
    for make in (Muon, lambda p, **kw: torch.optim.Muon(p, adjust_lr_fn="match_rms_adamw", **kw)):
        matrices = [torch.nn.Parameter(matrix.clone()) for matrix in start]
        optimizer = make(matrices, lr=0.1, weight_decay=0.1)
        for step in gradients:
            for matrix, gradient in zip(matrices, step, strict=True):
                matrix.grad = gradient.clone()
            optimizer.step()
        ends.append([matrix.detach() for matrix in matrices])
    for one, other, first in zip(*ends, start, strict=True):
        moved = (other - first).norm()
        assert (one - other).norm() < 0.01 * moved
    values = torch.linalg.svdvals(orthogonal(torch.randn(24, 60)))
    assert 0.3 < values.min() < values.max() < 1.6


@pytest.mark.usefixtures("few_texts")
def test_gradients_do_not_depend_on_the_number_of_workers(tokenizer):
    batches = texts.batches_of(tokenizer, 0, 0, texts.Mixture(), 256)[:4]
    found = []
    for count in (1, 3):
        model = make_model(0, len(tokenizer))
        loss = _Workers(model, count).gradients(batches)
        found.append((loss, [parameter.grad for parameter in model.parameters()]))
    (loss, grads), (other_loss, other_grads) = found
    assert loss == other_loss
    assert all(map(torch.equal, grads, other_grads))


@pytest.mark.usefixtures("few_texts")
def test_a_stopped_training_goes_on_exactly_and_becomes_a_model(tmp_path):
    straight = Training(tmp_path / "a", TINY, 2)
    straight.run(1e9, NoValidation(), 0)
    assert straight.tokens >= TINY.tokens
    cut = Training(tmp_path / "b", TINY, 1)
    for batches in islice(cut._steps(), 2):
        cut._update(batches)
    cut.save()
    cut = Training(tmp_path / "b", TINY, 1)
    assert cut.step == 2
    cut.run(1e9, NoValidation(), 0)
    for one, other in zip(straight.model.parameters(), cut.model.parameters(), strict=True):
        assert torch.equal(one, other)

    export(Training.restored(tmp_path / "b"), tmp_path / "out")
    loaded = load_model(str(tmp_path / "out"))
    assert loaded.model.generation_config.eos_token_id == loaded.tokenizer.eos_token_id
    assert sum(p.numel() for p in loaded.model.parameters()) < 5_000_000
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "A Llama of 4.86 million parameters" in card
    assert "Not measured yet." in card
    assert "interim" not in card
    assert loaded.model.dtype == torch.float32  # on a CPU
    assert Training.restored(tmp_path / "b").model.dtype == torch.float32


@pytest.mark.usefixtures("few_texts")
def test_a_cycle_starts_from_published_weights_and_goes_on_exactly(tmp_path):
    first = Training(tmp_path / "a", TINY, 1)
    first.run(1e9, NoValidation(), 0)
    export(first, tmp_path / "model", "bfloat16")
    before = Start(weights_digest(tmp_path / "model"), first.tokens, first.step)
    later = dataclasses.replace(
        TINY, cycle=1, start=before, tokens=first.tokens + 1500, mixture=texts.Mixture(practice=0.5)
    )
    straight = Training(tmp_path / "b", later, 1, tmp_path / "model")
    assert straight.step == first.step
    assert straight.place == (1000, 0)
    assert straight._share() == 0.5  # the first of two steps of warm-up
    published = load_model(str(tmp_path / "model")).model
    for one, other in zip(straight.model.parameters(), published.parameters(), strict=True):
        assert torch.equal(one, other.float())
    cut = Training(tmp_path / "c", later, 1, tmp_path / "model")
    cut._update(next(iter(cut._steps())))
    cut.save()
    cut = Training(tmp_path / "c", later, 1, tmp_path / "model")
    for training in (straight, cut):
        training.run(1e9, NoValidation(), 0)
        assert training.done
    for one, other in zip(straight.model.parameters(), cut.model.parameters(), strict=True):
        assert torch.equal(one, other)

    export(Training.restored(tmp_path / "b"), tmp_path / "model", "bfloat16")
    facts = json.loads((tmp_path / "model" / "training.json").read_text())
    assert [one["settings"]["tokens"] for one in facts["earlier"]] == [TINY.tokens]
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    told = f"--tokens {TINY.tokens},{later.tokens} --decay 600,600 --plain {TINY.plain_chunks}\n"
    assert told in card
    assert (
        "**Cycle 2**, to 0.0 million tokens, from the weights before, rounded to bfloat16" in card
    )
    assert "50% of the texts practise" in card
    assert "**Cycle 1**, to 0.0 million tokens: after 2 steps" in card


@pytest.mark.usefixtures("few_texts")
def test_the_command_goes_through_all_cycles(tmp_path, monkeypatch):
    import train_reference

    folder = tmp_path / "training"
    options = "--plain 0 --tokens 9000,18000 --decay 2000,2000 --validate-every 0"
    command = ["train_reference.py", "--folder", str(folder), *options.split()]
    monkeypatch.setattr(train_reference, "Validation", NoValidation)
    monkeypatch.setattr(sys, "argv", [*command, "--precision", "float16"])
    with pytest.raises(SystemExit):
        train_reference.main()
    monkeypatch.setattr(sys, "argv", [*command, "--precision", "bfloat16,float32"])
    train_reference.main()
    facts = json.loads((folder / "cycle-1" / "model" / "training.json").read_text())
    assert (facts["settings"]["cycle"], len(facts["earlier"])) == (1, 1)
    assert facts["tokens"] >= 18000
    assert facts["settings"]["start"]["tokens"] >= 9000
    assert facts["settings"]["precision"] == "float32"
    assert facts["earlier"][0]["settings"]["precision"] == "bfloat16"
    weights = weights_digest(folder / "cycle-1" / "model")
    train_reference.main()  # all there: nothing is trained again
    assert weights_digest(folder / "cycle-1" / "model") == weights
    monkeypatch.setattr(sys, "argv", [*command[:3], "--export", str(tmp_path / "out")])
    train_reference.main()
    assert weights_digest(tmp_path / "out") == weights
    assert "--precision bfloat16,float32`" in (tmp_path / "out" / "README.md").read_text()
    again = [*command, "--precision", "float32", "--start", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", again)
    with pytest.raises(SystemExit, match=r"was trained on \d+ tokens already: give more --tokens"):
        train_reference.main()
    monkeypatch.setattr(sys, "argv", [*again[:-4], "--start", str(_interim(tmp_path / "out"))])
    with pytest.raises(SystemExit, match="a cycle that is not at its end: go on where it lies"):
        train_reference.main()


def _interim(folder):
    """Make a model folder say that its cycle was cut short."""
    file = folder / "training.json"
    facts = json.loads(file.read_text())
    facts["settings"]["tokens"] = facts["tokens"] + 1
    file.write_text(json.dumps(facts))
    return folder


@pytest.mark.usefixtures("few_texts")
def test_gradients_of_no_numbers_never_reach_the_weights(tmp_path, monkeypatch):
    training = Training(tmp_path / "run", TINY, 1)
    training.save()
    plain = training.workers.gradients

    def broken(batches):
        loss = plain(batches)
        if training.step == 2:
            next(training.model.parameters()).grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(training.workers, "gradients", broken)
    with pytest.raises(FloatingPointError, match="at step 3: the last checkpoint is whole"):
        training.run(0, NoValidation(), 0)
    again = Training(tmp_path / "run", TINY, 1)
    assert again.step == 2
    assert all(torch.isfinite(weight).all() for weight in again.model.parameters())


@pytest.mark.usefixtures("few_texts")
def test_results_are_shown_only_beside_the_weights_they_were_measured_with(tmp_path):
    cut = Training(tmp_path / "run", TINY, 1)
    cut._update(next(iter(cut._steps())))
    cut.save()
    cut._log(loss=1.0)
    out = tmp_path / "out"
    export(Training.restored(tmp_path / "run"), out, "bfloat16")
    results = {"weights": weights_digest(out), "text": ["| measured |"]}
    (out / "results.json").write_text(json.dumps(results))
    export(Training.restored(tmp_path / "run"), out, "bfloat16")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| measured |" in card
    assert "**This is an interim model**, a checkpoint after 0.0 of at most 0 million" in card
    assert "weights stored in bfloat16" in card
    export(Training.restored(tmp_path / "run"), out, "float32")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| measured |" not in card
    assert "Not measured yet." in card


@pytest.mark.usefixtures("few_texts")
def test_sigterm_ends_a_training_with_a_checkpoint(tmp_path):
    class Ends(NoValidation):
        def measure(self, model, tokenizer, precision):
            signal.raise_signal(signal.SIGTERM)
            return {}

    before = signal.getsignal(signal.SIGTERM)
    try:
        Training(tmp_path, TINY, 1).run(1e9, Ends(), validate_every=2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert Training(tmp_path, TINY, 1).step == 2


def test_other_settings_do_not_continue_a_training(tmp_path):
    Training(tmp_path, TINY, 1).save()
    Training(tmp_path, TrainSettings(**{**_fields(TINY), "tokens": 9_999, "decay": 5}), 1)
    with pytest.raises(SystemExit, match=r"other settings \(seed 0 → 1\); choose another --folder"):
        Training(tmp_path, TrainSettings(**{**_fields(TINY), "seed": 1}), 1)


def _fields(settings):
    return {name: getattr(settings, name) for name in settings.__slots__}


# where it lies


def test_the_name_reference_is_the_folder_of_the_package_or_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(known, "FOLDERS", (tmp_path / "none", tmp_path / "model"))
    with pytest.raises(ModelError, match="the reference model is not there"):
        known.reference_folder()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert known.reference_folder() == tmp_path / "model"


@pytest.mark.skipif(
    not (ROOT / "artifacts" / "reference-model").is_dir(), reason="the model was not made yet"
)
def test_the_wheel_holds_the_model_and_git_holds_it_once(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "attnprobe/reference_model/model.safetensors" in names
    assert "attnprobe/reference_model/tokenizer.json" in names
    assert "attnprobe/store/FORMAT.md" in names
    assert not any(name.startswith("artifacts") for name in names)
