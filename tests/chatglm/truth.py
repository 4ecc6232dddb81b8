"""What the models attend to, worked out in float64 for one text without padding."""

import torch


def weights_of(kind, model, ids):
    """Return [layer, head, query, key] for token ids, from a model's parameters and config."""
    parameters = {name: tensor.detach().double() for name, tensor in model.named_parameters()}
    make = _first if kind == "first" else _second
    return make(parameters, model.config, torch.as_tensor(ids).long())


def first_seen(config, ids):
    """All before the start mark is seen by all; from there on, each sees what came before it."""
    start = ids.tolist().index(config.bos_token_id)
    at = torch.arange(len(ids))
    return (at[None] <= at[:, None]) | (at < start)[None]


def _first(p, config, ids):
    n, heads = len(ids), config.num_attention_heads
    size = config.hidden_size // heads
    start, mask = ids.tolist().index(config.bos_token_id), ids.tolist().index(config.gmask_token_id)
    seen = first_seen(config, ids)
    positions = torch.tensor([*range(start), *[mask] * (n - start)])
    blocks = torch.tensor([0] * start + [number + 1 for number in range(n - start)])
    x, alpha, found = (
        p["transformer.word_embeddings.weight"][ids],
        (2 * config.num_layers) ** 0.5,
        [],
    )
    for layer in range(config.num_layers):
        own = {
            name.split(f"layers.{layer}.")[1]: t
            for name, t in p.items()
            if f"layers.{layer}." in name
        }
        normal = _layer_norm(x, own, "input_layernorm")
        mixed = _linear(normal, own, "attention.query_key_value").view(n, heads, 3, size)
        query, key, value = mixed.unbind(2)
        query, key = (
            torch.cat(
                [_rotated(t[..., : size // 2], positions), _rotated(t[..., size // 2 :], blocks)],
                -1,
            )
            for t in (query, key)
        )
        scores = torch.einsum("qhd,khd->hqk", query, key) / size**0.5
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        found.append(weights)
        context = torch.einsum("hqk,khd->qhd", weights, value).reshape(n, -1)
        x = _layer_norm(
            alpha * normal + _linear(context, own, "attention.dense"),
            own,
            "post_attention_layernorm",
        )
        x = alpha * x + _linear(torch.nn.functional.gelu(_linear(x, own, "widen")), own, "narrow")
    return torch.stack(found)


def _second(p, config, ids):
    n, heads, groups = len(ids), config.num_attention_heads, config.multi_query_group_num
    size = config.kv_channels
    seen = torch.ones(n, n).tril().bool()
    x, found = p["transformer.word_embeddings.weight"][ids], []
    for layer in range(config.num_layers):
        own = {
            name.split(f"layers.{layer}.")[1]: t
            for name, t in p.items()
            if f"layers.{layer}." in name
        }
        mixed = _linear(_rms(x, own, "input_layernorm"), own, "self_attention.query_key_value")
        query, key, value = mixed.split([heads * size, groups * size, groups * size], -1)
        query, key, value = (t.view(n, -1, size) for t in (query, key, value))
        query, key = _pairs_rotated(query), _pairs_rotated(key)
        weights, context = [], []
        for head in range(heads):
            group = head // (heads // groups)
            scores = query[:, head] @ key[:, group].T / size**0.5
            weights.append(scores.masked_fill(~seen, -torch.inf).softmax(-1))
            context.append(weights[-1] @ value[:, group])
        found.append(torch.stack(weights))
        x = x + _linear(torch.cat(context, -1), own, "self_attention.dense")
        gate, up = _linear(_rms(x, own, "post_attention_layernorm"), own, "widen").chunk(2, -1)
        x = x + _linear(gate * gate.sigmoid() * up, own, "narrow")
    return torch.stack(found)


def _linear(x, own, name):
    product = x @ own[f"{name}.weight"].T
    return product + own[f"{name}.bias"] if f"{name}.bias" in own else product


def _layer_norm(x, own, name):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * own[f"{name}.weight"] + own[f"{name}.bias"]


def _rms(x, own, name):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * own[f"{name}.weight"]


def _rotated(x, positions):
    """Turn the pair (i, i + half) of each vector as complex numbers."""
    half = x.shape[-1] // 2
    angles = positions.double()[:, None] / 10_000.0 ** (torch.arange(half).double() / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(
        torch.ones_like(angles), angles
    ).unsqueeze(1)
    return torch.cat([turned.real, turned.imag], -1)


def _pairs_rotated(x):
    """Turn the pairs (2i, 2i + 1) of the first half of each vector as complex numbers."""
    size = x.shape[-1] // 2
    n_pairs = size // 2
    angles = torch.arange(len(x)).double()[:, None]
    angles = angles / 10_000.0 ** (torch.arange(n_pairs).double() / n_pairs)
    pairs = torch.complex(x[..., :size:2], x[..., 1:size:2])
    turned = pairs * torch.polar(torch.ones_like(angles), angles).unsqueeze(1)
    first = torch.stack([turned.real, turned.imag], -1).flatten(-2)
    return torch.cat([first, x[..., size:]], -1)
