"""What a notebook shows of a panel: the figure itself."""

import base64
import html
import importlib
import io
from typing import Any

DPI = 150


def shown_in_notebook(panel: Any) -> str:
    """Draw a panel and return it as an `<img>` that holds its own PNG.

    Drawing comes after panels in the flow, so it is looked up only here, when a notebook asks.
    """
    figures = importlib.import_module("attnprobe.figures")
    figure = figures.draw_any(panel)
    stream = io.BytesIO()
    with figures.already_warned():
        figure.savefig(stream, format="png", dpi=DPI)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    title = html.escape(panel.title, quote=True)
    return f'<img alt="{title}" src="data:image/png;base64,{data}">'
