"""Texts on coloured ground → figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from attnprobe.errors import FigureError
from attnprobe.figures.drawing import settings
from attnprobe.figures.fitting import wrap
from attnprobe.figures.fonts import already_warned, families
from attnprobe.figures.looks import DIVERGING, MM, POINT, Look, find_look
from attnprobe.figures.scales import bar_ticks, diverging_norm
from attnprobe.figures.tokens import UNNAMED
from attnprobe.panels.cells import find_scale
from attnprobe.panels.texts import TextPanel
from attnprobe.panels.tokens import shortened

_LINE = 1.75
"""Distance of lines, in sizes of type."""
_ROLES = 9.0
"""Room for the names of segments beside the text, in sizes of type."""
_SHOWN_ROLE = 16
"""Glyphs of a segment's name."""


def draw_texts(
    panels: TextPanel | Sequence[TextPanel], look: str = "paper", width_mm: float | None = None
) -> Figure:
    """Draw texts one below the other, each token on the ground of its value's colour.

    Every segment begins a line, with its name beside it; line breaks of the text are kept.
    Template and special tokens stand with the segment before them.
    Template and special tokens stand with the segment before them.

    Args:
        panels: What `attribution_texts` returned.
        look: One of `LOOKS`.
        width_mm: Width of the figure; by the look if None.

    Returns:
        A figure with a canvas of its own, to be saved with `save`.

    Raises:
        FigureError: If there is no text, no such look, or no room.
    """
    panels = [panels] if isinstance(panels, TextPanel) else list(panels)
    style = find_look(look)
    if not panels:
        raise FigureError("there is no text to draw", expected="one or more")
    width = (width_mm or style.wide_mm) * MM
    with mpl.rc_context(settings(style, families(_texts(panels)))), already_warned():
        figure = Figure(figsize=(width, width))
        FigureCanvasAgg(figure)
        sheet = _Sheet(figure, style, width / POINT)
        if sheet.room < 12 * style.font:
            raise FigureError(
                "there is no room left for the text", got=f"a width of {width / MM:.0f} mm",
                fix="ask for a greater width (width_mm)",
            )  # fmt: skip
        for panel in panels:
            sheet.write(panel)
        sheet.close(panels)
    return figure


def _texts(panels: Sequence[TextPanel]) -> list[str]:
    texts = ["+−…", find_scale(panels[0].scale)]
    for panel in panels:
        texts += [panel.title, panel.name, panel.unit, panel.note]
        texts += [word.text for word in panel.words]
        texts += [span.role for span in panel.spans]
    return texts


@dataclass(frozen=True, slots=True)
class _Piece:
    """A word, or a part of one that is wider than a line, at its place."""

    text: str
    x: float
    line: int
    width: float
    word: int


class _Sheet:
    """A page that is written from the top, in points; its height follows from what is on it."""

    def __init__(self, figure: Figure, look: Look, width: float) -> None:
        self.figure, self.look, self.width = figure, look, width
        self.left = _ROLES * look.font
        self.room = width - self.left - look.font
        self.axes: Axes = figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self.axes.set_xlim(0, width)
        self.at = 0.6 * look.font
        """Points from the top that are taken."""
        self.widths: dict[str, float] = {}

    def write(self, panel: TextPanel) -> None:
        """Write one text: its title, then segment by segment."""
        look = self.look
        self._say(panel.title, 1.1 * look.font, 0.6 * look.font)
        colours, norm = colormaps[DIVERGING], diverging_norm(panel.limits, panel.scale)
        for pieces, role in self._segments(panel):
            self._text(0.6 * look.font, 0.5, shortened(role, _SHOWN_ROLE), 0.85 * look.font,
                       color="#606060")  # fmt: skip
            for piece in pieces:
                self._piece(piece, panel, colours, norm)
            self.at += (pieces[-1].line + 1) * _LINE * look.font
        self.at += look.font

    def close(self, panels: Sequence[TextPanel]) -> None:
        """Add the colour bar and the notes, and cut the page to what is on it."""
        look, panel = self.look, panels[0]
        top = self.at
        self.at += 5.2 * look.font
        for note in dict.fromkeys(panel.note for panel in panels if panel.note):
            self._say(note, 0.9 * look.font, 0.4 * look.font)
        height = self.at + 0.4 * look.font
        self.figure.set_size_inches(self.width * POINT, height * POINT)
        self.axes.set_ylim(height, 0)
        place = (self.left / self.width, 1 - (top + 1.4 * look.font) / height,
                 self.room / self.width, 0.7 * look.font / height)  # fmt: skip
        bar = self.figure.colorbar(
            ScalarMappable(diverging_norm(panel.limits, panel.scale), DIVERGING),
            cax=self.figure.add_axes(place), orientation="horizontal",
        )  # fmt: skip
        bar_ticks(bar, panel.limits, panel.scale, diverging=True, gap=4 * look.font / self.room)
        bar.set_label(f"{panel.name} ({panel.unit}, {find_scale(panel.scale)})")
        bar.outline.set(linewidth=look.line, edgecolor="#808080")  # type: ignore[operator]

    def _say(self, words: str, size: float, gap: float) -> None:
        """Write a paragraph over the whole width."""
        text = Text(0, 0, "", fontsize=size, figure=self.figure, parse_math=False)
        wrap(text, words, (self.width - 1.2 * self.look.font) * self.figure.dpi / 72)
        for line in text.get_text().split("\n"):
            self._text(0.6 * self.look.font, 0.5, line, size)
            self.at += 1.45 * size
        self.at += gap

    def _text(self, x: float, line: float, words: str, size: float, **more: Any) -> None:
        """Write into the middle of a line, counted from the current one."""
        y = self.at + line * _LINE * self.look.font
        self.axes.text(x, y, words, fontsize=size, va="center_baseline", parse_math=False, **more)

    def _segments(self, panel: TextPanel) -> list[tuple[list[_Piece], str]]:
        """Lay the words of each segment into lines."""
        segments: list[tuple[list[tuple[int, str]], str]] = []
        waiting: list[tuple[int, str]] = []
        for span in panel.spans:
            inside = [
                (i, word.text) for i, word in enumerate(panel.words)
                if span.start <= word.start < span.stop
            ]  # fmt: skip
            if span.role not in UNNAMED and inside:
                segments.append((waiting + inside, span.role))
                waiting = []
            elif segments:
                segments[-1][0].extend(inside)
            else:
                waiting += inside
        if waiting:
            segments.append((waiting, UNNAMED[0]))
        return [(self._laid(words), role) for words, role in segments]

    def _laid(self, words: Sequence[tuple[int, str]]) -> list[_Piece]:
        pieces, x, line = [], 0.0, 0
        for index, text in words:
            for part in self._parts(text):
                width = self._width(part)
                if x and x + width > self.room:
                    x, line = 0.0, line + 1
                pieces.append(_Piece(part, x, line, width, index))
                x += width
                if part.endswith("↵"):
                    x, line = 0.0, line + 1
        return pieces

    def _parts(self, text: str) -> list[str]:
        """Cut a word where the text has line breaks, and where it is wider than a line."""
        parts = []
        for stretch in text.replace("↵", "↵\n").split("\n"):
            while self._width(stretch) > self.room:
                fits = max(1, int(len(stretch) * self.room / self._width(stretch)) - 1)
                parts.append(stretch[:fits])
                stretch = stretch[fits:]
            if stretch:
                parts.append(stretch)
        return parts or [""]

    def _width(self, text: str) -> float:
        """Measure how far a text reaches, with the spaces at its ends, in points."""
        if text not in self.widths:
            renderer = self.figure.canvas.get_renderer()  # type: ignore[attr-defined]
            font = FontProperties(size=self.look.font)
            both, none = (
                renderer.get_text_width_height_descent(words, font, False)[0]
                for words in (f"|{text}|", "||")
            )
            self.widths[text] = (both - none) * 72 / self.figure.dpi
        return self.widths[text]

    def _piece(self, piece: _Piece, panel: TextPanel, colours: Colormap, norm: Normalize) -> None:
        """Colour the ground of a word, and write it; underline what is predicted."""
        look, value = self.look, panel.values[piece.word]
        x, middle = self.left + piece.x, piece.line + 0.5
        y = self.at + piece.line * _LINE * look.font
        ink = "black"
        if value == value:
            ground = colours(norm(value))
            ink = "white" if _is_dark(ground) else "black"
            self.axes.add_patch(
                Rectangle((x, y + 0.08 * look.font), piece.width, (_LINE - 0.16) * look.font,
                          facecolor=ground, edgecolor="none")
            )  # fmt: skip
        if piece.text.strip():
            lead = len(piece.text) - len(piece.text.lstrip(" "))
            indent = self._width(" ") * lead
            self._text(x + indent, middle, piece.text.strip(" "), look.font, color=ink)
        if panel.predicted[piece.word]:
            below = y + (_LINE - 0.12) * look.font
            self.axes.add_line(
                Line2D((x + 0.05 * look.font, x + piece.width - 0.05 * look.font), (below, below),
                       color="#404040", linewidth=1.6 * look.line)
            )  # fmt: skip


def _is_dark(colour: tuple[float, ...]) -> bool:
    red, green, blue = colour[:3]
    return bool(0.299 * red + 0.587 * green + 0.114 * blue < 0.45)
