"""A causal language model by the conventions of ChatGLM2-6B and ChatGLM3-6B, as remote code.

Tensors are [token, batch, ...]; keys and values of a few groups are expanded to all heads; a
`CoreAttention` calls the fused kernel, by its own triangle or with a mask; weights are never
returned. Queries that are padding see what is real.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


class SecondConfig(PreTrainedConfig):
    model_type = "chatglm"

    def __init__(
        self, padded_vocab_size=400, hidden_size=32, num_layers=3, num_attention_heads=4,
        kv_channels=8, ffn_hidden_size=40, seq_length=256, multi_query_attention=True,
        multi_query_group_num=2, layernorm_epsilon=1e-5, pre_seq_len=None, **kwargs,
    ):  # fmt: skip
        self.vocab_size = self.padded_vocab_size = padded_vocab_size
        self.hidden_size, self.num_layers, self.kv_channels = hidden_size, num_layers, kv_channels
        self.num_attention_heads, self.ffn_hidden_size = num_attention_heads, ffn_hidden_size
        self.seq_length, self.multi_query_attention = seq_length, multi_query_attention
        self.multi_query_group_num, self.layernorm_epsilon = (
            multi_query_group_num,
            layernorm_epsilon,
        )
        self.pre_seq_len = pre_seq_len
        super().__init__(**kwargs)


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(size)), eps

    def forward(self, x):
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * x * scale).to(x.dtype)


def half_turned(x, angles):
    """Rotary positions over the first half of the last axis, neighbours paired."""
    size = x.shape[-1] // 2
    pairs = x[..., :size].unflatten(-1, (-1, 2))
    cos, sin = angles.cos()[:, :, None].to(x.dtype), angles.sin()[:, :, None].to(x.dtype)
    first = pairs[..., 0] * cos - pairs[..., 1] * sin
    second = pairs[..., 1] * cos + pairs[..., 0] * sin
    return torch.cat([torch.stack([first, second], -1).flatten(-2), x[..., size:]], -1)


class CoreAttention(nn.Module):
    def forward(self, query, key, value, masked):
        query, key, value = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        attend = nn.functional.scaled_dot_product_attention
        if masked is None and query.shape[2] == key.shape[2]:
            context = attend(query, key, value, is_causal=True)
        else:
            context = attend(query, key, value, None if masked is None else ~masked)
        return context.permute(2, 0, 1, 3).flatten(2)


class SelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.size = config.num_attention_heads, config.kv_channels
        self.groups = config.multi_query_group_num if config.multi_query_attention else self.heads
        self.query_key_value = nn.Linear(
            config.hidden_size, (self.heads + 2 * self.groups) * self.size
        )
        self.core_attention = CoreAttention()
        self.dense = nn.Linear(self.heads * self.size, config.hidden_size, bias=False)

    def forward(self, x, masked, angles, past=None):
        parts = self.query_key_value(x).unflatten(-1, (-1, self.size))
        query, key, value = parts.split([self.heads, self.groups, self.groups], 2)
        query, key = half_turned(query, angles), half_turned(key, angles)
        if past is not None:
            key, value = (
                torch.cat([old, new]) for old, new in zip(past, (key, value), strict=True)
            )
        expanded = (
            t.unsqueeze(3).expand(-1, -1, -1, self.heads // self.groups, -1).flatten(2, 3)
            for t in (key, value)
        )
        return self.dense(self.core_attention(query, *expanded, masked)), (key, value)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.self_attention = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.widen = nn.Linear(config.hidden_size, 2 * config.ffn_hidden_size, bias=False)
        self.narrow = nn.Linear(config.ffn_hidden_size, config.hidden_size, bias=False)

    def forward(self, x, masked, angles, past):
        attended, made = self.self_attention(self.input_layernorm(x), masked, angles, past)
        x = x + attended
        gate, up = self.widen(self.post_attention_layernorm(x)).chunk(2, -1)
        return x + self.narrow(nn.functional.silu(gate) * up), made


class SecondPreTrained(PreTrainedModel):
    config_class = SecondConfig
    base_model_prefix = "transformer"

    def _init_weights(self, module):
        return


class SecondModel(SecondPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)
        if config.pre_seq_len is not None:
            width = 2 * config.num_layers * config.multi_query_group_num * config.kv_channels
            self.prefix_encoder = nn.Embedding(config.pre_seq_len, width)

    def get_input_embeddings(self):
        return self.word_embeddings

    def get_masks(self, input_ids, n_past, padding_mask):
        """True where a key may not be seen; queries that are padding see all that is real."""
        batch, n = input_ids.shape
        seen = torch.ones(batch, n, n, device=input_ids.device).tril()
        seen = torch.cat([seen.new_ones(batch, n, n_past), seen], -1)
        if padding_mask is not None:
            seen = seen * padding_mask[:, None]
            if not n_past:
                seen = seen - (padding_mask[..., None] - 1)
        return (seen < 0.5)[:, None]

    def get_prompt(self, batch, dtype):
        past = self.prefix_encoder.weight.type(dtype)
        past = past.view(self.config.pre_seq_len, 1, 2 * self.config.num_layers,
                         self.config.multi_query_group_num, -1)  # fmt: skip
        return past.expand(-1, batch, -1, -1, -1).permute(2, 0, 1, 3, 4).split(2)

    def forward(
        self, input_ids, position_ids=None, attention_mask=None, past_key_values=None,
        use_cache=None, return_dict=None,
    ):  # fmt: skip
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        batch, n = input_ids.shape
        x = self.word_embeddings(input_ids).transpose(0, 1).contiguous()
        if self.config.pre_seq_len is not None and past_key_values is None:
            past_key_values = self.get_prompt(batch, x.dtype)
            if attention_mask is not None:
                attention_mask = nn.functional.pad(
                    attention_mask, (self.config.pre_seq_len, 0), value=1
                )
        n_past = past_key_values[0][0].shape[0] if past_key_values else 0
        masked = None
        if (attention_mask is not None and not attention_mask.all()) or (n_past and n != 1):
            masked = self.get_masks(input_ids, n_past, attention_mask)
        if position_ids is None:
            position_ids = torch.arange(n, device=input_ids.device)[None]
        quarter = self.config.kv_channels // 4
        speeds = 10_000.0 ** (-torch.arange(quarter, device=input_ids.device) / quarter)
        angles = position_ids.T[..., None] * speeds
        presents = ()
        for number, layer in enumerate(self.layers):
            x, made = layer(x, masked, angles, past_key_values[number] if n_past else None)
            presents += (made,)
        return BaseModelOutputWithPast(self.final_layernorm(x), presents if use_cache else None)


class SecondForConditionalGeneration(SecondPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.max_sequence_length = config.max_length
        self.transformer = SecondModel(config)

    def forward(
        self, input_ids=None, position_ids=None, attention_mask=None, past_key_values=None,
        use_cache=None, return_dict=None,
    ):  # fmt: skip
        found = self.transformer(
            input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask,
            past_key_values=past_key_values, use_cache=use_cache, return_dict=return_dict,
        )  # fmt: skip
        logits = self.transformer.output_layer(found[0]).transpose(0, 1).contiguous()
        return CausalLMOutputWithPast(logits=logits, past_key_values=found.past_key_values)
