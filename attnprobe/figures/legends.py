"""How lines and areas look, and the legend that names them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from attnprobe.figures.bars import SERIES
from attnprobe.figures.looks import POINT, Look
from attnprobe.panels.lines import Line, LinePanel

COLOURS = (*SERIES, "#999999", "#000000")
"""Colours of lines, told apart with every common colour blindness."""
_AREAS = (*SERIES, "#f0e442", "#999999", "#000000")
"""Colours of areas: yellow can be seen as well where it covers something."""
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (8, 2)))
"""Patterns, so that lines can be told apart without colour as well."""
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx")
"""Of areas beyond the last colour."""


@dataclass(frozen=True, slots=True)
class Ink:
    """How lines of one label look."""

    colour: str
    dash: Any
    hatch: str


def inks_of(panels: Sequence[LinePanel]) -> dict[str, Ink]:
    """Give every label its colour and pattern.

    Of areas the largest come first, so that hatches are left for the smallest.
    """
    lines = {line.label: line for panel in panels for line in panel.lines}
    order, colours = list(lines.values()), COLOURS
    if any(panel.stacked for panel in panels):
        order.sort(key=lambda line: -_largest(line.label, panels))
        colours = _AREAS
    hues = _numbered(line.hue or line.label for line in order)
    dashes = _numbered(line.dash or line.label for line in lines.values() if _has_dash(line))
    return {
        label: Ink(
            colours[hues[line.hue or label] % len(colours)],
            _DASHES[dashes[line.dash or label] % len(_DASHES)] if _has_dash(line) else _DASHES[0],
            _HATCHES[hues[line.hue or label] // len(colours) % len(_HATCHES)],
        )
        for label, line in lines.items()
    }


def _has_dash(line: Line) -> bool:
    """Whether a pattern tells something of a line: one known by its hue alone is solid."""
    return bool(line.dash or not line.hue)


def _largest(label: str, panels: Sequence[LinePanel]) -> float:
    shares = [line.y for panel in panels for line in panel.lines if line.label == label]
    return float(np.nanmax(np.concatenate(shares), initial=0.0))


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def add_legend(
    figure: Figure, panels: Sequence[LinePanel], inks: dict[str, Ink], look: Look
) -> None:
    """Name the lines once for all panels, in as many columns as fit."""
    handles = _handles(panels, inks, look)
    if len(handles) < 2:
        return
    size = 0.9 * look.font
    text = Text(0, 0, "", fontsize=size, figure=figure, parse_math=False)
    widest = 0.0
    for label in handles:
        text.set_text(label)
        widest = max(widest, text.get_window_extent().width * 72 / figure.dpi)
    each = widest + 4.2 * size  # the sample and the gaps
    n_columns = max(1, min(len(handles), int(figure.get_figwidth() / POINT // each)))
    legend = figure.legend(
        handles=list(handles.values()), loc="outside upper left", ncols=n_columns, fontsize=size,
        frameon=False, handlelength=2.2, columnspacing=1.2, borderaxespad=0.5, borderpad=0,
    )  # fmt: skip
    for words in legend.get_texts():
        words.set_parse_math(False)


def _handles(panels: Sequence[LinePanel], inks: dict[str, Ink], look: Look) -> dict[str, Artist]:
    """Make a sample for each name: of colours and of patterns where lines are grouped by both."""
    hues: dict[str, Artist] = {}
    dashes: dict[str, Artist] = {}
    for panel in panels:
        for line in panel.lines:
            ink = inks[line.label]
            name = line.hue if line.hue and line.dash else line.label
            if panel.stacked:
                sample: Artist = Patch(
                    facecolor=ink.colour, edgecolor="white", hatch=ink.hatch, linewidth=0,
                    label=name,
                )  # fmt: skip
            else:
                sample = _sample(
                    name, ink.colour, "-" if line.hue and line.dash else ink.dash, look
                )
            hues.setdefault(name, sample)
            if line.hue and line.dash:
                dashes.setdefault(line.dash, _sample(line.dash, "#606060", ink.dash, look))
    return hues | {name: sample for name, sample in dashes.items() if name not in hues}


def _sample(name: str, colour: str, dash: Any, look: Look) -> Artist:
    return Line2D([], [], color=colour, linestyle=dash, linewidth=2.2 * look.line, label=name)
