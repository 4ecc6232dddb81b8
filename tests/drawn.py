"""What a figure really draws: its texts and where they end up, with every glyph there."""

import itertools
from contextlib import contextmanager
from unittest import mock

from matplotlib.text import Text


def drawn_texts(figure):
    """Draw a figure and return (words, box in pixels) of each text that is drawn.

    A missing glyph is a warning of matplotlib, which fails the test.
    """
    with recorded() as texts:
        figure.canvas.draw()
    return [(text.get_text(), text.get_window_extent()) for text in dict.fromkeys(texts)]


@contextmanager
def recorded():
    """Note each text that is drawn; ticks beyond the axes exist, but are not."""
    texts, draw = [], Text.draw

    def noted(self, renderer):
        if self.get_visible() and self.get_text().strip():
            texts.append(self)
        return draw(self, renderer)

    with mock.patch.object(Text, "draw", noted):
        yield texts


def faults(figure, slack=1.0):
    """Name texts that are cut by the edge of the page, and pairs of texts that overlap."""
    page, texts = figure.bbox, drawn_texts(figure)
    cut = [
        words
        for words, box in texts
        if box.x0 < page.x0 - slack or box.x1 > page.x1 + slack
        or box.y0 < page.y0 - slack or box.y1 > page.y1 + slack
    ]  # fmt: skip
    overlapping = [
        (words, others)
        for (words, box), (others, other) in itertools.combinations(texts, 2)
        if min(box.x1, other.x1) - max(box.x0, other.x0) > slack
        and min(box.y1, other.y1) - max(box.y0, other.y0) > slack
    ]
    return {"cut": cut, "overlapping": overlapping}
