"""Attention of models outside transformers' interface: every layout, and every sabotage caught."""

import threading

import pytest
import torch
from torch import nn

from attnprobe.attention import Survey, record
from attnprobe.attention import recording as recording_module
from attnprobe.attention import rows as rows_module
from attnprobe.errors import AttnprobeError, CertificateError, ModelError, SelectionError
from tests import handmade
from tests.handmade import HEAD_SIZE, MIXES, N_HEADS, N_LAYERS, SIZE, HandMade
from tests.tiny import tiny_llama

LENGTHS = (11, 6, 8)
QUERIES = [[0, length // 2, length - 1] for length in LENGTHS]
SPANS = [[(0, 1), (1, 4), (4, length)] for length in LENGTHS]
EVERY = pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)


def batch():
    generator = torch.Generator().manual_seed(2)
    width = max(LENGTHS)
    ids = torch.randint(0, 50, (len(LENGTHS), width), generator=generator)
    mask = (torch.arange(width) >= width - torch.tensor(LENGTHS)[:, None]).long()
    return ids, mask


@torch.no_grad()
def recorded(model, *inputs, keep=("full",), queries=None, spans=None, **settings):
    survey = Survey(model, **settings)
    with record(model, keep, queries=queries, spans=spans, survey=survey) as recording:
        model(*inputs)
    return recording


def message(error, action):
    with pytest.raises(error) as caught:
        action()
    return str(caught.value)


# --- layouts -------------------------------------------------------------------------------------


@EVERY
def test_a_handmade_model_is_captured_exactly(mix):
    model, (ids, mask) = HandMade(mix), batch()
    expected = handmade.truth(model, ids, mask)
    recording = recorded(
        model, ids, mask, keep=("full", "rows", "steps", "pooled"), queries=QUERIES, spans=SPANS
    )
    assert recording.certificate.route == "interception"
    assert sorted(recording.full) == list(range(N_LAYERS))
    for layer in range(N_LAYERS):
        for index, length in enumerate(LENGTHS):
            own = slice(max(LENGTHS) - length, None)
            square = expected[layer, index, :, own, own]
            masses = torch.stack([square[..., a:b].sum(-1) for a, b in SPANS[index]], -1)
            for found, wanted in (
                (recording.full[layer][index, :, own, own], square),
                (recording.rows[layer][index, ..., own], square[:, QUERIES[index]]),
                (recording.steps[layer][index], masses[:, QUERIES[index]]),
                (recording.pooled[layer][index, :, own], masses),
            ):
                torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)
            seen = torch.ones(length, length).tril().bool()
            assert torch.equal(recording.visible[layer][index][..., own], seen[QUERIES[index]])
            counts = torch.stack([seen[:, a:b].sum(-1) for a, b in SPANS[index]], -1)
            assert torch.equal(recording.visible_counts[layer][index, own].long(), counts)


@EVERY
def test_a_single_example_needs_no_mask(mix):
    model, ids = HandMade(mix), batch()[0][:1]
    full = recorded(model, ids).full
    expected = handmade.truth(model, ids)
    torch.testing.assert_close(
        torch.stack([full[layer] for layer in range(N_LAYERS)]).double(), expected,
        atol=1e-5, rtol=0,
    )  # fmt: skip


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention_of_torch_is_captured_exactly(need_weights, batch_first):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, SIZE)
            self.layers = nn.ModuleList(
                nn.MultiheadAttention(SIZE, N_HEADS, batch_first=batch_first) for _ in range(2)
            )

        def forward(self, ids, attention_mask):
            x = self.embed(ids)
            x = x if batch_first else x.transpose(0, 1)
            unseen = ~handmade.visible(ids, attention_mask).expand(-1, N_HEADS, -1, -1)
            for layer in self.layers:
                mixed, _ = layer(
                    x, x, x, attn_mask=unseen.flatten(0, 1), need_weights=need_weights,
                    average_attn_weights=False,
                )  # fmt: skip
                x = x + mixed
            return x

    torch.manual_seed(0)
    model, (ids, mask) = Model().eval(), batch()
    full = recorded(model, ids, mask).full
    x = model.embed(ids).double()
    exact = model.double()
    for number, layer in enumerate(exact.layers):
        qkv = torch.nn.functional.linear(x, layer.in_proj_weight, layer.in_proj_bias)
        query, key, value = qkv.unflatten(-1, (3, N_HEADS, HEAD_SIZE)).unbind(2)
        seen = handmade.visible(ids, mask)
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / HEAD_SIZE**0.5
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        for index, length in enumerate(LENGTHS):
            own = slice(max(LENGTHS) - length, None)
            torch.testing.assert_close(
                full[number][index, :, own, own].double(), weights[index, :, own, own],
                atol=1e-5, rtol=0,
            )  # fmt: skip
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2)
        x = x + layer.out_proj(mixed)


def test_an_encoder_of_torch_is_captured():
    layer = nn.TransformerEncoderLayer(SIZE, N_HEADS, batch_first=True)
    model = nn.Sequential(
        nn.Embedding(50, SIZE), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    ).eval()
    recording = recorded(model, batch()[0][:1])
    assert sorted(recording.full) == [0, 1]
    assert recording.full[1].shape == (1, N_HEADS, 11, 11)
    torch.testing.assert_close(recording.full[1].sum(-1), torch.ones(1, N_HEADS, 11))


def test_a_softmax_outside_attention_is_not_taken_for_it():
    model = HandMade(handmade.plain, n_experts=11)  # as many experts as tokens
    ids = batch()[0][:1]
    torch.testing.assert_close(
        recorded(model, ids).full[1][0].double(), handmade.truth(model, ids)[1, 0],
        atol=1e-5, rtol=0,
    )  # fmt: skip


def test_layers_without_attention_in_their_name_are_found_by_their_number():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(SIZE, 3 * SIZE)
            self.router = nn.Linear(SIZE, 11)

        def forward(self, x):
            query, key, value = self.mix(x).chunk(3, -1)
            _ = self.router(x).softmax(-1)  # as wide as the text is long
            return x + (query @ key.mT).softmax(-1) @ value

    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, SIZE), Layer(), Layer()).eval()
    ids = batch()[0][:1]
    full = recorded(model, ids).full
    assert sorted(full) == [1, 2]
    query, key, _ = model[1].mix(model[0](ids)).chunk(3, -1)
    torch.testing.assert_close(full[1][:, 0], (query @ key.mT).softmax(-1))


def test_a_weight_of_zero_is_no_masked_key():
    def faint(query, key, value, seen):
        scores = torch.zeros(len(query), N_HEADS, query.shape[1], query.shape[1])
        scores[..., 3] = -400.0  # e^-400 is 0 in float32
        return handmade._merged(
            scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value.transpose(1, 2)
        )

    recording = recorded(HandMade(faint), batch()[0][:1], keep=("rows",), queries=[[10]])
    assert recording.rows[0][0, 0, 0, 3] == 0
    assert recording.visible[0][0, 0].all()


# --- what cannot be seen is not proven -----------------------------------------------------------


def summed(query, key, value, seen):
    """No product is called by name."""
    weights = handmade._scores(query, key).masked_fill(~seen, -torch.inf).softmax(-1)
    mixed = (weights[..., None] * value.transpose(1, 2)[:, :, None]).sum(-2)
    return handmade._merged(mixed)


def test_attention_whose_values_are_not_seen_is_refused_unless_uncertified():
    model, ids = HandMade(summed), batch()[0][:1]
    assert message(CertificateError, lambda: recorded(model, ids)) == (
        "HandMade, layer 0: nothing proves the captured attention: the product of weights and "
        "values was not seen; nothing was stored; --uncertified records it all the same, and says "
        "so."
    )
    recording = recorded(model, ids, uncertified=True)
    torch.testing.assert_close(
        recording.full[2].double(), handmade.truth(model, ids)[2], atol=1e-5, rtol=0
    )
    assert sorted(recording.certificate.unproven) == [0, 1, 2]
    assert min(recording.certificate.worst.values()) > 1e38


def test_an_unproven_order_of_heads_is_refused_in_a_batch_only():
    model, (ids, mask) = HandMade(handmade.heads_before_batch), batch()
    assert "examples and heads share an axis" in message(
        CertificateError, lambda: recorded(model, ids, mask)
    )
    torch.testing.assert_close(
        recorded(model, ids[:1]).full[2].double(), handmade.truth(model, ids[:1])[2],
        atol=1e-5, rtol=0,
    )  # fmt: skip


def test_a_wrong_capture_is_refused_also_where_it_may_be_uncertified():
    def dropping(query, key, value, seen):
        weights = handmade._scores(query, key).masked_fill(~seen, -torch.inf).softmax(-1)
        kept = torch.ones(N_HEADS).index_fill(0, torch.tensor(2), 0.0)[:, None, None]
        return handmade._merged((weights * kept) @ value.transpose(1, 2))

    model, ids = HandMade(dropping), batch()[0][:1]
    for uncertified in (False, True):
        assert "not what the model used" in message(
            CertificateError,
            lambda: recorded(model, ids, uncertified=uncertified),  # noqa: B023
        )


def test_attention_without_a_softmax_is_refused():
    def by_hand(query, key, value, seen):
        powers = handmade._scores(query, key).masked_fill(~seen, -torch.inf).exp()
        return handmade._merged(powers / powers.sum(-1, keepdim=True) @ value.transpose(1, 2))

    assert "no attention was seen" in message(
        CertificateError, lambda: recorded(HandMade(by_hand), batch()[0][:1])
    )


def test_a_layer_without_a_softmax_is_refused():
    model = HandMade(handmade.plain)
    model.blocks[1].attn.mix = lambda query, key, value, seen: value.flatten(2)
    assert message(CertificateError, lambda: recorded(model, batch()[0][:1])).startswith(
        "HandMade: attention layers were not seen; got layers [1] missing; these modules attend by "
    )


def test_attention_outside_of_the_known_modules_is_refused():
    model = HandMade(handmade.plain)
    model.blocks[1].router.forward = lambda x: torch.nn.functional.scaled_dot_product_attention(
        x, x, x
    )[..., :2]
    assert "outside of the modules that are known to attend" in message(
        ModelError, lambda: recorded(model, batch()[0][:1])
    )


def test_a_key_that_is_no_token_is_refused():
    attention = nn.MultiheadAttention(SIZE, N_HEADS, batch_first=True, add_zero_attn=True).eval()
    x = torch.randn(1, 5, SIZE)
    assert "adds a key that is no token" in message(
        ModelError, lambda: recorded(attention, x, x, x)
    )


# --- naming the module ---------------------------------------------------------------------------


def test_the_attention_module_can_be_named():
    model, ids = HandMade(handmade.plain), batch()[0][:1]
    survey = Survey(model, attention_module="blocks.{}.attn")
    assert survey.layers == (0, 1, 2)
    assert [model.blocks[i].attn for i in range(3)] == list(survey.places)
    full = recorded(model, ids, attention_module="blocks.{}").full
    torch.testing.assert_close(full[2].double(), handmade.truth(model, ids)[2], atol=1e-5, rtol=0)
    assert Survey(tiny_llama(), attention_module="model.layers.{}.self_attn").route == (
        "interception"
    )


def test_a_name_that_fits_nothing_is_refused_with_the_nearest():
    assert message(
        SelectionError, lambda: Survey(HandMade(handmade.plain), attention_module="block.{}.attn")
    ).startswith(
        "--attention-module: the model has no such module; got block.{}.attn, expected a path as "
        "model.named_modules() gives it, {} for the layer's number; did you mean 'blocks.{}.attn'?"
    )


def test_an_unknown_route_is_refused():
    assert message(SelectionError, lambda: Survey(tiny_llama(), "interfaec")) == (
        "unknown route; got interfaec; did you mean 'interface'? there is: interception, interface."
    )
    assert "this is no transformers model" in message(
        ModelError, lambda: Survey(HandMade(handmade.plain), "interface")
    )


# --- how the model runs --------------------------------------------------------------------------


def test_the_model_leaves_as_it_came_also_after_an_exception():
    model, (ids, mask) = HandMade(handmade.plain), batch()
    before = model(ids, mask)
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]

    def fail(*_):
        raise RuntimeError("on purpose")

    hook = model.blocks[2].attn.out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"), record(model, ["full"]):
        model(ids, mask)
    hook.remove()
    with record(model, ["full"]):
        under = model(ids, mask)
    assert torch.equal(before, under)
    assert torch.equal(before, model(ids, mask))
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


def test_gradient_checkpointing_is_recorded_once():
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    model = BloomForCausalLM(
        BloomConfig(vocab_size=60, hidden_size=16, n_layer=2, n_head=2, hidden_dropout=0.0)
    )
    ids = torch.randint(3, 60, (1, 7))
    plain = recorded(model.eval(), ids).full
    model.train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    with record(model, ["full"]) as recording:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert model.transformer.h[0].self_attention.dense.weight.grad is not None
    for layer, weights in plain.items():
        torch.testing.assert_close(recording.full[layer], weights)


@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_a_compiled_model_runs_eagerly_under_capture(way):
    model, ids = HandMade(handmade.plain), batch()[0][:1]
    expected = handmade.truth(model, ids)
    if way == "wrapped":
        compiled = torch.compile(model, backend="eager")
    else:
        compiled = model
        model.compile(backend="eager")
    full = recorded(compiled, ids).full
    torch.testing.assert_close(full[2].double(), expected[2], atol=1e-5, rtol=0)


def test_another_thread_is_refused():
    model, ids = HandMade(handmade.plain), batch()[0][:1]
    caught = []

    def elsewhere():
        try:
            model(ids)
        except AttnprobeError as error:
            caught.append(str(error))

    with record(model, ["full"]):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        model(ids)
    assert caught == [
        "HandMade: the model runs in another thread than the one that records it; open `record` "
        "in the thread that runs the model, one model for each."
    ]


def test_two_threads_record_two_models():
    model, ids = HandMade(handmade.plain), batch()[0][:1]
    expected = handmade.truth(model, ids)
    found = {}

    def run(name, own):
        for _ in range(5):
            found[name] = recorded(own, ids).full

    # Made here: they are seeded, and threads share torch's generator.
    own = [HandMade(handmade.plain) for _ in range(2)]
    threads = [threading.Thread(target=run, args=(name, own[name])) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for full in found.values():
        torch.testing.assert_close(full[2].double(), expected[2], atol=1e-5, rtol=0)
    assert len(found) == 2


def test_other_kernels_are_refused_with_what_to_do():
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=60, hidden_size=16, n_layer=2, n_head=2))
    model.config._attn_implementation_internal = "flash_attention_2"
    assert "cannot be recorded; got flash_attention_2, expected sdpa or eager" in message(
        ModelError, lambda: Survey(model)
    )


# --- memory --------------------------------------------------------------------------------------


class _LargestAllocations(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts new tensors of T² entries or more while a model runs."""

    def __init__(self, length):
        super().__init__()
        self.length, self.n_square, self.alive = length, 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and (
                tensor.numel() >= N_HEADS * self.length**2
                and tensor.untyped_storage().data_ptr() not in given
            ):
                self.n_square += 1
        return result


@pytest.mark.parametrize("mix", [handmade.plain, handmade.fused_axis, handmade.fused_kernel])
def test_rows_and_steps_take_no_square_memory_beyond_the_models_own(mix):
    length = 160
    model = HandMade(mix)
    ids = torch.randint(0, 50, (1, length))
    queries, spans = [[length - 2, length - 1]], [[(0, 80), (80, length)]]

    def count(run):
        with torch.no_grad(), _LargestAllocations(length) as counted:
            run()
        return counted.n_square

    own = count(lambda: model(ids))
    under = count(
        lambda: recorded(model, ids, keep=("rows", "steps"), queries=queries, spans=spans)
    )
    assert own == (0 if mix is handmade.fused_kernel else own)
    assert under == own


def test_the_weights_are_freed_when_the_model_is_done_with_them():
    import weakref

    alive = []

    def watching(query, key, value, seen):
        weights = handmade._scores(query, key).masked_fill(~seen, -torch.inf).softmax(-1)
        alive.append(weakref.ref(weights))
        return handmade._merged(weights @ value.transpose(1, 2))

    model, ids = HandMade(watching), batch()[0][:1]
    with torch.no_grad(), record(model, ["rows"], queries=[[10]]):
        model(ids)
        assert [reference() for reference in alive] == [None] * N_LAYERS


# --- sabotage: each must be caught, for rows and for pooled --------------------------------------

KEEPS = pytest.mark.parametrize("keep", ["rows", "pooled"])
CALLS = pytest.mark.parametrize(
    "mix", [handmade.plain, handmade.fused_axis, handmade.fused_kernel],
    ids=lambda mix: mix.__name__,
)  # fmt: skip


def capture_all(mix, keep):
    queries = [[length - 4, length - 3, length - 2, length - 1] for length in LENGTHS]
    return recorded(HandMade(mix), *batch(), keep=(keep,), queries=queries, spans=SPANS)


def refused(mix, keep):
    return message(CertificateError, lambda: capture_all(mix, keep))


def spoil(monkeypatch, change):
    original = rows_module.softmax_rows
    monkeypatch.setattr(
        recording_module,
        "softmax_rows",
        lambda call, columns: change(original(call, columns), call),
    )
    monkeypatch.setattr(
        "attnprobe.attention.interception.softmax_rows",
        lambda call, columns: change(original(call, columns), call),
    )


@CALLS
@KEEPS
def test_honest_work_passes(mix, keep):
    assert max(capture_all(mix, keep).certificate.worst.values()) < 1e-5


@CALLS
@KEEPS
def test_a_wrong_scale_is_caught(mix, keep, monkeypatch):
    spoil(monkeypatch, lambda rows, call: (rows.clamp_min(1e-30).log() * 1.05).softmax(-1))
    assert "not what the model used" in refused(mix, keep)


@CALLS
@KEEPS
def test_a_dropped_head_is_caught(mix, keep, monkeypatch):
    def drop(rows, call):
        rows = rows.clone()
        rows[:, 2] = rows[:, 1]
        return rows

    spoil(monkeypatch, drop)
    assert "not what the model used" in refused(mix, keep)


@CALLS
@KEEPS
def test_swapped_layers_are_caught(mix, keep, monkeypatch):
    earlier = []

    def previous(rows, call):
        earlier.append((call.layer, rows))
        same = [
            old for layer, old in earlier if layer == call.layer - 1 and old.shape == rows.shape
        ]
        return same[-1] if same else rows

    spoil(monkeypatch, previous)
    assert "layer 1: the captured attention" in refused(mix, keep)


@CALLS
@KEEPS
def test_an_ignored_mask_is_caught(mix, keep, monkeypatch):
    def even(rows, call):
        return (rows + 0.01) / (rows + 0.01).sum(-1, keepdim=True)

    spoil(monkeypatch, even)
    assert "not what the model used" in refused(mix, keep)


@CALLS
@KEEPS
def test_swapped_examples_are_caught(mix, keep, monkeypatch):
    spoil(monkeypatch, lambda rows, call: rows.roll(1, 0))
    assert "not what the model used" in refused(mix, keep)


@CALLS
@KEEPS
def test_dropout_is_caught(mix, keep):
    def dropping(query, key, value, seen):
        original = torch.nn.functional.dropout
        weights = handmade._scores(query, key).masked_fill(~seen, -torch.inf).softmax(-1)
        return handmade._merged(original(weights, 0.5, training=True) @ value.transpose(1, 2))

    assert "not what the model used" in refused(dropping, keep)
    del mix


@KEEPS
def test_the_router_in_the_place_of_the_attention_is_caught(keep):
    """A softmax over experts that happens to be as wide as the text, and is multiplied."""

    def mixing(query, key, value, seen):
        mixed = handmade.plain(query, key, value, seen)
        shares = mixed[:, None, :, :11].softmax(-1).expand(-1, n_heads, -1, -1)
        return mixed + 0 * (shares @ value.transpose(1, 2)[:, :n_heads]).sum()

    n_heads = 1
    assert "two different attentions in one layer" in refused(mixing, keep)
    n_heads = N_HEADS
    assert "a product of weights and values was not understood" in refused(mixing, keep)


# --- keys that are no tokens, and masks of either sense -------------------------------------------


class Prefixed(nn.Module):
    """A model whose layers attend to virtual keys before the text, as P-Tuning v2 makes them."""

    N_VIRTUAL = 3

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(SIZE, 3 * SIZE)
            self.prefix = nn.Parameter(torch.randn(2, Prefixed.N_VIRTUAL, SIZE))

        def forward(self, x, masked, cache):
            query, key, value = self.qkv(x).chunk(3, -1)
            past = self.prefix.unsqueeze(1).expand(-1, len(x), -1, -1) if cache is None else cache
            key, value = (torch.cat([old, new], 1) for old, new in zip(past, (key, value)))  # noqa: B905
            query, keys, values = (
                t.unflatten(-1, (N_HEADS, HEAD_SIZE)).transpose(1, 2) for t in (query, key, value)
            )
            scores = (query @ keys.mT / HEAD_SIZE**0.5).masked_fill(masked, -10_000.0) * 2
            mixed = scores.float().softmax(-1) @ values
            return x + mixed.transpose(1, 2).flatten(2), (key, value)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, SIZE)
        self.attentions = nn.ModuleList(Prefixed.Layer() for _ in range(2))
        self.eval()

    def forward(self, input_ids, attention_mask=None, past_key_values=None):
        n = input_ids.shape[1]
        past = 0 if past_key_values is None else past_key_values[0][0].shape[1] - self.N_VIRTUAL
        seen = torch.ones(past + n, past + n, dtype=torch.bool).tril()[None]
        if attention_mask is not None:
            seen = seen & attention_mask[:, None].bool() | torch.eye(past + n, dtype=torch.bool)
        masked = ~seen[:, None, past:]
        masked = nn.functional.pad(masked, (self.N_VIRTUAL, 0), value=False)
        x, caches = self.embed(input_ids), []
        for number, layer in enumerate(self.attentions):
            cache = None if past_key_values is None else past_key_values[number]
            x, made = layer(x, masked, cache)
            caches.append(made)
        return x, tuple(caches)


def test_virtual_keys_are_the_first_columns_of_every_row():
    model, (ids, mask) = Prefixed(), batch()
    spans = [[(-3, 0), (0, 4), (4, length)] for length in LENGTHS]
    recording = recorded(
        model, ids, mask, keep=("full", "steps", "pooled"), queries=QUERIES, spans=spans
    )
    assert recording.n_virtual == 3
    for index, length in enumerate(LENGTHS):
        first = max(LENGTHS) - length
        alone = recorded(model, ids[index : index + 1, first:]).full
        for layer in range(2):
            rows = recording.full[layer][index, :, first:]
            assert rows.shape == (N_HEADS, length, 3 + max(LENGTHS))
            assert (rows[..., 3 : 3 + first] == 0).all()
            own = torch.cat([rows[..., :3], rows[..., 3 + first :]], -1)
            torch.testing.assert_close(own, alone[layer][0], atol=1e-5, rtol=0)
            assert (own[..., :3] > 0).any()
            masses = torch.stack([own[..., a + 3 : b + 3].sum(-1) for a, b in spans[index]], -1)
            torch.testing.assert_close(recording.pooled[layer][index, :, first:], masses)
            torch.testing.assert_close(
                recording.steps[layer][index], masses[:, QUERIES[index]], atol=1e-5, rtol=0
            )
            counts = recording.visible_counts[layer][index, first:]
            expected = [[3, min(q + 1, 4), max(q - 3, 0)] for q in range(length)]
            assert counts.tolist() == expected


def test_virtual_keys_under_a_cache_of_tuples():
    model, ids = Prefixed(), batch()[0][:1]
    whole = recorded(model, ids).full
    with torch.no_grad(), record(model, ["full"]) as recording:
        cache = model(ids[:, :6])[1]
        for token in range(6, 11):
            cache = model(ids[:, token : token + 1], past_key_values=cache)[1]
    for layer in range(2):
        torch.testing.assert_close(recording.full[layer], whole[layer], atol=1e-5, rtol=0)


@pytest.mark.parametrize("sense", ["True = seen", "True = masked"])
@pytest.mark.parametrize("prefix", [1, 4])
def test_masks_of_either_sense_and_of_prefix_models(sense, prefix):
    class Model(HandMade):
        def forward(self, input_ids, attention_mask):
            seen = attention_mask if sense == "True = seen" else ~attention_mask
            x = self.embed(input_ids)
            for block in self.blocks:
                x = block(x, seen)
            return x

    model, ids = Model(handmade.sequence_first), batch()[0][:2]
    seen = torch.ones(11, 11).tril().bool()
    seen[:prefix, :prefix] = True
    seen = seen.expand(2, 1, 11, 11)
    recording = recorded(
        model, ids, seen if sense == "True = seen" else ~seen, keep=("rows", "full"),
        queries=[[0, 5]] * 2,
    )  # fmt: skip
    assert recording.batch_layout.first.tolist() == [0, 0]
    assert recording.visible[1][0].sum(-1).tolist() == [prefix, 6]
    assert (recording.full[2][:, :, 0, :prefix].sum(-1) > 0.999).all()
    assert (recording.full[2][:, :, 0, 0] < 0.999).any() == (prefix > 1)
