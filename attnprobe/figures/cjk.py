"""The extra `cjk`: Noto Sans CJK, cut down to the signs of a figure.

The package ships one variable font whose default is its thinnest weight, and matplotlib draws
variable fonts at their default. So the needed signs are cut out at the regular weight.
"""

import atexit
import base64
import hashlib
import importlib.util
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib import font_manager

PACKAGE, FILE = "manimgx_fonts_cjk", "NotoSansCJK-VF.otf.ttc"
FACE = 2
"""Simplified Chinese, among the five faces of the file."""
NAME = "Noto Sans CJK SC"
WEIGHT = 400


def from_extra(signs: Iterable[str]) -> tuple[str | None, set[str]]:
    """Make a font of some signs available to matplotlib.

    Args:
        signs: What no other font has.

    Returns:
        The family (None if the extra is not installed or has none of the signs), and the signs it
        lacks as well.
    """
    wanted, source = set(signs), font_file()
    if source is None or not wanted:
        return None, wanted
    there = wanted & _charmap(source)
    return (_cut(source, "".join(sorted(there))) if there else None), wanted - there


def font_file() -> Path | None:
    """Find the font of the extra; None where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    folders = (found.submodule_search_locations or []) if found else []
    files = [Path(folder) / FILE for folder in folders]
    return next((file for file in files if file.is_file()), None)


def face_rule(family: str) -> str | None:
    """Return the CSS rule that carries a cut font within an SVG; None for other fonts."""
    if family not in _FILES:
        return None
    data = base64.b64encode(_FILES[family].read_bytes()).decode("ascii")
    return f'@font-face{{font-family:"{family}";src:url(data:font/otf;base64,{data})}}'


_FILES: dict[str, Path] = {}
"""The file of each cut font, by family."""


@cache
def _charmap(source: Path) -> frozenset[str]:
    with _face(source) as font:
        return frozenset(map(chr, font.getBestCmap()))


def _face(source: Path) -> Any:
    from fontTools.ttLib import TTFont

    return TTFont(source, fontNumber=FACE, lazy=True, recalcTimestamp=False)


@cache
def _cut(source: Path, signs: str) -> str:
    """Write a static font with these signs alone and register it under a family of its own.

    The same signs give the same font, whatever was drawn before, and so the same figure.
    """
    from fontTools import subset
    from fontTools.varLib import instancer

    family = f"{NAME} {hashlib.sha256(signs.encode()).hexdigest()[:8]}"
    path = _folder() / f"{family.replace(' ', '-')}.otf"
    options = subset.Options(layout_features=[], notdef_outline=True, recalc_timestamp=False)
    options.drop_tables += ["GSUB", "GPOS", "BASE", "VORG", "vhea", "vmtx", "VVAR"]
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=signs)
    with _face(source) as font:
        subsetter.subset(font)
        instancer.instantiateVariableFont(font, {"wght": WEIGHT}, inplace=True)
        for number in (1, 4, 16):
            font["name"].setName(family, number, 3, 1, 0x409)
        font["name"].setName(family.replace(" ", ""), 6, 3, 1, 0x409)
        font.save(path)
    font_manager.fontManager.addfont(path)
    _FILES[family] = path
    return family


@cache
def _folder() -> Path:
    """Make a folder for cut fonts that goes when Python ends."""
    folder = tempfile.TemporaryDirectory(prefix="attnprobe-fonts-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return Path(folder.name)
