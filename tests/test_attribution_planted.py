"""Attribution where the truth is planted: what points at it, and what must not."""

import numpy as np
import pytest
import torch

from attnprobe.attention import Edge, knockout
from attnprobe.attribution import METHODS, attribute
from tests import planted

MODELS = {
    "induction": (planted.induction, "induction"),
    "decoys": (planted.with_decoys, "marks"),
    "cancelling": (planted.with_cancelling_heads, "marks"),
    "chain": (planted.chain, "chain"),
}


LOGIT = ("attn_lrp", "alti_logit", "grad_attention")
"""Methods that would find no gradient where a log-probability is 0 already."""


def log_prob(model, ids):
    return float(model(ids[None]).logits[0, -2].log_softmax(-1)[ids[-1]])


@torch.no_grad()
def knocked_out(model, ids, queries=None):
    """What the last token's log-probability loses when all queries, or one, cannot see a token."""
    n, plain = len(ids), log_prob(model, ids)
    lost = np.zeros(n - 1)
    for key in range(n - 2):
        reach = queries or (key + 1, n)
        if reach[0] > key:
            with knockout(model, [Edge(None, None, reach, (key, key + 1))]):
                lost[key] = plain - log_prob(model, ids)
    return lost


def credit(model, ids, n_prompt, method):
    if method == "knockout":
        return knocked_out(model, ids)
    target = "logit" if method in LOGIT else "logprob"
    unused = min(set(range(planted.N_WORDS)) - {int(i) % planted.N_WORDS for i in ids})
    settings = {"baseline": unused} if "baseline" in METHODS[method].params else {}
    return attribute(model, ids, n_prompt, method, target, **settings).scores[0, :n_prompt]


def pointing(name, method):
    """Share of sequences in which the largest score is on the planted source."""
    make, kind = MODELS[name]
    model, hits = make(), []
    for ids, n_prompt, truth in planted.sequences(kind):
        hits.append(int(np.argmax(credit(model, ids, n_prompt, method))) == truth)
    return np.mean(hits)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_models_do_what_they_were_wired_for(name):
    make, kind = MODELS[name]
    model = make()
    for ids, _, _ in planted.sequences(kind):
        assert int(model(ids[None]).logits[0, -2].argmax()) == int(ids[-1])


@pytest.mark.parametrize("method", ["knockout", "attn_lrp", "alti_logit", "value_norm"])
def test_induction_is_pointed_at(method):
    assert pointing("induction", method) == 1.0


@pytest.mark.parametrize("method", ["attention", "rollout"])
def test_weights_alone_fall_for_decoys(method):
    assert pointing("decoys", method) == 0.0


@pytest.mark.parametrize(
    "method",
    [
        "value_norm", "attn_lrp", "alti_logit", "knockout", "grad_attention", "feature_ablation",
        "shapley", "integrated_gradients",
    ],
)  # fmt: skip
def test_decoys_are_seen_through(method):
    assert pointing("decoys", method) == 1.0


def test_lengths_alone_fall_for_heads_that_cancel():
    assert pointing("cancelling", "value_norm") == 0.0


@pytest.mark.parametrize(
    "method",
    ["attn_lrp", "alti_logit", "knockout", "feature_ablation", "shapley", "integrated_gradients"],
)
def test_signed_methods_see_heads_cancel(method):
    assert pointing("cancelling", method) == 1.0


def test_direct_attribution_stops_at_the_last_hop():
    """Nothing passes from the source to the query itself: neither weight nor effect."""
    model = planted.chain()
    for ids, n_prompt, truth in planted.sequences("chain", 5):
        query = n_prompt - 1
        weights = credit(model, ids, n_prompt, "attention")
        assert weights[truth] < 1e-3
        assert weights[query - 1] > 0.99
        lost = knocked_out(model, ids, (query, query + 1))
        assert int(np.argmax(lost)) == query - 1
        assert abs(lost[truth]) < 1e-4


@pytest.mark.parametrize("method", ["attn_lrp", "integrated_gradients", "feature_ablation"])
def test_total_influence_reaches_the_source_of_a_chain(method):
    assert pointing("chain", method) == 1.0


def test_rollout_reaches_the_source_of_a_chain():
    """By half a hop in each of three layers."""
    model = planted.chain()
    for ids, n_prompt, truth in planted.sequences("chain", 5):
        scores = credit(model, ids, n_prompt, "rollout")
        assert scores[truth] == pytest.approx(1 / 8, abs=1e-3)
