"""Head roles on hand-made patterns."""

import numpy as np
import pytest

from attnprobe.errors import MeasureError, SelectionError
from attnprobe.measures import HEAD_ROLES, head_roles
from attnprobe.measures.head_roles import Rows
from attnprobe.store import open_run
from attnprobe.workflows.extract import ExtractSettings, extract
from tests.tiny import make_record, save_model

HALF = 8
IDS = np.array([*range(10, 10 + HALF)] * 2)
"""A random text, twice."""
SPANS = tuple((at, at + 2) for at in range(0, 2 * HALF, 2))
EVERY = np.arange(2 * HALF)


def rows_of(look, ids=IDS, queries=EVERY):
    """Rows of one head that puts its whole weight on `look(query)`, and of one that is even."""
    weights = np.zeros((1, 2, len(queries), len(ids)))
    for row, query in enumerate(queries):
        weights[0, 0, row, look(query)] = 1
        weights[0, 1, row, : query + 1] = 1 / (query + 1)
    return Rows(weights, np.asarray(queries), ids, SPANS)


PATTERNS = {
    "previous_token": lambda query: max(query - 1, 0),
    "duplicate_token": lambda query: max(query - HALF, 0),
    "induction": lambda query: max(query - HALF + 1, 0),
}


@pytest.mark.parametrize("role", PATTERNS)
def test_a_head_that_only_plays_a_role_scores_1_and_only_there(role):
    for name, look in PATTERNS.items():
        score = HEAD_ROLES[role](rows_of(look))[0, 0]
        assert score == (1 if name == role else pytest.approx(score))
        if name != role:
            assert score < 0.2


def test_an_even_head_scores_what_even_attention_gives():
    rows = rows_of(PATTERNS["induction"])
    assert HEAD_ROLES["previous_token"](rows)[0, 1] == pytest.approx(
        np.mean([1 / (query + 1) for query in range(1, 2 * HALF)])
    )
    expected = np.mean([1 / (query + 1) for query in range(HALF, 2 * HALF)])
    assert HEAD_ROLES["duplicate_token"](rows)[0, 1] == pytest.approx(expected)
    assert HEAD_ROLES["induction"](rows)[0, 1] == pytest.approx(expected)


def test_a_retrieval_head_looks_at_what_comes_next():
    """An induction head copies: its strongest weight is on the token that the row predicts."""
    found = HEAD_ROLES["retrieval"]
    assert found(rows_of(PATTERNS["induction"]))[0, 0] == 1
    assert found(rows_of(PATTERNS["previous_token"]))[0, 0] == 0
    half = rows_of(lambda query: query - HALF + 1 if query % 2 else 0)
    asked = [query for query in EVERY[:-1] if IDS[query + 1] in IDS[: query + 1]]
    expected = np.mean([query % 2 == 1 or query == HALF - 1 for query in asked])
    assert found(half)[0, 0] == pytest.approx(expected)


def test_a_receiver_head_draws_attention_to_one_segment():
    scores = HEAD_ROLES["receiver"](rows_of(lambda query: 4 if query >= 4 else query))
    n = len(SPANS) - 2
    one = np.array([1.0] + [0.0] * (n - 1))
    moments = [np.mean((one - one.mean()) ** power) for power in (2, 4)]
    assert scores[0, 0] == pytest.approx(moments[1] / moments[0] ** 2 - 3)
    assert scores[0, 0] > scores[0, 1]
    few = rows_of(PATTERNS["induction"])
    assert np.isnan(HEAD_ROLES["receiver"](Rows(few.weights, few.queries, IDS, SPANS[:4]))).all()


def test_a_text_that_tells_nothing_has_no_score():
    different = np.arange(16)
    for role in ("duplicate_token", "induction", "retrieval"):
        assert np.isnan(HEAD_ROLES[role](rows_of(lambda query: 0, different))).all()


@pytest.mark.parametrize("keep", ["rows", "full"])
def test_roles_of_a_run(tmp_path, keep):
    save_model(tmp_path / "model")
    settings = ExtractSettings((keep,), layers=(0, 2), encoding="f32")
    records = [make_record(i) for i in range(2)]
    extract(records, str(tmp_path / "model"), tmp_path / "run", settings).close()
    with open_run(tmp_path / "run") as run:
        found = head_roles(run)
        assert found.dims == ("record", "role", "layer", "head")
        assert found.sizes == {"record": 2, "role": 5, "layer": 2, "head": 4}
        weights = run.weights("item-001/coarse", layer=2, head=3)
        own = [
            float(row.sel(key=int(row["query"]) - 1))
            for row in weights[0, 0]
            if int(row["query"]) > 0
        ]
        score = found.sel(record="item-001/coarse", role="previous_token", layer=2, head=3)
        assert float(score) == pytest.approx(np.mean(own), abs=1e-6)
        with pytest.raises(SelectionError, match="did you mean 'induction'") as caught:
            head_roles(run, ["inducton"])
        assert str(caught.value).startswith("no head role of that name; got 'inducton'")
        with pytest.raises(MeasureError, match="nothing to score; got 0 records"):
            head_roles(run, ids=[])
        assert head_roles(run, ["retrieval"], layer=2, ids=["item-000/coarse"]).shape == (
            1,
            1,
            1,
            4,
        )
