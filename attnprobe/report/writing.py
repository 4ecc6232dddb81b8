"""A report: the page of a run in one file, thinned to a size that can be sent by mail."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attnprobe.errors import ReportError
from attnprobe.report.findings import Notice
from attnprobe.report.maps import Budget, choose_maps, strongest
from attnprobe.report.page import embedded, page_html
from attnprobe.report.payload import Payload

RECORDS_SHARE, HEADS_SHARE = 0.2, 0.6
"""Share of the tables' budget that the table of records may take, and that may be used up after
the heads; the rest is for texts."""
DENSEST = 12
"""Text that is compressed shrinks by less than this: more need not be looked at."""


def write_report(
    payload: Payload,
    out: str | Path,
    budget: Budget | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the page of a run as one HTML file that needs nothing else, not even a network.

    Args:
        payload: What there is to show, of a run that is open.
        out: The file, `.html`; one that is there is replaced in one go.
        budget: How much it may hold; what is left out is said on the page.
        on_progress: Called with records read and records in all.

    Returns:
        The path.

    Raises:
        ReportError: If the name does not end in `.html`.
    """
    path, budget = Path(out), budget or Budget()
    if path.suffix.lower() not in (".html", ".htm"):
        raise ReportError(
            "a report is not written to this kind of file", where=str(path),
            got=f"suffix '{path.suffix}'", expected=".html",
        )  # fmt: skip
    text = report_html(payload, budget, on_progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise ReportError(
            f"cannot write the report ({error.strerror or error})", where=str(path),
            fix="name another file",
        ) from error  # fmt: skip
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return path


def report_html(
    payload: Payload,
    budget: Budget | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Return the page of a run with everything inside (see `write_report`)."""
    budget = budget or Budget()
    maps, notices = choose_maps(payload, budget, on_progress)
    pieces = {
        "records": _records(payload, RECORDS_SHARE * budget.tables, notices),
        "heads": _heads(payload, HEADS_SHARE * budget.tables, notices),
    }
    room = float(budget.tables - sum(map(len, pieces.values())))
    pieces["texts"] = _texts(payload, list(maps.index), room, notices)
    pieces["maps"] = embedded("maps", maps.index)
    overview = payload.overview()
    overview["notices"] += [notice.to_json() for notice in notices]
    title = f"attnprobe: {payload.run.path.name}"
    return page_html(title, {"overview": embedded("overview", overview), **pieces, **maps.elements})


def _records(payload: Payload, limit: float, notices: list[Notice]) -> str:
    table = payload.records()
    n_all = len(table["id"])

    def some(count: int) -> dict[str, Any]:
        return {name: column[:count] for name, column in table.items()}

    element, shown = _fitting("records", some, n_all, limit)
    if shown < n_all:
        notices.append(Notice("thinned_records", {"shown": shown, "all": n_all}))
    return element


def _heads(payload: Payload, limit: float, notices: list[Notice]) -> str:
    found = payload.heads()
    order = strongest(payload, len(found)) or list(found)

    def some(count: int) -> dict[str, Any]:
        return {f"{layer}.{head}": found[layer, head] for layer, head in order[:count]}

    element, shown = _fitting("heads", some, len(order), limit)
    if shown < len(order):
        notices.append(Notice("thinned_heads", {"shown": shown, "all": len(order)}))
    return element


def _texts(payload: Payload, first: Sequence[str], limit: float, notices: list[Notice]) -> str:
    """Write the texts of all records, or of those with maps and as many more as there is room."""
    every = [str(name) for name in payload.run.records.index]
    texts: dict[str, Any] = {}
    size = 0
    for name in dict.fromkeys([*first, *every]):
        texts[name] = payload.record(name)
        size += len(json.dumps(texts[name]))
        if size > DENSEST * limit:
            break
    names = list(texts)

    def some(count: int) -> dict[str, Any]:
        return {name: texts[name] for name in names[:count]}

    element, shown = _fitting("texts", some, len(names), limit)
    if shown < len(every):
        notices.append(Notice("thinned_texts", {"shown": shown, "all": len(every)}))
    return element


def _fitting(name: str, some: Callable[[int], Any], count: int, limit: float) -> tuple[str, int]:
    """Write as much of a piece as fits; none of it where not even a little does."""
    element = embedded(name, some(count))
    while count and len(element) > limit:
        count = min(count - 1, int(0.95 * count * limit / len(element)))
        element = embedded(name, some(count))
    return element, count
