import numpy as np
import pytest
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch

from attnprobe.errors import FigureError
from attnprobe.figures import draw_any, draw_lines
from attnprobe.panels import Line, LinePanel


def a_line(label="coarse", n=5, **more):
    x = np.arange(float(n))
    return Line(label, x, np.sqrt(x + 1), **more)


def a_panel(*lines, **more):
    return LinePanel(lines or (a_line(),), "title", "place", "value", "nat", **more)


def drawn(axes, label):
    return next(part for part in axes.lines if part.get_gid() == label)


def dashes(line):
    """The pattern of a line; `get_linestyle` says `--` of each."""
    return str(line._unscaled_dash_pattern)


def test_the_figure_shows_the_lines_and_their_intervals():
    y = np.sqrt(np.arange(5.0) + 1)
    panel = a_panel(a_line(low=y - 1, high=y + 2), a_line("stepwise"), level=0.5)
    axes = draw_lines(panel).axes[0]
    assert drawn(axes, "coarse").get_ydata() == pytest.approx(y)
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((0.0, y[-1] + 2))
    assert [line.get_ydata()[0] for line in axes.lines if line.get_gid() is None] == [0.5]
    assert axes.get_ylabel() == "value (nat)"


def test_lines_of_one_label_look_alike_in_all_panels_and_others_differ():
    one, other = a_panel(a_line("a"), a_line("b")), a_panel(a_line("b"), a_line("c"))
    figure = draw_lines([one, other])
    first, second = figure.axes
    looks = {
        label: (drawn(axes, label).get_color(), dashes(drawn(axes, label)))
        for axes, label in ((first, "a"), (first, "b"), (second, "c"))
    }
    assert looks["b"][0] == drawn(second, "b").get_color()
    assert len({colour for colour, _ in looks.values()}) == 3
    assert len({dash for _, dash in looks.values()}) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]


def test_hue_and_dash_group_lines():
    lines = [
        a_line(f"{style}, {split}", hue=style, dash=split)
        for style in ("coarse", "stepwise") for split in ("seen", "unseen")
    ]  # fmt: skip
    axes = draw_lines(a_panel(*lines)).axes[0]
    one, two, three, _ = (drawn(axes, line.label) for line in lines)
    assert one.get_color() == two.get_color() != three.get_color()
    assert dashes(one) == dashes(three) != dashes(two)


def test_shares_are_stacked_to_the_whole():
    x = np.arange(1.0, 4.0)
    lines = Line("a", x, np.array([0.25, 0.5, 1.0])), Line("b", x, np.array([0.75, 0.5, np.nan]))
    axes = draw_lines(a_panel(*lines, stacked=True, limits=(0.0, 1.0))).axes[0]
    low, high = (
        next(p for p in axes.patches if isinstance(p, StepPatch) and p.get_gid() == label)
        for label in "ab"
    )
    assert low.get_data().values == pytest.approx([0.25, 0.5, 1.0])
    assert high.get_data().baseline == pytest.approx([0.25, 0.5, 1.0])
    assert high.get_data().values == pytest.approx([1.0, 1.0, 1.0])
    assert high.get_data().edges == pytest.approx([0.5, 1.5, 2.5, 3.5])


def test_a_single_point_shows_its_interval_and_whole_numbers_get_whole_ticks():
    point = Line("a", np.array([1.0]), np.array([2.0]), np.array([1.0]), np.array([3.0]))
    axes = draw_any(a_panel(point)).axes[0]
    assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]
    (bar,) = axes.collections
    assert bar.get_segments()[0][:, 1].tolist() == [1.0, 3.0]
    assert isinstance(drawn(axes, "a"), Line2D)


def test_a_logarithmic_axis_has_plain_numbers():
    figure = draw_lines(a_panel(a_line(), scale="log"))
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {"1", "2"} <= set(labels)
    assert not any("$" in label for label in labels)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: a_panel(Line("a", np.zeros(0), np.zeros(0))), "line 'a': a line needs places in"),
        (lambda: Line("a", np.array([2.0, 1.0]), np.zeros(2)), "needs places in ascending order"),
        (lambda: Line("a", np.zeros(1), np.array([np.inf])), "needs finite values, or NaN"),
        (lambda: a_line(low=np.zeros(5)), "an interval needs both of its ends"),
        (lambda: a_line(low=np.ones(5), high=np.zeros(5)), "lower end is above its upper end"),
        (lambda: a_panel(a_line(), a_line()), "two lines of one label.*got coarse"),
        (lambda: a_panel(scale="sqrt"), "got sqrt, expected linear or log"),
        (lambda: a_panel(limits=(1.0, 0.0)), "limits need the lower end first"),
        (lambda: a_panel(Line("a", np.zeros(1), np.zeros(1)), scale="log"), "use scale='linear'"),
        (lambda: a_panel(a_line(), a_line("b", 4), stacked=True), "over the same places.*got b"),
        (lambda: a_panel(Line("a", np.zeros(1), -np.ones(1)), stacked=True), "a share below 0"),
        (lambda: LinePanel((), "t", "x", "y", "nat"), "panel 't': there is no line to draw"),
        (lambda: draw_lines([]), "there is no panel to draw"),
        (lambda: draw_lines(a_panel(), width_mm=14.0), "no room left.*width_mm"),
        (lambda: draw_lines(a_panel(), "papers"), "did you mean 'paper'"),
    ],
)  # fmt: skip
def test_wrong_use_says_what_is_right(make, words):
    with pytest.raises(FigureError, match=words):
        make()
