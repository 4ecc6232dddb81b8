"""A prefix language model by the conventions of ChatGLM-6B, as code that came with a checkpoint.

Written as such code was: tensors [token, batch, ...], most layers in half precision, no
`post_init`, settings that configs no longer have, caches as tuples.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


class FirstConfig(PreTrainedConfig):
    model_type = "chatglm"

    def __init__(
        self, vocab_size=400, hidden_size=32, num_layers=3, num_attention_heads=4,
        inner_hidden_size=48, max_sequence_length=256, bos_token_id=4, eos_token_id=5,
        mask_token_id=2, gmask_token_id=3, pad_token_id=1, pre_seq_len=None, **kwargs,
    ):  # fmt: skip
        self.vocab_size, self.hidden_size, self.num_layers = vocab_size, hidden_size, num_layers
        self.num_attention_heads, self.inner_hidden_size = num_attention_heads, inner_hidden_size
        self.max_sequence_length, self.mask_token_id = max_sequence_length, mask_token_id
        self.gmask_token_id, self.pre_seq_len = gmask_token_id, pre_seq_len
        super().__init__(
            bos_token_id=bos_token_id, eos_token_id=eos_token_id, pad_token_id=pad_token_id,
            **kwargs,
        )  # fmt: skip


def turned(x, positions):
    """Rotary positions over all of the last axis, its halves paired; positions [token, batch]."""
    half = x.shape[-1] // 2
    speeds = 10_000.0 ** (-torch.arange(half, device=x.device) / half)
    angles = positions[..., None, None].float() * speeds
    cos, sin = (torch.cat([f(angles)] * 2, -1).to(x.dtype) for f in (torch.cos, torch.sin))
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class SelfAttention(nn.Module):
    def __init__(self, config, layer_id):
        super().__init__()
        self.layer_id, self.n_heads = layer_id, config.num_attention_heads
        size = config.hidden_size
        self.query_key_value = nn.Linear(size, 3 * size, dtype=torch.half)
        self.dense = nn.Linear(size, size, dtype=torch.half)

    def forward(self, x, positions, masked, past=None):
        n, batch, _ = x.shape
        mixed = self.query_key_value(x).view(n, batch, self.n_heads, -1)
        query, key, value = mixed.chunk(3, -1)
        query, key = (
            torch.cat([turned(a, positions[:, 0].T), turned(b, positions[:, 1].T)], -1)
            for a, b in (query.chunk(2, -1), key.chunk(2, -1))
        )
        if past is not None:
            key, value = (
                torch.cat([old, new]) for old, new in zip(past, (key, value), strict=True)
            )
        size, coefficient = query.shape[-1], float(self.layer_id + 1)
        query = query / (size**0.5 * coefficient)
        query, keys, values = (t.reshape(len(t), -1, size).transpose(0, 1)
                               for t in (query, key, value))  # fmt: skip
        scores = torch.bmm(query, keys.transpose(1, 2)).view(batch, self.n_heads, n, -1)
        if not (masked == 0).all():
            scores.masked_fill_(masked, -10_000.0)
        dtype = scores.dtype
        weights = nn.functional.softmax(scores.float() * coefficient, dim=-1).type(dtype)
        context = torch.bmm(weights.view(batch * self.n_heads, n, -1), values)
        context = context.view(batch, self.n_heads, n, size).permute(2, 0, 1, 3).contiguous()
        return self.dense(context.view(n, batch, -1)), (key, value)


class Block(nn.Module):
    def __init__(self, config, layer_id):
        super().__init__()
        self.alpha = (2 * config.num_layers) ** 0.5
        self.input_layernorm = nn.LayerNorm(config.hidden_size)
        self.attention = SelfAttention(config, layer_id)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size)
        self.widen = nn.Linear(config.hidden_size, config.inner_hidden_size, dtype=torch.half)
        self.narrow = nn.Linear(config.inner_hidden_size, config.hidden_size, dtype=torch.half)

    def forward(self, x, positions, masked, past):
        normal = self.input_layernorm(x)
        attended, made = self.attention(normal, positions, masked, past)
        normal = self.post_attention_layernorm(normal * self.alpha + attended)
        return normal * self.alpha + self.narrow(nn.functional.gelu(self.widen(normal))), made


class FirstPreTrained(PreTrainedModel):
    config_class = FirstConfig
    base_model_prefix = "transformer"

    def _init_weights(self, module):
        return


class FirstModel(FirstPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, dtype=torch.half)
        self.layers = nn.ModuleList(Block(config, number) for number in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size)
        if config.pre_seq_len is not None:
            self.prefix_encoder = nn.Embedding(
                config.pre_seq_len, 2 * config.num_layers * config.hidden_size
            )

    def get_input_embeddings(self):
        return self.word_embeddings

    def get_masks(self, input_ids):
        """True where a key may not be seen: all see what comes before the start, then causal."""
        batch, n = input_ids.shape
        seen = torch.ones(batch, n, n, device=input_ids.device).tril()
        for row, ids in enumerate(input_ids.tolist()):
            seen[row, :, : ids.index(self.config.bos_token_id)] = 1
        return (seen < 0.5)[:, None]

    def get_position_ids(self, input_ids):
        made = []
        for ids in input_ids.tolist():
            start = ids.index(self.config.bos_token_id)
            mask = self.config.gmask_token_id
            mask = mask if mask in ids else self.config.mask_token_id
            after = len(ids) - start
            made.append([
                [*range(start), *[ids.index(mask)] * after], [*[0] * start, *range(1, after + 1)]
            ])  # fmt: skip
        return torch.tensor(made, device=input_ids.device)

    def get_prompt(self, batch, dtype):
        past = self.prefix_encoder.weight.type(dtype)
        past = past.view(self.config.pre_seq_len, 1, 2 * self.config.num_layers,
                         self.config.num_attention_heads, -1)  # fmt: skip
        return past.expand(-1, batch, -1, -1, -1).permute(2, 0, 1, 3, 4).split(2)

    def forward(
        self, input_ids=None, position_ids=None, attention_mask=None, past_key_values=None,
        use_cache=None, return_dict=None,
    ):  # fmt: skip
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        x = self.word_embeddings(input_ids).transpose(0, 1)
        if past_key_values is None:
            past_key_values = [None] * len(self.layers)
            if attention_mask is None:
                attention_mask = self.get_masks(input_ids)
            if position_ids is None:
                position_ids = self.get_position_ids(input_ids)
            if self.config.pre_seq_len is not None:
                past_key_values = self.get_prompt(len(input_ids), x.dtype)
                attention_mask = nn.functional.pad(attention_mask, (self.config.pre_seq_len, 0))
        if attention_mask is None:
            attention_mask = torch.zeros(1, 1, dtype=torch.bool, device=input_ids.device)
        presents = ()
        for layer, past in zip(self.layers, past_key_values, strict=True):
            x, made = layer(x, position_ids, attention_mask, past)
            presents += (made,)
        x = self.final_layernorm(x)
        return BaseModelOutputWithPast(x, presents if use_cache else None)


class FirstForConditionalGeneration(FirstPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.transformer = FirstModel(config)
        self.lm_head = nn.Linear(
            config.hidden_size, config.vocab_size, bias=False, dtype=torch.half
        )

    def forward(
        self, input_ids=None, position_ids=None, attention_mask=None, past_key_values=None,
        use_cache=None, return_dict=None,
    ):  # fmt: skip
        found = self.transformer(
            input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask,
            past_key_values=past_key_values, use_cache=use_cache, return_dict=return_dict,
        )  # fmt: skip
        logits = self.lm_head(found[0]).permute(1, 0, 2).contiguous()
        return CausalLMOutputWithPast(logits=logits, past_key_values=found.past_key_values)
