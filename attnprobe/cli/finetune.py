"""`attnprobe finetune`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from attnprobe.cli.app import app, progress_bar, say
from attnprobe.cli.files import Overwrite, Yes, confirm_overwrite
from attnprobe.cli.models import Chat, Model, TrustRemoteCode
from attnprobe.cli.runs import quiet_libraries


@app.command()
def finetune(
    data: Annotated[
        Path, typer.Argument(help="JSON lines, .csv, or a `datasets` folder.", metavar="DATA")
    ],
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the adapter, or model.")],
    full: Annotated[
        bool, typer.Option("--full", help="Train all weights, and write a model.")
    ] = False,
    epochs: Annotated[float, typer.Option(help="Passes over the records.")] = 1.0,
    max_steps: Annotated[int | None, typer.Option(help="Steps in all, instead.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens in all, prompts included, instead.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate; 2e-4, or 2e-5 with --full.")
    ] = None,
    rank: Annotated[int, typer.Option(help="Of the adapter's matrices.")] = 8,
    dropout: Annotated[float, typer.Option(help="Of the adapter's inputs, in training.")] = 0.0,
    batch_size: Annotated[int, typer.Option(help="Records per step.")] = 8,
    warmup: Annotated[float, typer.Option(help="Share of steps with a rising rate.")] = 0.03,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Same seed, same weights on one machine.")] = 0,
    validation: Annotated[
        str, typer.Option(help="A dataset to measure, or the share of items held back for it.")
    ] = "0.05",
    validations: Annotated[int, typer.Option(help="How often it is measured.")] = 10,
    written: Annotated[
        int, typer.Option(help="Validation records the model writes, for the pass rate.")
    ] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    trust_remote_code: TrustRemoteCode = False,
    chat: Chat = False,
    segment: Annotated[
        Path | None, typer.Option(help="Rules (TOML) that cut plain prompts into segments.")
    ] = None,
    overwrite: Overwrite = False,
    yes: Yes = False,
) -> None:
    """Train a model to write a dataset's targets. The same command again continues a training."""
    from attnprobe.finetune import FinetuneSettings, Watchers, fine_tune
    from attnprobe.records.rules import read_rules

    share, measured = _validation(validation)
    settings = FinetuneSettings(
        full=full, epochs=epochs, max_steps=max_steps, max_tokens=max_tokens, learning_rate=lr,
        rank=rank, dropout=dropout, batch_size=batch_size, warmup=warmup,
        weight_decay=weight_decay, seed=seed, validation=share, validations=validations,
        written=written, device=device, dtype=dtype, trust_remote_code=trust_remote_code,
        chat=chat,
    )  # fmt: skip
    confirm_overwrite(out, wanted=overwrite, yes=yes)
    quiet_libraries()
    with progress_bar(f"finetune {model}", "steps") as progress:
        done = fine_tune(
            data, model, out, settings, validation=measured, overwrite=overwrite,
            rules=read_rules(segment) if segment else None,
            watchers=Watchers(progress, lambda facts: say(_worded(facts))),
        )  # fmt: skip
    if done.was_there:
        say(f"{out}: already finished before, so nothing was trained; --overwrite trains anew")
    kind = "a model" if full else "an adapter"
    say(f"{out}: {kind} after {done.record['steps']} steps, {done.record['tokens']} tokens")


def _validation(text: str) -> tuple[float, Path | None]:
    """Read a share such as 0.1, or the name of a dataset."""
    try:
        return float(text), None
    except ValueError:
        return 0.0, Path(text)


def _worded(facts: dict[str, Any]) -> str:
    words = (
        f"step {facts['step']} of {facts['steps']}: validation loss {facts['validation_loss']:.4f}"
    )
    if "pass_rate" not in facts:
        return words
    styles = ", ".join(f"{style} {rate:.0%}" for style, rate in facts["passed"].items())
    return f"{words}, {facts['pass_rate']:.0%} of {facts['n_written']} answers right ({styles})"
