"""A few figures, pixel by pixel, so that no change of looks goes unseen.

Where a change is meant, look at the new images and keep them:
`pytest tests/test_figure_images.py -n 0 --mpl-generate-path=tests/images`.
"""

import matplotlib as mpl
import pytest

from attnprobe.figures import draw_any
from tests.test_all_figures import KINDS, WORDS

COMPARED = pytest.mark.mpl_image_compare(
    baseline_dir="images", style="default", tolerance=4, savefig_kwargs={"dpi": 100}
)
"""Tolerance: root mean square of pixels from 0 to 255, room for rounding of other machines."""


@pytest.fixture(autouse=True)
def no_hinting():
    """Draw glyphs as they are outlined: hinting differs between builds of FreeType."""
    with mpl.rc_context({"text.hinting": "none"}):
        yield


@COMPARED
def test_heads():
    return draw_any(KINDS["heads"](WORDS["en"]))


@COMPARED
def test_map_of_steps():
    return draw_any(KINDS["map of steps"](WORDS["en"]))


@COMPARED
def test_steps():
    return draw_any(KINDS["steps"](WORDS["en"]))


@COMPARED
def test_text():
    return draw_any(KINDS["text"](WORDS["en"]))


@COMPARED
def test_curves():
    return draw_any(KINDS["curves"](WORDS["en"]))
