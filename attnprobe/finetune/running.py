"""A dataset and a model → an adapter, or a model, on disk."""

import importlib.metadata
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import set_seed

from attnprobe.encode import encode
from attnprobe.errors import FinetuneError
from attnprobe.finetune.examples import Example, Examples, example_of
from attnprobe.finetune.folder import TrainingFolder
from attnprobe.finetune.lora import check_peft, with_lora
from attnprobe.finetune.measuring import Validation
from attnprobe.finetune.settings import FinetuneSettings
from attnprobe.finetune.splitting import checked, data_digest, held_back
from attnprobe.finetune.training import TargetTrainer, Watchers, make_trainer, run
from attnprobe.models import KNOWN, LoadedModel, fingerprint, load_model
from attnprobe.records import read_records
from attnprobe.records.rules import SegmentRules, apply_rules
from attnprobe.types import Record

Data = str | Path | Sequence[Record]

PACKAGES = ("attnprobe", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Finetuned:
    """What came out of a fine-tuning."""

    path: Path
    """The folder: a PEFT adapter, or with `full` a model. `load_model` takes it."""
    record: dict[str, Any]
    """Its `attnprobe.json`: base, fingerprints, data, settings, versions, steps, and `measured`,
    the last measurement of the validation records."""
    was_there: bool = False
    """Whether the same fine-tuning was finished there before, so that nothing was trained."""


def fine_tune(
    data: Data,
    model: str,
    out: str | Path,
    settings: FinetuneSettings | None = None,
    *,
    validation: Data | None = None,
    rules: SegmentRules | None = None,
    overwrite: bool = False,
    watchers: Watchers | None = None,
) -> Finetuned:
    """Train a model to write the targets of a dataset after its prompts.

    The loss counts target tokens and the end-of-text token after them. Prompt and target are
    tokenized as `extract` tokenizes them. A training that was interrupted is continued by the same
    call, and ends with the same weights as if it had never stopped.

    Args:
        data: What `extract` takes: JSON lines, CSV, a `datasets` folder, or records.
        model: A model name (see `load_model`); no adapter.
        out: The folder to write.
        settings: How to train.
        validation: Records to measure, instead of a share of `data`.
        rules: How to cut plain prompts and targets into segments.
        overwrite: Replace a fine-tuning that is already there.
        watchers: Who is told how far it is.

    Returns:
        The folder and what it says of itself.

    Raises:
        RecordError: If the dataset is malformed, or a record has no target.
        EncodeError: If a record does not fit the model.
        ModelError: If the model cannot be loaded.
        FinetuneError: If the folder holds something else, or what is trained on, loss or gradients
            become no numbers, memory runs out, or PEFT is not there.
    """
    settings, watchers = settings or FinetuneSettings(), watchers or Watchers()
    folder = TrainingFolder(Path(out))
    folder.require_apart(_places({"model": model, "data": data, "validation data": validation}))
    if not settings.full:
        check_peft()
    trained = checked(_read(data, rules), "to train on")
    if validation is None:
        trained, measured = held_back(trained, settings.validation, settings.seed)
    else:
        measured = checked(_read(validation, rules), "to measure")
    loaded = _load(model, settings)
    record = _described(loaded, trained, measured, settings)
    examples, measured_examples = (_examples(r, loaded, settings) for r in (trained, measured))
    if folder.begin(record, overwrite=overwrite):
        return Finetuned(folder.path, folder.record, was_there=True)
    set_seed(settings.seed)
    if not settings.full:
        wrapped = with_lora(loaded.model, settings, str(record["base"]))
        loaded = LoadedModel(wrapped, loaded.tokenizer, loaded.name)
    measures = Validation(loaded, measured, measured_examples, settings)
    trainer = make_trainer(Examples(examples), measures, settings, folder, watchers, record)
    measured_last = run(trainer, folder)
    return Finetuned(folder.path, _finish(trainer, loaded, folder, record, measured_last))


def _read(data: Data, rules: SegmentRules | None) -> Any:
    records = read_records(data) if isinstance(data, str | Path) else iter(data)
    return records if rules is None else apply_rules(records, rules)


def _load(model: str, settings: FinetuneSettings) -> LoadedModel:
    if settings.device.startswith("cuda:"):
        raise FinetuneError(
            "training takes the first CUDA device that it sees", where="--device",
            got=settings.device, expected="auto, cpu, cuda or mps",
            fix=f"set CUDA_VISIBLE_DEVICES={settings.device[5:]} and use --device cuda",
        )  # fmt: skip
    loaded = load_model(
        model, device=settings.device, dtype="float32" if settings.full else settings.dtype,
        trust_remote_code=settings.trust_remote_code,
    )  # fmt: skip
    if loaded.adapter is not None:
        raise FinetuneError(
            "an adapter cannot be trained on another adapter", where=model, got="an adapter",
            expected="a whole model", fix=f"train on its base: {loaded.adapter.base}",
        )  # fmt: skip
    return loaded


def _examples(
    records: Sequence[Record], loaded: LoadedModel, settings: FinetuneSettings
) -> list[Example]:
    return [
        example_of(
            encode(
                record, loaded.tokenizer, max_tokens=loaded.max_tokens, n_ids=loaded.n_ids,
                chat=settings.chat,
            ),
            loaded,
        )
        for record in records
    ]  # fmt: skip


def _described(
    loaded: LoadedModel,
    trained: Sequence[Record],
    measured: Sequence[Record],
    settings: FinetuneSettings,
) -> dict[str, Any]:
    """Say what is trained on what, in JSON values."""
    path = Path(loaded.name).expanduser()
    is_path = loaded.name not in KNOWN and path.exists()
    packages = PACKAGES if settings.full else (*PACKAGES, "peft")
    return {
        "base": str(path.resolve()) if is_path else loaded.name,
        "base_fingerprint": fingerprint(loaded.model),
        "data_sha256": data_digest(trained),
        "records": len(trained),
        "validation_sha256": data_digest(measured),
        "validation_records": len(measured),
        "settings": asdict(settings),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def _places(given: Mapping[str, Any]) -> dict[str, Path]:
    """Return what of this is a file or a folder."""
    paths = {
        what: Path(one).expanduser()
        for what, one in given.items()
        if isinstance(one, str | Path) and one not in KNOWN
    }
    return {what: path for what, path in paths.items() if path.exists()}


def _save_tokenizer(tokenizer: Any, base: Path, out: Path) -> None:
    """Write a tokenizer, and copy the files of its base that its own code leaves out."""
    tokenizer.save_pretrained(out)
    for name in type(tokenizer).vocab_files_names.values():
        if (base / name).is_file() and not (out / name).exists():
            shutil.copy2(base / name, out / name)


def _finish(
    trainer: TargetTrainer,
    loaded: LoadedModel,
    folder: TrainingFolder,
    record: dict[str, Any],
    measured: dict[str, Any] | None,
) -> dict[str, Any]:
    """Write the weights, and only then say that all is done."""
    loaded.model.save_pretrained(folder.path)
    (folder.path / "README.md").unlink(missing_ok=True)  # PEFT's, to be filled in by hand
    if trainer.validation.settings.full:
        _save_tokenizer(loaded.tokenizer, Path(record["base"]), folder.path)
    folder.write_log(trainer.state.log_history)
    done = record | {
        "steps": trainer.state.global_step, "tokens": trainer.tokens_in_plan(),
        "measured": measured, "complete": True,
    }  # fmt: skip
    folder.write(done)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    return done
