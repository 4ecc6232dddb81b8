"""The page as HTML: everything inside one file, and a policy that lets it ask for nothing."""

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

SCRIPTS = (
    "source.js", "draw.js", "text.js", "state.js", "verdict.js", "heads.js", "records.js",
    "reading.js", "page.js",
)  # fmt: skip
"""The page's own code, in the order in which its parts need each other."""
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def page_html(title: str, pieces: Mapping[str, str] | None = None) -> str:
    """Put the page together.

    Args:
        title: Shown by the browser's tab; any text.
        pieces: Embedded pieces (elements, as `embedded` writes them) by name; None for a page that
            asks its own server for them, at `api/…` below its own address.

    Returns:
        HTML whose content security policy forbids every request (or all but those to its own
        server), and every script but the two that it holds.
    """
    library, script = _in_element(_library()), _in_element(_script())
    served = pieces is None
    policy = {
        "default-src": "'none'",
        "script-src": f"{_hashed(library)} {_hashed(script)}",
        "style-src": "'unsafe-inline'",  # plotly sets styles on the elements that it draws
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    } | ({"connect-src": "'self'"} if served else {})
    words = embedded("words", json.loads(_asset("words.json")), packed=False)
    parts = {
        "csp": html.escape("; ".join(f"{name} {value}" for name, value in policy.items())),
        "source": "served" if served else "embedded",
        "title": html.escape(title),
        "style": _asset("page.css"),
        "pieces": "\n".join([words, *(pieces or {}).values()]),
        "library": library,
        "script": script,
    }
    return PLACEHOLDER.sub(lambda found: parts[found[1]], _asset("page.html"))


def embedded(name: str, piece: Any, *, packed: bool = True) -> str:
    """Write a piece as an element of the page.

    What is packed is compressed and in base64; else every `<` is written as an escape, so that no
    text of a record can end the element.
    """
    text = json.dumps(piece, ensure_ascii=not packed, allow_nan=False, separators=(",", ":"))
    if packed:
        body = base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")
    else:
        body = text.replace("<", "\\u003c")
    coding = ' data-coding="deflate"' if packed else ""
    return (
        f'<script type="application/json" data-piece="{html.escape(name)}"{coding}>{body}</script>'
    )


@cache
def _library() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


@cache
def _asset(name: str) -> str:
    return (files("attnprobe.report") / "assets" / name).read_text(encoding="utf-8")


def _script() -> str:
    body = "\n".join(_asset(name) for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{body}\n}})();'


def _in_element(script: str) -> str:
    """Write a script so that nothing in it ends its element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _hashed(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
