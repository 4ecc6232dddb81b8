"""What a careless reading of ChatGLM would get wrong is refused, or differs from the truth."""

import pytest
import torch

from attnprobe import load_model
from attnprobe.attention import record
from attnprobe.attention import recording as recording_module
from attnprobe.attention.passes import layout_of
from attnprobe.errors import CertificateError
from tests.chatglm.folders import save_chatglm
from tests.chatglm.truth import first_seen, weights_of

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")

IDS = [13, 8, 14, 9, 15, 10, 16, 3, 4, 11, 12, 17]
"""A prompt of seven tokens, [gMASK], sop, and three that follow."""
START = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = save_chatglm(tmp_path_factory.mktemp("first"), "first")
    return load_model(str(folder), trust_remote_code=True, device="cpu").model


def recorded(model, keep="full"):
    ids = torch.tensor([IDS])
    queries = [list(range(len(IDS)))]
    with torch.no_grad(), record(model, [keep], queries=queries) as recording:
        model(ids)
    return recording


def spoiled(model, monkeypatch, change):
    """Record with rows that were changed by a function of (rows, call, columns)."""
    honest = recording_module.softmax_rows
    monkeypatch.setattr(
        "attnprobe.attention.interception.softmax_rows",
        lambda call, columns: change(honest(call, columns), call, columns),
    )
    monkeypatch.setattr(
        recording_module,
        "softmax_rows",
        lambda call, columns: change(honest(call, columns), call, columns),
    )
    with pytest.raises(CertificateError) as caught:
        recorded(model)
    return str(caught.value)


def test_honest_rows_are_the_truth(model):
    expected = weights_of("first", model, IDS)
    for layer, found in recorded(model).full.items():
        torch.testing.assert_close(found[0].double(), expected[layer], atol=1e-5, rtol=0)


def test_dividing_by_the_layer_twice_is_refused(model, monkeypatch):
    """Scores are divided by layer + 1 and multiplied again; doing one of them again flattens."""

    def flat(rows, call, columns):
        return (rows.clamp_min(1e-30).log() / (call.layer + 1)).softmax(-1)

    refused = spoiled(model, monkeypatch, flat)
    assert "layer 1: the captured attention is not what the model used" in refused


def test_a_lower_triangle_is_refused(model, monkeypatch):
    def triangle(rows, call, columns):
        later = torch.arange(rows.shape[-1]) > columns[0][:, None]
        rows = rows.masked_fill(later, 0)
        return rows / rows.sum(-1, keepdim=True)

    refused = spoiled(model, monkeypatch, triangle)
    assert "layer 0: the captured attention is not what the model used" in refused
    above = weights_of("first", model, IDS).triu(1).sum(-1)
    assert above[..., : START - 1].mean() > 0.2
    assert (above[..., START:] == 0).all()


def test_the_mask_in_its_other_sense_is_refused(model, monkeypatch):
    seen = first_seen(model.config, torch.tensor(IDS))

    def flipped(rows, call, columns):
        rows = rows.masked_fill(seen[columns[0]], 0)
        return rows / rows.sum(-1, keepdim=True).clamp_min(1e-9)

    assert "layer 0" in spoiled(model, monkeypatch, flipped)


def test_what_is_visible_is_the_prefix_and_then_a_triangle(model):
    seen = first_seen(model.config, torch.tensor(IDS))
    for visible in recorded(model, "rows").visible.values():
        assert torch.equal(visible[0], seen)


@pytest.mark.parametrize("sense", ["True = seen", "True = masked"])
@pytest.mark.parametrize("n_after", [0, 3])
def test_padding_is_read_off_a_prefix_mask_of_either_sense(sense, n_after):
    """With nothing after the prompt all is seen by all, so that the triangle cannot tell."""
    lengths, width = (9, 5), 9
    at = torch.arange(width)
    seen = torch.zeros(2, 1, width, width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        real = at >= width - length
        ends = at < width - n_after
        allowed = (at[None] <= at[:, None]) | ends[None]
        seen[row, 0] = allowed & real[None] & real[:, None]
    mask = seen if sense == "True = seen" else ~seen
    layout = layout_of(mask, 2, width, torch.device("cpu"))
    assert layout.first.tolist() == [0, 4]
    assert layout.lengths() == [9, 5]
