"""Figure → file, the same bytes every time."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from attnprobe.errors import FigureError
from attnprobe.figures.fonts import already_warned

_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, editable
    "svg.hashsalt": "attnprobe",
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "pdf.compression": 6,
}
_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "png", "dpi": 300, "metadata": {"Software": None}},
    ".svg": {"format": "svg", "metadata": {"Date": None, "Creator": None}},
    ".pdf": {"format": "pdf", "metadata": {"CreationDate": None, "Creator": None}},
}


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure to a file of the kind that the suffix names: .png, .svg or .pdf.

    Args:
        figure: What `draw` returned.
        path: Where to; folders are made. A file that is there is replaced in one go.

    Returns:
        The path.

    Raises:
        FigureError: If the suffix is none of these.
    """
    path = Path(path)
    options = _OPTIONS.get(path.suffix.lower())
    if options is None:
        raise FigureError(
            "a figure is not written to this kind of file",
            where=str(path),
            got=f"suffix '{path.suffix}'",
            expected=" or ".join(_OPTIONS),
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    try:
        with mpl.rc_context(_SETTINGS), already_warned():
            figure.savefig(draft, **options)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path
