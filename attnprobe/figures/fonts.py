"""Fonts: every label gets its glyphs, or the reader is told which are missing."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from attnprobe.figures.cjk import from_extra

BASE = "DejaVu Sans"
"""Comes with matplotlib, so figures look the same everywhere."""
_CJK = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC",
    "Noto Sans CJK JP",
    "Droid Sans Fallback",
    "Arial Unicode MS",
)
"""Fonts with Chinese glyphs, the plainest first."""
_NO_GLYPHS = ("Last Resort",)
"""Fonts that cover everything with boxes that say only which glyph is missing."""


def families(texts: Iterable[str]) -> list[str]:
    """Choose fonts that hold every character, the base font first.

    What no installed font has is taken from the extra `cjk`, where that is installed.

    Args:
        texts: All that will be drawn.

    Returns:
        Font families in the order in which to look for a glyph.

    Warns:
        UserWarning: Once, if no installed font has some of the characters.
    """
    missing = {sign for text in texts for sign in text if sign.isprintable()}
    chosen: list[str] = []
    for family in (BASE, *_candidates()):
        found = missing & _glyphs(family) if missing else set()
        if found or family == BASE:
            chosen.append(family)
            missing -= found
        if not missing:
            return chosen
    family, missing = from_extra(missing)
    if family:
        chosen.append(family)
    if missing:
        _warn_once("".join(sorted(missing)))
    return chosen


@cache
def _warn_once(missing: str) -> None:
    warnings.warn(
        f"no installed font has the characters {missing[:12]!r}, which will be drawn as boxes; "
        "install a font that has them (for Chinese: pip install 'attnprobe[cjk]', or on Debian "
        "apt install fonts-noto-cjk) and draw again",
        UserWarning,
        stacklevel=4,
    )


def _candidates() -> list[str]:
    """List installed families, those known to hold Chinese first."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    rest = sorted(
        name
        for name in installed - set(_CJK) - {BASE}
        if not name.startswith((*_NO_GLYPHS, "STIX", "cm", "DejaVu"))
    )
    return [name for name in _CJK if name in installed] + rest


@cache
def has_postscript_outlines(family: str) -> bool:
    """Tell whether a font draws its glyphs with CFF outlines, not TrueType ones."""
    try:
        path = font_manager.findfont(family, fallback_to_default=False)
    except ValueError:  # not installed here: the base font stands in
        return False
    return _sfnt_version(Path(path)) == b"OTTO"


def _sfnt_version(path: Path) -> bytes:
    """Read the four bytes that say how glyphs are drawn; in a collection, its first face's."""
    with path.open("rb") as stream:
        version = stream.read(4)
        if version == b"ttcf":
            stream.seek(12)
            stream.seek(int.from_bytes(stream.read(4), "big"))
            version = stream.read(4)
    return version


@cache
def _glyphs(family: str) -> frozenset[str]:
    path = font_manager.findfont(family, fallback_to_default=False)
    # A collection (.ttc) is read by its first face; the faces of one family hold the same signs.
    return frozenset(map(chr, FT2Font(path).get_charmap()))


@contextmanager
def already_warned() -> Iterator[None]:
    """Silence matplotlib's warning per missing glyph, after `families` has said it once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
