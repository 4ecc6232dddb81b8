"""Models written by hand, without transformers, that attend in ways of their own.

Each computes what the others compute, from the same weights, in another layout; `truth` says in
float64 and in plain words what that is.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

N_LAYERS, N_HEADS, SIZE, VOCABULARY = 3, 4, 32, 50
HEAD_SIZE = SIZE // N_HEADS

Mix = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From queries, keys, values [batch, token, head, size] and what may be seen [batch, 1, query, key]
to the mixed values [batch, token, head · size]."""


class Attention(nn.Module):
    """Multi-head self-attention by one of the functions of `MIXES`."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.mix = mix
        self.qkv = nn.Linear(SIZE, 3 * SIZE)
        self.out = nn.Linear(SIZE, SIZE)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, N_HEADS, HEAD_SIZE)).unbind(2)
        return self.out(self.mix(query, key, value, seen))


class Block(nn.Module):
    """Attention and a mixture of experts, whose router has a softmax too."""

    def __init__(self, mix: Mix, n_experts: int) -> None:
        super().__init__()
        self.attn = Attention(mix)
        self.router = nn.Linear(SIZE, n_experts)
        self.experts = nn.ModuleList(nn.Linear(SIZE, SIZE) for _ in range(n_experts))

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(x, seen)
        shares = self.router(x).softmax(-1)
        made = torch.stack([expert(x) for expert in self.experts], -1)
        return x + 0.1 * (made * shares[..., None, :]).sum(-1)


class HandMade(nn.Module):
    """A causal language model."""

    def __init__(self, mix: Mix, n_experts: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, SIZE)
        self.blocks = nn.ModuleList(Block(mix, n_experts) for _ in range(N_LAYERS))
        self.head = nn.Linear(SIZE, VOCABULARY)
        with torch.no_grad():
            for block in self.blocks:
                block.attn.qkv.weight.mul_(4)
        self.eval()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        x = self.embed(input_ids)
        seen = visible(input_ids, attention_mask)
        for block in self.blocks:
            x = block(x, seen)
        return self.head(x)


def visible(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Say which keys each query may see, [batch, 1, query, key]."""
    length = ids.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    itself = torch.eye(length, dtype=torch.bool)  # or pads would see nothing
    return seen if mask is None else (seen & mask[:, None, None].bool()) | itself


@torch.no_grad()
def truth(model: HandMade, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return [layer, batch, head, query, key] in float64."""
    model = model.double()
    seen = visible(ids, mask)
    x, found = model.embed(ids), []
    for block in model.blocks:
        query, key, _ = block.attn.qkv(x).unflatten(-1, (3, N_HEADS, HEAD_SIZE)).unbind(2)
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(HEAD_SIZE)
        found.append(scores.masked_fill(~seen, -torch.inf).softmax(-1))
        x = block(x, seen)
    model.float()
    return torch.stack(found)


def _scores(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return query.transpose(1, 2) @ key.permute(0, 2, 3, 1) / math.sqrt(HEAD_SIZE)


def _merged(mixed: torch.Tensor) -> torch.Tensor:
    return mixed.transpose(1, 2).flatten(2)


def plain(query, key, value, seen):
    """[batch, head, query, key], masked by −∞."""
    weights = _scores(query, key).masked_fill(~seen, -torch.inf).softmax(-1)
    return _merged(weights @ value.transpose(1, 2))


def lowest(query, key, value, seen):
    """The mask is the lowest number there is, added."""
    scores = _scores(query, key)
    added = torch.zeros_like(scores).masked_fill(~seen, torch.finfo(scores.dtype).min)
    return _merged(torch.softmax(scores + added, dim=3).matmul(value.transpose(1, 2)))


def ten_thousand(query, key, value, seen):
    """The mask is −10,000, added, as in models of 2019."""
    scores = _scores(query, key) - 1e4 * (~seen).to(query.dtype)
    weights = nn.functional.dropout(nn.functional.softmax(scores, -1), 0.1, training=False)
    return _merged(torch.matmul(weights, value.transpose(1, 2)))


def fused_axis(query, key, value, seen):
    """[batch · head, query, key], by bmm."""
    batch, length = query.shape[:2]
    query, key, value = (t.transpose(1, 2).flatten(0, 1) for t in (query, key, value))
    scores = torch.baddbmm(query.new_zeros(1), query, key.mT, beta=0, alpha=HEAD_SIZE**-0.5)
    scores = scores.masked_fill(~seen.expand(batch, N_HEADS, -1, -1).flatten(0, 1), -torch.inf)
    mixed = torch.bmm(nn.functional.softmax(scores, dim=-1), value)
    return mixed.view(batch, N_HEADS, length, HEAD_SIZE).transpose(1, 2).reshape(batch, length, -1)


def heads_before_batch(query, key, value, seen):
    """[head · batch, query, key]: the other order."""
    batch, length = query.shape[:2]
    query, key, value = (t.permute(2, 0, 1, 3).flatten(0, 1) for t in (query, key, value))
    scores = query @ key.mT / math.sqrt(HEAD_SIZE)
    scores = scores.masked_fill(~seen.expand(batch, 1, -1, -1).repeat(N_HEADS, 1, 1, 1)[:, 0], -1e9)
    mixed = torch.bmm(scores.softmax(-1), value)
    return mixed.view(N_HEADS, batch, length, -1).permute(1, 2, 0, 3).reshape(batch, length, -1)


def sequence_first(query, key, value, seen):
    """Tensors [query, batch, head, size], as in Megatron and ChatGLM."""
    query, key, value = (t.transpose(0, 1) for t in (query, key, value))
    length, batch = query.shape[:2]
    query, key, value = (t.reshape(length, batch * N_HEADS, -1) for t in (query, key, value))
    scores = torch.empty(batch * N_HEADS, length, length, dtype=query.dtype)
    scores = torch.baddbmm(
        scores, query.transpose(0, 1), key.permute(1, 2, 0), beta=0.0, alpha=HEAD_SIZE**-0.5
    )
    scores = scores.view(batch, N_HEADS, length, length).masked_fill(~seen, -10_000.0) * 2.0 / 2.0
    weights = nn.functional.softmax(scores.float(), dim=-1).type(query.dtype)
    mixed = torch.bmm(weights.view(batch * N_HEADS, length, -1), value.transpose(0, 1))
    mixed = mixed.view(batch, N_HEADS, length, -1).permute(2, 0, 1, 3).contiguous()
    return mixed.view(length, batch, SIZE).transpose(0, 1)


def einsum(query, key, value, seen):
    """By einsum."""
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * HEAD_SIZE**-0.5
    weights = nn.Softmax(dim=-1)(scores.masked_fill(~seen, -torch.inf))
    return torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2)


def einsum_query_first(query, key, value, seen):
    """Weights [batch, query, head, key], values first."""
    scores = torch.einsum("bqhd,bkhd->bqhk", query, key) * HEAD_SIZE**-0.5
    weights = scores.masked_fill(~seen.transpose(1, 2), -torch.inf).softmax(dim=-1)
    return torch.einsum("...khd,...qhk->...qhd", value, weights).flatten(2)


def grouped(query, key, value, seen):
    """Heads on two axes, [batch, group, head in the group, query, key]."""
    query, key, value = (t.unflatten(2, (2, N_HEADS // 2)) for t in (query, key, value))
    scores = torch.einsum("bqgrd,bkgrd->bgrqk", query, key) * HEAD_SIZE**-0.5
    weights = scores.masked_fill(~seen[:, :, None], -torch.inf).softmax(-1)
    return torch.einsum("bgrqk,bkgrd->bqgrd", weights, value).flatten(2)


def transposed(query, key, value, seen):
    """Valuesᵀ · weightsᵀ, the softmax over the second-last axis."""
    scores = (key.transpose(1, 2) @ query.permute(0, 2, 3, 1)) * HEAD_SIZE**-0.5
    weights = scores.masked_fill(~seen.mT, -torch.inf).softmax(dim=-2)
    return _merged((value.permute(0, 2, 3, 1) @ weights).mT)


def fused_kernel(query, key, value, seen):
    """By torch's fused attention, [batch, head, query, size]."""
    query, key, value = (t.transpose(1, 2) for t in (query, key, value))
    return _merged(nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen))


def fused_kernel_fused_axis(query, key, value, seen):
    """By torch's fused attention, [batch · head, query, size]."""
    batch = len(query)
    query, key, value = (t.transpose(1, 2).flatten(0, 1) for t in (query, key, value))
    mask = seen.expand(batch, N_HEADS, -1, -1).flatten(0, 1)
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, mask)
    return _merged(mixed.unflatten(0, (batch, N_HEADS)))


MIXES: dict[str, Mix] = {
    mix.__name__: mix
    for mix in (
        plain, lowest, ten_thousand, fused_axis, sequence_first, einsum, einsum_query_first,
        grouped, transposed, fused_kernel, fused_kernel_fused_axis,
    )
}  # fmt: skip
"""Ways to compute the same."""
