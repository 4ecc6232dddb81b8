"""`attnprobe extract` and `attnprobe info`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from attnprobe.cli.app import app, numbers, progress_bar, say, show_table
from attnprobe.cli.models import Base, Chat, MergeAdapter, Model, TrustRemoteCode

RunFolder = Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")]


@app.command()
def extract(
    data: Annotated[
        Path, typer.Argument(help="JSON lines, .csv, or a `datasets` folder.", metavar="DATA")
    ],
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run.")],
    keep: Annotated[
        list[str] | None,
        typer.Option(help="rows (default), steps, pooled or full; repeatable."),
    ] = None,
    decode: Annotated[
        str,
        typer.Option(help="gold: the record's own target; greedy or sample: the model writes."),
    ] = "gold",
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="Most tokens it writes; by default twice the target's and 16."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of sample.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Of sample: share of probability drawn from.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of sample.")] = 0,
    attribute: Annotated[
        list[str] | None,
        typer.Option(help="Attribution method, such as input_x_gradient; repeatable."),
    ] = None,
    attribute_target: Annotated[
        str, typer.Option(help="What attributions credit: logprob or logit of each target token.")
    ] = "logprob",
    layers: Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")] = None,
    heads: Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")] = None,
    encoding: Annotated[str, typer.Option(help="u16, u8 or f32.")] = "u16",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    base: Base = None,
    merge_adapter: MergeAdapter = False,
    trust_remote_code: TrustRemoteCode = False,
    chat: Chat = False,
    batch_size: Annotated[str, typer.Option(help="auto, or records per forward pass.")] = "auto",
    records_per_chunk: Annotated[int, typer.Option(help="Most records in one shard.")] = 64,
    segment: Annotated[
        Path | None, typer.Option(help="Rules (TOML) that cut plain prompts into segments.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a run that is there.")] = False,
) -> None:
    """Capture a model's attention over a dataset. The same command again continues a run."""
    from attnprobe.errors import SelectionError
    from attnprobe.records.rules import read_rules
    from attnprobe.workflows.extract import ExtractSettings
    from attnprobe.workflows.extract import extract as run_extract

    if batch_size != "auto" and not batch_size.isdecimal():
        raise SelectionError("no number of records", where="--batch-size", got=batch_size)
    settings = ExtractSettings(
        keep=tuple(keep or ["rows"]),
        decode=decode,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        attribute=tuple(attribute or ()),
        attribute_target=attribute_target,
        layers=numbers(layers, "--layers"),
        heads=numbers(heads, "--heads"),
        encoding=encoding,
        device=device,
        dtype=dtype,
        base=base,
        merge_adapter=merge_adapter,
        trust_remote_code=trust_remote_code,
        chat=chat,
        batch_size=None if batch_size == "auto" else int(batch_size),
        records_per_chunk=records_per_chunk,
    )
    quiet_libraries()
    with progress_bar(f"extract {data.name}") as progress:
        run = run_extract(
            data, model, out, settings, rules=read_rules(segment) if segment else None,
            overwrite=overwrite, on_progress=progress,
        )  # fmt: skip
    say(f"{out}: {len(run.records)} records, worst certificate {run.records.worst_error.max():.1e}")


@app.command()
def info(
    run: RunFolder,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what a run holds, by which model and settings, and how far it is."""
    from attnprobe.store import open_run

    with open_run(run) as opened:
        facts = opened.info()
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    show_table([{"what": key, "value": _worded(value)} for key, value in facts.items()])


def _worded(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_worded(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(str(inner) for inner in value)
    return str(value)


def quiet_libraries() -> None:
    """Leave the screen to one progress bar."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
