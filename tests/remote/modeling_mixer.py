"""A causal language model whose attention has no name that tells: layers of `Mixer`."""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class MixerConfig(PreTrainedConfig):
    model_type = "mixer"

    def __init__(self, values_are_summed: bool = False, **kwargs):
        self.vocab_size, self.hidden_size = 300, 32
        self.num_hidden_layers, self.num_attention_heads = 3, 4
        self.values_are_summed = values_are_summed
        """Whether weights and values are multiplied without a product that has a name."""
        super().__init__(**kwargs)


class Mixer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_heads, self.is_summed = config.num_attention_heads, config.values_are_summed
        self.project = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, x, seen):
        query, key, value = (
            t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for t in self.project(x).chunk(3, -1)
        )
        scores = query @ key.mT / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        if self.is_summed:
            mixed = (weights[..., None] * value[:, :, None]).sum(-2)
        else:
            mixed = weights @ value
        return x + mixed.transpose(1, 2).flatten(2)


class MixerForCausalLM(PreTrainedModel):
    config_class = MixerConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Mixer(config) for _ in range(config.num_hidden_layers))
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        if hasattr(module, "weight"):
            nn.init.normal_(module.weight, std=0.5)

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, attention_mask=None, **kwargs):
        length = input_ids.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        if attention_mask is not None:
            itself = torch.eye(length, dtype=torch.bool)
            seen = (seen & attention_mask[:, None, None].bool()) | itself
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x, seen)
        return CausalLMOutput(logits=self.head(x))
