"""How the reference model is made: its tokenizer, its texts, its training, and its folder."""

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
from reference.training import Training, TrainSettings, _Workers, make_model  # noqa: E402

TINY = TrainSettings(tokens=1800, decay=600, plain_chunks=0, batch_tokens=256, batches=2, warmup=2)


class NoValidation:
    def measure(self, model, tokenizer):
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


def test_a_chunk_follows_from_seed_and_number(tokenizer):
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


# training


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


def test_sigterm_ends_a_training_with_a_checkpoint(tmp_path):
    class Ends(NoValidation):
        def measure(self, model, tokenizer):
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
