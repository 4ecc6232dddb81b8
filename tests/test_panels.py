import numpy as np
import pytest

from attnprobe.contrasts import contrast
from attnprobe.errors import ContrastError, FigureError, SelectionError
from attnprobe.measures import measure
from attnprobe.panels import (
    Panel,
    head_panel,
    limits_around_zero,
    limits_from_zero,
    segment_panels,
)
from attnprobe.panels.segments import collapse_roles
from tests.test_contrasts import memory_run
from tests.test_measures import step_mass


def panel(values, **changes):
    values = np.asarray(values, dtype=float)
    n_rows, n_columns = values.shape
    given = {
        "values": values,
        "rows": tuple(map(str, range(n_rows))),
        "columns": tuple(map(str, range(n_columns))),
        "title": "a title",
        "row_axis": "layer",
        "column_axis": "head",
        "name": "enrichment",
        "unit": "bits",
        "limits": (-1.0, 1.0),
    }
    return Panel(**(given | changes))


def test_limits_hold_every_value_and_pass_over_nan():
    assert limits_around_zero(np.array([1.0, np.nan]), np.array([-3.0])) == (-3.0, 3.0)
    assert limits_from_zero(np.array([0.2, np.nan]), np.array([0.7])) == (0.0, 0.7)


def test_limits_of_nothing_are_still_limits():
    assert limits_around_zero(np.zeros(3), np.array([np.nan])) == (-1.0, 1.0)
    assert limits_from_zero(np.zeros(3)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ("0",)}, "a label per row and per column; got 1 × 3 labels, .* 2 × 3 values"),
        ({"marks": np.zeros((3, 2), dtype=bool)}, "marks must match the values cell by cell"),
        ({"limits": (1.0, 1.0)}, "two finite numbers, the lower first"),
        ({"limits": (-1.0, 2.0), "diverging": True}, r"symmetric about 0.* expected \(-2.0, 2.0\)"),
    ],
)
def test_a_panel_that_would_mislead_is_refused(changes, message):
    with pytest.raises(FigureError, match=message):
        panel(np.zeros((2, 3)), **changes)


def test_head_panel_shows_the_estimates_and_marks_what_differs():
    found = contrast(memory_run(), a="coarse", b="stepwise")
    got = head_panel(found)
    assert got.values == pytest.approx(found.effects["estimate"].values)
    assert got.marks.tolist() == [[False, False], [False, True]]
    assert (got.rows, got.columns) == (("0", "1"), ("0", "1"))
    reach = np.abs(got.values).max()
    assert got.limits == (-reach, reach)
    assert got.diverging
    assert got.unit == "bits"
    assert got.title == "enrichment, answer → history: coarse − stepwise"
    assert got.mark_note == (
        "differs at a family-wise error rate of 0.05 (sign flips by task, 6 tasks)"
    )
    assert "new tasks like these" in got.note


def test_head_panel_says_when_no_head_differs():
    got = head_panel(contrast(memory_run(effect=0.0), a="coarse", b="stepwise"))
    assert not got.marks.any()
    assert got.mark_note.startswith("No head differs at a family-wise error rate of 0.05")


def test_segment_panels_average_what_the_measure_says():
    run = memory_run()
    first, second, difference = segment_panels(run, "coarse", "stepwise")
    values = measure(run, query="answer", key="history")
    in_a = values.values[values["style"].values == "coarse"].mean()
    in_b = values.values[values["style"].values == "stepwise"].mean()
    place = first.rows.index("answer"), first.columns.index("history")
    assert first.values[place] == pytest.approx(in_a, abs=1e-5)
    assert second.values[place] == pytest.approx(in_b, abs=1e-5)
    assert difference.values[place] == pytest.approx(in_a - in_b, abs=1e-5)
    assert (first.title, second.title) == ("coarse", "stepwise")
    assert difference.title == "coarse − stepwise"
    assert first.limits == second.limits != difference.limits
    assert first.diverging
    assert "over all 2 layers and all 2 heads" in first.note
    assert "Left out, being sinks or nowhere visible: special." in first.note


def test_segment_panels_of_one_head():
    run = memory_run()
    difference = segment_panels(run, "coarse", "stepwise", "mass", layer=1, head=[1])[2]
    assert difference.values[0, difference.columns.index("history")] == pytest.approx(0.3, abs=0.05)
    assert "over layer 1 and head 1" in difference.note
    other = segment_panels(run, "coarse", "stepwise", "mass", layer=0, head=0)[2]
    assert abs(other.values[0, other.columns.index("history")]) < 0.05


def test_mass_panels_start_at_zero_and_their_difference_diverges():
    first, _, difference = segment_panels(memory_run(), "coarse", "stepwise", "mass")
    assert first.limits[0] == 0
    assert not first.diverging
    assert difference.diverging


def test_segment_panels_take_a_measured_array():
    run = memory_run()
    from_array = segment_panels(measure(run, "density"), "coarse", "stepwise")
    from_run = segment_panels(run, "coarse", "stepwise", "density")
    for one, other in zip(from_array, from_run, strict=True):
        assert one.values == pytest.approx(other.values, nan_ok=True)
    assert from_array[0].name == "density"


def test_only_paired_items_count():
    run = memory_run()
    both = segment_panels(run, "coarse", "stepwise")
    run.records = run.records.drop("t0-0/stepwise")
    less = segment_panels(run, "coarse", "stepwise")
    assert "Mean over 11 items" in less[0].note
    assert "1 items left out, for lack of a pair" in less[0].note
    assert less[0].values != pytest.approx(both[0].values, abs=1e-9, nan_ok=True)


def test_a_segment_that_one_style_lacks_is_empty_there_and_in_the_difference():
    run = memory_run()
    for name, mass in run.step_mass.items():
        if name.endswith("coarse"):
            roles = ["special", "template", "history", "coarse_history", "answer"]
            run.step_mass[name] = mass.assign_coords(role=("group", roles))
    first, second, difference = segment_panels(run, "coarse", "stepwise")
    assert first.columns == ("template", "history", "coarse_history", "answer")
    column = first.columns.index("coarse_history")
    assert not np.isnan(first.values[0, column])
    assert np.isnan(second.values[0, column])
    assert np.isnan(difference.values[0, column])


def test_many_steps_are_measured_as_one():
    run = memory_run()
    n = 8
    roles = ["special", "history", *(f"step_{i}" for i in range(1, n + 1))]
    for name in run.step_mass:
        mass = np.full((2, 2, n, n + 2), 1 / (n + 2))
        run.step_mass[name] = step_mass(
            mass,
            roles=roles,
            is_sink=[True] + [False] * (n + 1),
            visible=np.ones((n, n + 2)),
            step_roles=[f"step_{i}" for i in range(1, n + 1)],
        )
    first = segment_panels(run, "coarse", "stepwise", "mass")[0]
    assert first.rows == ("step_*",)
    assert first.columns == ("special", "history", "step_*")
    assert first.values[0] == pytest.approx([0.1, 0.1, 0.8])


def test_roles_collapse_only_where_there_are_many():
    few = [f"step_{i}" for i in range(1, 7)]
    assert collapse_roles(few) == tuple(few)
    assert collapse_roles([*few, "step_7", "answer"]) == ("step_*", "answer")
    demos = [f"demo_{i}.{part}" for i in range(8) for part in ("question", "answer")]
    assert set(collapse_roles(demos)) == {"demo_*.question", "demo_*.answer"}
    assert collapse_roles([*demos, "demo_9"]) == ("demo_*",)


def test_errors_say_what_there_is():
    run = memory_run()
    with pytest.raises(SelectionError, match="no layer 7; got 7, expected one of 0-1"):
        segment_panels(run, "coarse", "stepwise", layer=7)
    with pytest.raises(SelectionError, match="no key roles to lay out; got 'sink_mass'"):
        segment_panels(run, "coarse", "stepwise", "sink_mass")
    with pytest.raises(SelectionError, match="call measure without query and key"):
        segment_panels(measure(run, query="answer"), "coarse", "stepwise")
    run.records["item"] = run.records.index
    with pytest.raises(ContrastError, match="no item has both styles"):
        segment_panels(run, "coarse", "stepwise")
