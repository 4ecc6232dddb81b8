"""bertviz's views as one HTML file that opens offline and asks nobody for anything."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from attnprobe.errors import ReportError
from attnprobe.report.head_views import VIEWS, HeadView, ViewSettings, head_views
from attnprobe.report.scripts import find_script

_MARKER = "PYTHON_PARAMS"
"""What bertviz's scripts have in the place of their data."""
_TITLES = {"head": "Head view", "model": "Model view"}
_HINTS = {
    "head": "A layer at a time. Hover over a token to see where it looks, or who looks at it. "
    "Coloured boxes are the heads: click to hide or show one, double-click to show it alone.",
    "model": "Every chosen layer and head. Click one to enlarge it; hover over a token on the "
    "left of it.",
}


def save_bertviz(
    run: Any, ids: Sequence[str], path: str | Path, settings: ViewSettings | None = None
) -> Path:
    """Write bertviz's head view and model view of records to an HTML file.

    Args:
        run: An open run.
        ids: The records, to be set side by side (see `panels.item_records`).
        path: The file, ending in .html; folders are made. One that is there is replaced.
        settings: Which views, layers and heads.

    Returns:
        The path.

    Raises:
        ReportError: If the file's name does not end in .html.
        MeasureError: If the run holds no attention rows.
        SelectionError: If a record, layer or head is not there, or there is too much of it.
    """
    path, settings = Path(path), settings or ViewSettings()
    if path.suffix.lower() not in (".html", ".htm"):
        raise ReportError(
            "a page is not written to this kind of file", where=str(path),
            got=f"suffix '{path.suffix}'", expected=".html",
        )  # fmt: skip
    page = bertviz_page(head_views(run, ids, settings), settings.views)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(page, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def bertviz_page(shown: Sequence[HeadView], views: Sequence[str] = tuple(VIEWS)) -> str:
    """Write the page, with the scripts and the weights in it."""
    style = _asset("bertviz.css")
    texts = [("", find_script(name).text()) for name in ("jQuery", "D3")]
    texts.append(("", _asset("bertviz.js")))
    texts += [(view, _view_script(view)) for view in views]
    texts.append(("", "attnprobe.start();"))
    policy = (
        f"default-src 'none'; script-src {' '.join(_hash(text) for _, text in texts)}; "
        f"style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    title = html.escape(f"{', '.join(view.title for view in shown)}: attention")
    scripts = "\n".join(_script(text, view) for view, text in texts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{_notes(shown)}</p>
{"".join(_section(view, shown, number == 0) for number, view in enumerate(views))}
<footer>{_licences(views)}</footer>
<script type="application/json" id="attnprobe-data">{_embedded(shown)}</script>
{scripts}
</body>
</html>
"""


def _section(view: str, shown: Sequence[HeadView], opened: bool) -> str:
    layer = '<label>Layer: <select id="layer"></select></label>' if view == "head" else ""
    figures = "".join(
        f"<figure><figcaption>{html.escape(one.title)}</figcaption>"
        f'<div class="bertviz" id="{view}-{number}">{layer}<div id="vis"></div></div></figure>'
        for number, one in enumerate(shown)
    )
    heads = ", ".join(map(str, shown[0].heads)) if shown else ""
    which = f" The boxes, from the left: head {heads}." if view == "head" else ""
    return (
        f'<details data-view="{view}"{" open" if opened else ""}>'
        f"<summary>{_TITLES[view]}</summary><p>{_HINTS[view]}{which}</p>"
        f'<div class="records">{figures}</div></details>\n'
    )


def _notes(shown: Sequence[HeadView]) -> str:
    notes = dict.fromkeys(view.note for view in shown)
    return html.escape(" ".join(notes))


def _licences(views: Sequence[str]) -> str:
    """Name what the page carries of others."""
    found = [find_script(name) for name in ("jQuery", "D3", *(VIEWS[view] for view in views))]
    told = (f"{one.name} (© {one.author}, {one.licence})" for one in found)
    return html.escape(f"Drawn by {', '.join(told)}.")


def _embedded(shown: Sequence[HeadView]) -> str:
    """Write the weights as JSON that no record's text can break out of."""
    data = [
        {
            "texts": view.texts,
            "places": view.places.tolist(),
            "first": view.first.tolist(),
            "last": view.last.tolist(),
            "layers": view.layers,
            "heads": view.heads,
            "codes": base64.b64encode(_codes(view.weights)).decode("ascii"),
        }
        for view in shown
    ]
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _codes(weights: np.ndarray) -> bytes:
    """Code weights as runs do: w = (code / 65535)², little-endian."""
    return np.rint(np.sqrt(weights) * 65535).astype("<u2").tobytes()


def _view_script(view: str) -> str:
    """Let a script of bertviz take its data from the page."""
    text = find_script(VIEWS[view]).text()
    if f"const params = {_MARKER};" not in text:
        raise ReportError(
            "this version of bertviz takes its data in another way",
            where=find_script(VIEWS[view]).path, expected=f"const params = {_MARKER};",
            fix="pip install 'bertviz==1.4.1'",
        )  # fmt: skip
    return text.replace(_MARKER, "attnprobe.params")


def _script(text: str, view: str) -> str:
    if "</script" in text.lower():
        raise ReportError("a script would end within the page", got=text[:60])
    mark = f' data-view="{view}"' if view else ""
    return f"<script{mark}>{text}</script>"


def _hash(text: str) -> str:
    """Name a script or style in the page's policy; nothing else may run."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _asset(name: str) -> str:
    return (files("attnprobe.report") / "assets" / name).read_text(encoding="utf-8")
