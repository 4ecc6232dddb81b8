"""Tokens along the axes of a figure: their texts where there is room, and brackets for segments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import (
    Affine2D,
    ScaledTranslation,
    Transform,
    blended_transform_factory,
)

from attnprobe.figures.looks import Look
from attnprobe.panels.tokens import TokenAxis, glyph_width
from attnprobe.types import Span

Side = Literal["x", "y"]

UNNAMED = ("template", "special")
"""Roles whose brackets carry no name: they are many, short, and rarely the question."""
UNNAMED_NOTE = "Grey brackets without a name: template and special tokens."
_SMALLEST = 0.6
"""Size of token labels below which positions are written instead, as a share of the look's."""
_INK, _QUIET = "#404040", "#b0b0b0"


def draw_tokens(axes: Axes, tokens: TokenAxis, side: Side, look: Look) -> float:
    """Write tokens below (x) or left of (y) the axes, and bracket segments above or to the right.

    Token i takes the data interval [i, i + 1]. Every token is labelled where the labels stay
    readable; else positions are written, at round numbers. Call it again when the axes have
    changed size: what it drew before is replaced.

    Args:
        axes: Where to; their limits and place must be set.
        tokens: The tokens along this side.
        side: `x` or `y`.
        look: Sizes of type.

    Returns:
        How far brackets and names reach beyond the axes, in points; a title goes above them.
    """
    for artist in list(axes.get_children()):
        if artist.get_gid() == f"tokens-{side}":
            artist.remove()
    points = _length(axes, side)
    _ticks(axes, tokens, side, look, points / len(tokens))
    _brackets(axes, tokens, side, look, points)
    return _depth(axes, side, 0.6 * look.font)


def _depth(axes: Axes, side: Side, least: float) -> float:
    box, names = axes.get_window_extent(), [least * axes.figure.dpi / 72]
    for artist in axes.texts:
        if artist.get_gid() == f"tokens-{side}":
            words = artist.get_window_extent()
            names.append(words.y1 - box.y1 if side == "x" else words.x1 - box.x1)
    return max(names) * 72 / axes.figure.dpi


def _length(axes: Axes, side: Side) -> float:
    """Length of one side of the axes, in points."""
    box = axes.get_window_extent()
    return (box.width if side == "x" else box.height) * 72 / axes.figure.dpi


def _ticks(axes: Axes, tokens: TokenAxis, side: Side, look: Look, each: float) -> None:
    size = min(0.9 * look.font, 0.92 * each)
    axis = axes.xaxis if side == "x" else axes.yaxis
    if size >= _SMALLEST * look.font:
        places = [(label.start + label.stop) / 2 for label in tokens.labels]
        texts = [label.text for label in tokens.labels]
        name = tokens.name
    else:
        size = 0.85 * look.font
        step = _round_step(3.2 * size / each)
        shown = [i for i, position in enumerate(tokens.positions) if position % step == 0]
        places = [i + 0.5 for i in shown]
        texts = [str(tokens.positions[i]) for i in shown]
        name = f"{tokens.name}, by position"
    axis.set_ticks(places, texts, fontsize=size, rotation=0, parse_math=False)
    if side == "x" and name == tokens.name:  # what is wider than its cell stands upright
        for shown, label in zip(axis.get_ticklabels(), tokens.labels, strict=True):
            room = (label.stop - label.start) * each
            wide = 0.6 * size * sum(map(glyph_width, label.text)) > room
            shown.set_rotation(90 if wide and len(label.text) > 1 else 0)
    axis.set_tick_params(length=0.2 * look.font, pad=0.15 * look.font)
    axis.set_label_text(name)


def _round_step(needed: float) -> int:
    """Round the distance between positions up to a number that is easy to count by."""
    steps = (factor * 10**power for power in range(7) for factor in (1, 2, 5))
    return next((step for step in steps if step >= needed), 10**7)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Turns (place along the side in tokens, distance from the axes in points) into pixels."""

    axes: Axes
    side: Side

    @property
    def transform(self) -> Transform:
        """The transform, good for any size and resolution of the figure."""
        axes, figure = self.axes, self.axes.figure
        corner: Any = axes.transAxes
        edge = ScaledTranslation(*((0, 1) if self.side == "x" else (1, 0)), corner)
        outwards = Affine2D().scale(1 / 72) + figure.dpi_scale_trans + edge
        if self.side == "x":
            return blended_transform_factory(axes.transData, outwards)
        return blended_transform_factory(outwards, axes.transData)

    def add(self, artist: Artist) -> None:
        artist.set_gid(f"tokens-{self.side}")
        artist.set_clip_on(False)
        if isinstance(artist, Line2D):
            self.axes.add_line(artist)
        else:
            self.axes.add_artist(artist)

    def line(self, along: Sequence[float], away: Sequence[float], colour: str, look: Look) -> None:
        x, y = (along, away) if self.side == "x" else (away, along)
        self.add(
            Line2D(x, y, transform=self.transform, color=colour, linewidth=look.line * 1.4,
                   solid_capstyle="butt")
        )  # fmt: skip

    def name(self, along: float, away: float, words: str, size: float, upright: bool) -> None:
        x, y = (along, away) if self.side == "x" else (away, along)
        across = "center" if self.side == "x" else "left"
        down = "bottom" if self.side == "x" else "center"
        self.add(
            Text(x, y, words, transform=self.transform, fontsize=size, color=_INK, ha=across,
                 va=down, rotation=90 if upright else 0, parse_math=False)
        )  # fmt: skip


def _brackets(axes: Axes, tokens: TokenAxis, side: Side, look: Look, points: float) -> None:
    frame, each = _Frame(axes, side), points / len(tokens)
    near, far = 0.25 * look.font, 0.6 * look.font
    for span in tokens.spans:
        gap = min(0.08 * len(span), 0.6 / each)
        ends = span.start + gap, span.stop - gap
        colour = _QUIET if span.role in UNNAMED else _INK
        if colour == _QUIET:
            frame.line(ends, (far, far), colour, look)
        else:
            frame.line((ends[0], *ends, ends[1]), (near, far, far, near), colour, look)
    named = [span for span in tokens.spans if span.role not in UNNAMED]
    size = 0.85 * look.font
    flat = side == "x" and _fit_flat(axes, named, size, each)
    spacing = 0.0 if flat else 1.15 * size
    named = _most_important(named, points, spacing)
    wanted = np.array([(span.start + span.stop) / 2 * each for span in named])
    placed = wanted if flat else spread(wanted, spacing, points)
    for span, at, middle in zip(named, placed, wanted, strict=True):
        moved = abs(at - middle) > 0.3
        away = far + (0.9 if moved else 0.25) * look.font
        if moved:
            frame.line(
                (middle / each, at / each), (far, away - 0.1 * look.font), _QUIET, look
            )  # fmt: skip
        frame.name(at / each, away, span.role, size, upright=side == "x" and not flat)


def _fit_flat(axes: Axes, named: Sequence[Span], size: float, each: float) -> bool:
    """Whether every name is narrower than its bracket."""
    return all(0.6 * size * sum(map(glyph_width, span.role)) < len(span) * each for span in named)


def _most_important(named: Sequence[Span], points: float, spacing: float) -> list[Span]:
    """Leave out the names of the shortest segments where there is no room for all."""
    room = int(points / spacing) if spacing else len(named)
    longest = sorted(named, key=len, reverse=True)[: max(room, 1)]
    return [span for span in named if span in longest]


def spread(wanted: np.ndarray, spacing: float, length: float) -> np.ndarray:
    """Move places apart as little as needed.

    Args:
        wanted: Ascending places within `[0, length]`.
        spacing: Least distance between two.
        length: Of the side; there must be room for all.

    Returns:
        Ascending places at least `spacing` apart, half of it from the ends.
    """
    if not len(wanted):
        return wanted
    # Least squares under order: pool neighbours that are too close, as isotonic regression does.
    free = wanted - spacing * np.arange(len(wanted))
    blocks: list[tuple[float, int]] = []
    for place in free:
        blocks.append((float(place), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (one, n_one), (two, n_two) = blocks[-2:]
            blocks[-2:] = [((one * n_one + two * n_two) / (n_one + n_two), n_one + n_two)]
    pooled = np.concatenate([np.full(count, place) for place, count in blocks])
    last = length - spacing / 2 - spacing * (len(wanted) - 1)
    return np.clip(pooled, min(spacing / 2, last), last) + spacing * np.arange(len(wanted))
