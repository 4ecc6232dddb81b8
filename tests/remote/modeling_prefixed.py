"""A causal language model with a prefix encoder as P-Tuning v2 makes it: keys and values before
the text, for every layer, that are given as a cache."""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class PrefixedConfig(PreTrainedConfig):
    model_type = "prefixed"

    def __init__(self, pre_seq_len: int | None = 5, **kwargs):
        self.vocab_size, self.hidden_size = 300, 32
        self.num_hidden_layers, self.num_attention_heads = 3, 4
        self.seq_length = 256
        self.pre_seq_len = pre_seq_len
        super().__init__(**kwargs)


class PrefixedAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, x, masked, past):
        query, key, value = (
            t.unflatten(-1, (self.n_heads, -1)) for t in self.query_key_value(x).chunk(3, -1)
        )
        if past is not None:
            key, value = (torch.cat(pair, 1) for pair in zip(past, (key, value), strict=True))
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(masked, -10_000.0).softmax(-1)
        return x + torch.matmul(weights, value.transpose(1, 2)).transpose(1, 2).flatten(2)


class PrefixedForCausalLM(PreTrainedModel):
    config_class = PrefixedConfig

    def __init__(self, config):
        super().__init__(config)
        size = config.hidden_size
        self.embed = nn.Embedding(config.vocab_size, size)
        self.positions = nn.Embedding(config.seq_length, size)
        n_layers = config.num_hidden_layers
        self.layers = nn.ModuleList(PrefixedAttention(config) for _ in range(n_layers))
        self.head = nn.Linear(size, config.vocab_size, bias=False)
        if config.pre_seq_len is not None:
            self.prefix_encoder = nn.Embedding(config.pre_seq_len, n_layers * 2 * size)
        self.post_init()

    def _init_weights(self, module):
        if hasattr(module, "weight"):
            nn.init.normal_(module.weight, std=0.4)

    def get_input_embeddings(self):
        return self.embed

    def get_prompt(self, batch):
        """Keys and values [batch, prefix, head, size] of each layer."""
        flat = self.prefix_encoder.weight.unflatten(-1, (len(self.layers), 2, -1))
        heads = flat.unflatten(-1, (self.config.num_attention_heads, -1))
        return heads.permute(1, 2, 0, 3, 4)[:, :, None].expand(-1, -1, batch, -1, -1, -1)

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, **kwargs
    ):
        batch, length = input_ids.shape
        masked = ~torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        if attention_mask is not None:
            masked = masked | ~attention_mask[:, None, None].bool()
        if position_ids is None:
            position_ids = torch.arange(length)[None]
        if past_key_values is None and self.config.pre_seq_len is not None:
            past_key_values = self.get_prompt(batch)
            masked = nn.functional.pad(masked, (self.config.pre_seq_len, 0), value=False)
        x = self.embed(input_ids) + self.positions(position_ids)
        for number, layer in enumerate(self.layers):
            x = layer(x, masked, None if past_key_values is None else past_key_values[number])
        return CausalLMOutput(logits=self.head(x))
