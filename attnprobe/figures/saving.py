"""Figure → file, the same bytes every time."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

from attnprobe.errors import FigureError
from attnprobe.figures.cjk import face_rule
from attnprobe.figures.fonts import already_warned, has_postscript_outlines

_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, editable
    "svg.hashsalt": "attnprobe",
    "pdf.compression": 6,
}
_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "png", "dpi": 300, "metadata": {"Software": None}},
    ".svg": {"format": "svg", "dpi": 300, "metadata": {"Date": None, "Creator": None}},
    ".pdf": {"format": "pdf", "dpi": 300, "metadata": {"CreationDate": None, "Creator": None}},
}


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure to a file of the kind that the suffix names: .png, .svg or .pdf.

    Args:
        figure: What `draw` returned.
        path: Where to; folders are made. A file that is there is replaced in one go.

    Returns:
        The path.

    Raises:
        FigureError: If the suffix is none of these, or the file cannot be written.
    """
    path = check_figure_name(path)
    options = _OPTIONS[path.suffix.lower()]
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(_SETTINGS | {"pdf.fonttype": _pdf_font(figure)}), already_warned():
            figure.savefig(draft, **options)
        if options["format"] == "svg":
            _carry_fonts(draft, figure)
        draft.replace(path)
    except OSError as error:
        raise FigureError(
            f"cannot write the figure ({error.strerror or error})", where=str(path),
            fix="name another file",
        ) from error  # fmt: skip
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return path


def check_figure_name(path: str | Path) -> Path:
    """Return the path of a figure.

    Raises:
        FigureError: If its suffix is none that a figure is written to.
    """
    path = Path(path)
    if path.suffix.lower() not in _OPTIONS:
        raise FigureError(
            "a figure is not written to this kind of file", where=str(path),
            got=f"suffix '{path.suffix}'", expected=" or ".join(_OPTIONS),
        )  # fmt: skip
    return path


def _pdf_font(figure: Figure) -> int:
    """Choose how fonts go into a PDF: TrueType (42), which journals ask for, where that works.

    Fonts with PostScript outlines, such as Noto CJK, would leave blanks that way; their glyphs are
    drawn instead (Type 3).
    """
    return 3 if any(map(has_postscript_outlines, _families(figure))) else 42


def _families(figure: Figure) -> set[str]:
    return {family for text in figure.findobj(Text) for family in text.get_fontfamily()}


def _carry_fonts(svg: Path, figure: Figure) -> None:
    """Put fonts that were cut for this figure into the SVG, since no reader has them installed."""
    rules = {family: rule for family in sorted(_families(figure)) if (rule := face_rule(family))}
    if rules:
        text = svg.read_text(encoding="utf-8")
        for family in rules:
            # First, or Chromium looks for the first sign among the fonts of the machine alone. It
            # holds what the fonts before it lack, so no other sign changes.
            pattern = rf"(font(?:-family)?: (?:[\d.]+px )?)([^;\"]+), '{re.escape(family)}'"
            text = re.sub(pattern, rf"\1'{family}', \2", text)
        style = f"<style>{''.join(rules.values())}</style>"
        svg.write_text(text.replace("<defs>", f"<defs>{style}", 1), encoding="utf-8")
