"""transformers' Trainer, fed with our examples: what it is told, and what it is watched for."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from attnprobe.errors import FinetuneError
from attnprobe.finetune.examples import Collator, Examples, plan_batches, target_loss
from attnprobe.finetune.folder import TrainingFolder
from attnprobe.finetune.measuring import Validation
from attnprobe.finetune.settings import FinetuneSettings
from attnprobe.models import is_out_of_memory

SAVE_MINUTES = 5
"""Time between checkpoints; where they fall changes nothing in the result."""
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, slots=True)
class Watchers:
    """Who is told how far a fine-tuning is."""

    on_progress: Callable[[int, int], None] = lambda done, total: None
    """Called with steps done and steps in all."""
    on_measure: Callable[[dict[str, Any]], None] = lambda facts: None
    """Called with each measurement: `step`, `validation_loss`, `pass_rate` and its parts."""


class _Arguments(TrainingArguments):
    """One device, whatever else the machine has: a step must not depend on that."""

    @property
    def n_gpu(self) -> int:
        """At most one."""
        return min(1, super().n_gpu)


class TargetTrainer(Trainer):
    """A Trainer whose batches are planned ahead, and which measures as `Validation` does."""

    def __init__(
        self, plan: Sequence[Sequence[int]], validation: Validation, watch: "_Watch", **rest: Any
    ) -> None:
        super().__init__(callbacks=[watch], **rest)
        self.plan, self.validation, self.watch = plan, validation, watch

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Give out the planned batches, those done before a stop included: Trainer skips them."""
        loader = DataLoader(
            _dataset(self.train_dataset), batch_sampler=_Planned(self.plan),
            collate_fn=self.data_collator, pin_memory=False,
        )  # fmt: skip
        return self.accelerator.prepare_data_loader(loader)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the mean loss of a batch's target tokens, and stop where it is no number.

        From the logits, since not every model that comes with code of its own takes labels.
        """
        given = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        total, n_tokens = target_loss(model(**given).logits, inputs["labels"])
        loss = total / n_tokens
        if not torch.isfinite(loss):
            raise NotANumberError("loss")
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the validation records, and stop where their loss is no number."""
        facts = self.validation.measure(self.model)
        if not math.isfinite(facts["validation_loss"]):
            raise NotANumberError("validation loss")
        self.log(facts)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, facts)
        return facts

    def measured_last(self) -> dict[str, Any]:
        """Return the measurement at the last step, made now if none was made there."""
        last = next((f for f in reversed(self.state.log_history) if "validation_loss" in f), {})
        if last.get("step") != self.state.global_step:
            last = self.evaluate()
        return {key: value for key, value in last.items() if key not in ("epoch", "step")}

    def tokens_in_plan(self) -> int:
        """Count the tokens of all steps, prompts included."""
        examples = _dataset(self.train_dataset).examples
        return sum(len(examples[index].ids) for step in self.plan for index in step)


class NotANumberError(ArithmeticError):
    """The loss or a gradient is infinite or no number."""


class _Watch(TrainerCallback):
    """Tells of progress, saves by the clock, and never lets a broken gradient near the weights."""

    def __init__(self, folder: TrainingFolder, record: dict[str, Any], watchers: Watchers) -> None:
        self.folder, self.record, self.watchers = folder, record, watchers
        self.saved = time.monotonic()
        self.asked_to_stop = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Stop after the step that is being made when asked to, with a checkpoint; then at once."""
        kinds = [signal.SIGINT, signal.SIGTERM]
        if threading.current_thread() is not threading.main_thread():
            kinds = []
        before = {kind: signal.getsignal(kind) for kind in kinds}

        def ask(*_: Any) -> None:
            self.asked_to_stop = True
            for kind, handler in before.items():
                signal.signal(kind, handler)

        for kind in kinds:
            signal.signal(kind, ask)
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say where it starts."""
        self.watchers.on_progress(state.global_step, state.max_steps)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Refuse gradients that would make weights that are no numbers."""
        for parameter in rest["model"].parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise NotANumberError("gradient")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count, and ask for a checkpoint when it is time."""
        self.watchers.on_progress(state.global_step, state.max_steps)
        # Trainer forgets at a checkpoint what it has not logged yet, so both fall together.
        due = time.monotonic() - self.saved > 60 * SAVE_MINUTES
        if self.asked_to_stop or (due and state.global_step % max(1, int(args.logging_steps)) == 0):
            control.should_save = True
        control.should_training_stop |= self.asked_to_stop

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close a checkpoint: without this file it counts as unfinished."""
        place = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self.folder.write({**self.record, "step": state.global_step, "complete": False}, place)
        self.folder.write_log(state.log_history)
        self.saved = time.monotonic()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Pass a measurement on."""
        step = {"step": state.global_step, "steps": state.max_steps}
        self.watchers.on_measure(step | rest["metrics"])


class _Planned:
    """A batch sampler whose batches are known."""

    def __init__(self, plan: Sequence[Sequence[int]]) -> None:
        self.plan = plan

    def __iter__(self) -> Any:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)


def make_trainer(
    examples: Examples,
    validation: Validation,
    settings: FinetuneSettings,
    folder: TrainingFolder,
    watchers: Watchers,
    record: dict[str, Any],
) -> TargetTrainer:
    """Set transformers' Trainer up."""
    plan = plan_batches([len(example.ids) for example in examples.examples], settings)
    every = -(-len(plan) // settings.validations) if validation.records else 0
    arguments = _Arguments(
        output_dir=str(folder.checkpoints), max_steps=len(plan), num_train_epochs=1.0,
        per_device_train_batch_size=settings.batch_size, learning_rate=settings.rate,
        lr_scheduler_type="cosine", warmup_steps=float(round(settings.warmup * len(plan))),
        weight_decay=settings.weight_decay, seed=settings.seed,
        bf16=settings.full and settings.dtype == "bfloat16",
        use_cpu=validation.loaded.device.type == "cpu", dataloader_pin_memory=False,
        eval_strategy="steps" if every else "no", eval_steps=float(every) or None,
        save_strategy="steps", save_steps=float(len(plan)), save_total_limit=KEPT_CHECKPOINTS,
        logging_steps=max(1.0, min(10.0, float(len(plan) // 20))),
        logging_nan_inf_filter=False,
        disable_tqdm=True, report_to="none", remove_unused_columns=False, label_names=["labels"],
    )  # fmt: skip
    trainer = TargetTrainer(
        plan=plan, validation=validation, model=validation.loaded.model, train_dataset=examples,
        eval_dataset=Examples(validation.examples), args=arguments,
        data_collator=Collator(validation.loaded), watch=_Watch(folder, record, watchers),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def run(trainer: TargetTrainer, folder: TrainingFolder) -> dict[str, Any] | None:
    """Train to the end, from the last checkpoint if there is one, and measure.

    Returns:
        The measurement at the last step; None without validation records.

    Raises:
        FinetuneError: If loss or gradients become no numbers, or memory runs out.
        KeyboardInterrupt: If it was asked to stop; a checkpoint is written first.
    """
    checkpoint = folder.last_checkpoint()
    try:
        with trainer.watch.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.watch.asked_to_stop and trainer.state.global_step < len(trainer.plan):
            raise KeyboardInterrupt
        return trainer.measured_last() if trainer.validation.records else None
    except NotANumberError as error:
        raise _diverged(trainer, folder, str(error)) from error
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        raise _out_of_memory(trainer) from error


def _diverged(trainer: TargetTrainer, folder: TrainingFolder, what: str) -> FinetuneError:
    kept = folder.last_checkpoint()
    rate = trainer.args.learning_rate
    return FinetuneError(
        f"the {what} is no number any more, so training stopped", where=str(folder.path),
        got=f"step {trainer.state.global_step + 1} of {trainer.state.max_steps}, --lr {rate:g}",
        fix=f"lower --lr and use another -o; the last checkpoint stays in {kept}"
        if kept else "lower --lr and use another -o; there was no checkpoint yet",
    )  # fmt: skip


def _out_of_memory(trainer: TargetTrainer) -> FinetuneError:
    size = trainer.args.per_device_train_batch_size
    examples = _dataset(trainer.train_dataset).examples
    longest = max(len(example.ids) for example in examples)
    ways = [f"--batch-size (now {size})"] if size > 1 else []
    settings = trainer.validation.settings
    ways += ["the length of the longest records"]
    ways += ["--dtype to bfloat16"] if settings.dtype != "bfloat16" else []
    full = ", or leave out --full" if settings.full else ""
    return FinetuneError(
        "memory ran out", where=f"step {trainer.state.global_step + 1}",
        got=f"{size} records of up to {longest} tokens at a time on {trainer.args.device}",
        fix=f"lower {', or '.join(ways)}{full}; then use another -o",
    )  # fmt: skip


def _dataset(dataset: Any) -> Examples:
    if not isinstance(dataset, Examples):
        raise TypeError(f"expected Examples, got {type(dataset).__name__}")
    return dataset
