"""`attnprobe check`."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.style import Style
from rich.text import Text

from attnprobe.cli.app import app, attributions, numbers, say, show_table
from attnprobe.cli.models import (
    AttentionModule,
    Base,
    Chat,
    MergeAdapter,
    Model,
    TrustRemoteCode,
    Uncertified,
)
from attnprobe.cli.runs import quiet_libraries
from attnprobe.signs import printable, visible

if TYPE_CHECKING:
    from attnprobe.types import Encoding
    from attnprobe.workflows.check import CheckReport

_BORDER = "│"
_PALETTE = ("#a6cee3", "#fdbf6f", "#b2df8a", "#fb9a99", "#cab2d6", "#ffff99", "#8dd3c7", "#fccde5")
_QUIET = {"template": "#d9d9d9", "special": "#bdbdbd", "unparsed": "#969696"}


@app.command()
def check(
    data: Annotated[
        Path, typer.Argument(help="A dataset: .jsonl, .csv or a datasets folder.", metavar="DATA")
    ],
    model: Model,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Where the run would go, for the free space.")
    ] = Path(),
    segment: Annotated[
        Path | None, typer.Option(help="Rules (TOML) that cut plain prompts into segments.")
    ] = None,
    shown: Annotated[int, typer.Option("-n", "--show", help="Records to show.")] = 3,
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
    attribute: Annotated[
        list[str] | None,
        typer.Option(help="Attribution method, as of extract; repeatable."),
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
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show records as tokens and spans, and the time and disk an extraction will take."""
    from attnprobe.workflows.check import check as run_check
    from attnprobe.workflows.extract import ExtractSettings

    asked, params = attributions(attribute)
    settings = ExtractSettings(
        keep=tuple(keep or ["rows"]),
        decode=decode,
        max_new_tokens=max_new_tokens,
        attribute=asked,
        attribute_params=params,
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
    )
    quiet_libraries()
    say(f"{data}: reading all records, running a few")
    report = run_check(data, model, settings, segment, shown, out=out)
    if as_json:
        print(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
    else:
        show_encodings(report.encodings, Console(highlight=False))
        show_table(_roles(report), title="roles")
        show_table(_estimate(report), title="what the extraction will take")
    report.require_room()


def show_encodings(encodings: "Iterable[Encoding]", console: Console) -> None:
    """Print records token by token, each role on a colour of its own.

    Without a terminal, ⟦role⟧ stands where a span begins.

    Args:
        encodings: The records.
        console: Where to print.
    """
    encodings = list(encodings)
    styles = role_styles(span.role for encoding in encodings for span in encoding.spans)
    coloured = console.is_terminal and console.color_system is not None
    for encoding in encodings:
        sizes = f"{encoding.n_prompt} tokens of prompt, {encoding.n_steps} of target"
        console.print(Text(f"{printable(encoding.record.id)}: {sizes}", "bold"), soft_wrap=True)
        start = 0
        for stop, title in ((encoding.n_prompt, "prompt"), (encoding.n_tokens, "target")):
            if stop > start:
                console.print(Text(f"── {title}", "dim"))
                text = _tokens(encoding, start, stop, styles if coloured else None)
                console.print(text, soft_wrap=True, end="\n\n")
            start = stop
    if coloured:
        legend = Text(" ").join(Text(f" {printable(r)} ", style) for r, style in styles.items())
        console.print(legend)
    marks = "· space, ↵ line break, │ between tokens"
    console.print(marks if coloured else f"⟦role⟧ begins a span, {marks}", soft_wrap=True)


def role_styles(roles: Iterable[str]) -> dict[str, Style]:
    """Give every role a look of its own, in the order of first appearance.

    When the colours are used up they come again underlined, then in bold, then both.
    """
    styles: dict[str, Style] = {}
    n_named = 0
    for role in roles:
        if role in styles:
            continue
        if role in _QUIET:
            styles[role] = Style(color="#404040", bgcolor=_QUIET[role], italic=True)
            continue
        turn, colour = divmod(n_named, len(_PALETTE))
        styles[role] = Style(
            color="#000000", bgcolor=_PALETTE[colour], underline=bool(turn & 1), bold=bool(turn & 2)
        )
        n_named += 1
    return styles


def _tokens(
    encoding: "Encoding", start: int, stop: int, styles: Mapping[str, Style] | None
) -> Text:
    """Write the tokens of prompt or target, span by span."""
    text = Text()
    for span in encoding.spans:
        if not start <= span.start < stop:
            continue
        style = styles[span.role] if styles else ""
        if not styles:
            text.append(f"⟦{printable(span.role)}⟧")
        for index in range(span.start, span.stop):
            if index > span.start:
                text.append(_BORDER, style)
            text.append(visible(encoding.texts[index]), style)
            if "\n" in encoding.texts[index]:
                text.append("\n")
    text.rstrip()
    return text


def _roles(report: "CheckReport") -> list[dict[str, object]]:
    return [
        {"role": role, "records": n_records, "tokens": report.role_tokens[role]}
        for role, n_records in report.role_records.items()
    ]


def _estimate(report: "CheckReport") -> list[dict[str, object]]:
    from attnprobe.workflows.check import size_text

    lengths = report.lengths
    timed = ", ".join(f"{t.seconds:.2g} s at {t.n_tokens} tokens" for t in report.timings)
    facts = {
        "records": report.n_records,
        "tokens": f"{lengths.n_tokens.sum()} ({lengths.n_steps.sum()} of them predicted)",
        "longest record": f"{lengths.n_tokens.max()} tokens",
        "time": f"{_duration(report.seconds)} ({timed})",
        "disk": f"{size_text(report.n_bytes)} ({', '.join(report.settings.keep)} as "
        f"{report.settings.encoding})",
        "free": size_text(report.free_bytes),
    }
    if report.settings.attribute:
        facts["attributions"] = ", ".join(report.settings.attribute)
    if report.n_uncut:
        facts["cut by no rule"] = f"{report.n_uncut} records"
    return [{"what": what, "value": value} for what, value in facts.items()]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    if seconds < 5400:
        return f"{seconds / 60:.2g} min"
    return f"{seconds / 3600:.3g} h"
