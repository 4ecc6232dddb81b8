"""`attnprobe extract`, `attnprobe info` and `attnprobe verify`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from attnprobe.cli.app import app, attributions, numbers, progress_bar, say, show_table
from attnprobe.cli.files import Overwrite, Yes, confirm_overwrite
from attnprobe.cli.models import (
    AttentionModule,
    Base,
    Chat,
    MergeAdapter,
    Model,
    TrustRemoteCode,
    Uncertified,
)

_UNPROVEN = 1e38
"""Larger than any relative error: the recorder puts the largest float32 where it has no proof."""

RunFolder = Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")]


def say_unfinished(run: Any) -> None:
    """Tell on stderr that an open run is not finished, so that results are of a part of it."""
    from attnprobe.measures.runs import unfinished

    if notice := unfinished(run):
        say(notice)


@app.command()
def extract(
    data: Annotated[
        Path, typer.Argument(help="JSON lines, .csv, or a `datasets` folder.", metavar="DATA")
    ],
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run.")],
    keep: Annotated[
        list[str] | None,
        typer.Option(help="rows (default), steps, pooled, full or value_norms; repeatable."),
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
        typer.Option(
            help="Attribution method, such as attn_lrp; repeatable. With settings: "
            "integrated_gradients:tolerance=0.02,by=segment."
        ),
    ] = None,
    attribute_target: Annotated[
        str,
        typer.Option(
            help="What attributions credit, of each target token: logprob, logit or contrast."
        ),
    ] = "logprob",
    attribute_foil: Annotated[
        str | None,
        typer.Option(
            help="Of contrast: entry of each record's meta with another answer; the model's next "
            "best by default."
        ),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")] = None,
    heads: Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")] = None,
    encoding: Annotated[str, typer.Option(help="u16, u8 or f32.")] = "u16",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    base: Base = None,
    merge_adapter: MergeAdapter = False,
    trust_remote_code: TrustRemoteCode = False,
    attention_module: AttentionModule = None,
    uncertified: Uncertified = False,
    chat: Chat = False,
    batch_size: Annotated[str, typer.Option(help="auto, or records per forward pass.")] = "auto",
    records_per_chunk: Annotated[int, typer.Option(help="Most records in one shard.")] = 64,
    segment: Annotated[
        Path | None, typer.Option(help="Rules (TOML) that cut plain prompts into segments.")
    ] = None,
    overwrite: Overwrite = False,
    yes: Yes = False,
) -> None:
    """Capture a model's attention over a dataset. The same command again continues a run."""
    from attnprobe.errors import SelectionError
    from attnprobe.records.rules import read_rules
    from attnprobe.workflows.extract import ExtractSettings
    from attnprobe.workflows.extract import extract as run_extract

    if batch_size != "auto" and not batch_size.isdecimal():
        raise SelectionError("no number of records", where="--batch-size", got=batch_size)
    asked, params = attributions(attribute)
    settings = ExtractSettings(
        keep=tuple(keep or ["rows"]),
        decode=decode,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        attribute=asked,
        attribute_target=attribute_target,
        attribute_params=params,
        attribute_foil=attribute_foil,
        layers=numbers(layers, "--layers"),
        heads=numbers(heads, "--heads"),
        encoding=encoding,
        device=device,
        dtype=dtype,
        base=base,
        merge_adapter=merge_adapter,
        trust_remote_code=trust_remote_code,
        attention_module=attention_module,
        uncertified=uncertified,
        chat=chat,
        batch_size=None if batch_size == "auto" else int(batch_size),
        records_per_chunk=records_per_chunk,
    )
    confirm_overwrite(out, wanted=overwrite, yes=yes)
    quiet_libraries()
    with progress_bar(f"extract {data.name}") as progress:
        run = run_extract(
            data, model, out, settings, rules=read_rules(segment) if segment else None,
            overwrite=overwrite, on_progress=progress,
        )  # fmt: skip
    worst = run.records.worst_error.max()
    proof = "nothing proves some of it" if worst > _UNPROVEN else f"worst certificate {worst:.1e}"
    say(f"{out}: {len(run.records)} records, {proof}")


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
    show_table([{"what": what, "value": value} for what, value in _told(facts).items()])


def _told(facts: dict[str, Any]) -> dict[str, str]:
    """Put what a run says of itself into words for a person."""
    chunks, records, n_records = facts["chunks"], facts["records"], facts["records"]["sealed"]
    far = f"{n_records} of {records['planned']} records, {chunks['sealed']} of {chunks['planned']}"
    size = f"{facts['bytes'] / 1e6:.1f} MB in {chunks['sealed']} shards"
    told = {
        "run": facts["path"],
        "state": f"{'finished' if facts['complete'] else 'not finished'}: {far} shards",
        "begun": facts["created"],
        "styles": _worded(facts["styles"]),
        "tasks": _worded(facts["tasks"]),
        "splits": _worded(facts["splits"]),
        "items": str(facts["items"]),
        "tokens": f"{facts['tokens']}, {facts['steps']} of them predicted",
        "layers": _in_ranges(facts["layers"]),
        "heads": _in_ranges(facts["heads"]),
        "kept": f"{', '.join(facts['keep'])} as {facts['encoding']}",
        "size": f"{size}, {facts['bytes'] / n_records / 1e3:.1f} kB a record"
        if n_records
        else size,
        "worst certificate": "–" if facts["worst_error"] is None else f"{facts['worst_error']:.1e}",
        "model": _worded(facts["model"]),
        "settings": _worded(facts["settings"]),
        "settings hash": facts["settings_hash"],
        "format version": facts["format_version"],
    }
    return {what: value for what, value in told.items() if value}


def _in_ranges(numbers: list[int]) -> str:
    """Write whole numbers as `0-5, 7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    ends = (f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)
    return f"{', '.join(ends)} ({len(numbers)})"


@app.command()
def verify(
    run: RunFolder,
    full: Annotated[bool, typer.Option("--full", help="Decode every record as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Look a run over for damage; exit with 1 if there is any, naming file, record and fault."""
    from attnprobe.store import MANIFEST
    from attnprobe.store import verify as verify_run

    with progress_bar(f"verify {run.name}", unit="shards") as progress:
        found = verify_run(run, full=full, on_progress=progress)
    if as_json:
        facts = asdict(found) | {"path": str(found.path), "good": found.good}
        print(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        for fault in found.faults:
            record = "" if fault.record is None else f"record '{fault.record}': "
            print(f"{fault.where}: {record}{fault.what}")
    unfinished = not found.complete and MANIFEST not in {fault.where for fault in found.faults}
    state = "; the run is not finished, and was looked at as far as it is" if unfinished else ""
    say(
        f"{run}: {found.n_records} records in {found.n_shards} shards, "
        f"{'every record decoded, ' if full else ''}{_counted(len(found.faults))}{state}"
    )
    if not found.good:
        raise typer.Exit(1)


def _counted(n_faults: int) -> str:
    return "no fault" if n_faults == 0 else "1 fault" if n_faults == 1 else f"{n_faults} faults"


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
