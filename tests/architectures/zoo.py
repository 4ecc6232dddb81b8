"""Tiny random models of every architecture, built from configs in milliseconds.

Weights are large, so that attention is sharp and a wrong row cannot pass for a right one. Windows
and chunks are shorter than any prompt of the tests.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCABULARY = 128
WINDOW = 6
"""Sliding windows and chunks, in tokens."""

_TOKENS = {
    "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_USUAL = _TOKENS | {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
_GROUPED = _USUAL | {"num_key_value_heads": 2}
_HEADED = _GROUPED | {"head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 12, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4, "v_head_dim": 6, "head_dim": 4,
}  # fmt: skip
_SLIDING_FIRST = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_GPT = _TOKENS | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "n_inner": 48}
_FALCON = _TOKENS | {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_hidden_size": 48,
}  # fmt: skip
_ENCODER_DECODER = {
    "encoder_layers": 2, "decoder_layers": 3, "d_model": 32, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_position_embeddings": 128, "decoder_start_token_id": 1, "forced_eos_token_id": None,
}  # fmt: skip


def make(config: str, model: str, settings: dict[str, Any]) -> PreTrainedModel:
    """Build a model in eval mode, with sharp attention and no end of text.

    Args:
        config: Name of the config class.
        model: Name of the model class.
        settings: For the config.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = getattr(transformers, model)(getattr(transformers, config)(**settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            _sharpen(name, parameter, generator)
    if built.can_generate():
        built.generation_config.eos_token_id = None
        built.generation_config.pad_token_id = 0
    return built.eval()


def _sharpen(name: str, parameter: torch.Tensor, generator: torch.Generator) -> None:
    """Make projections large and everything else slightly uneven; recurrences stay as they are."""
    noise = torch.randn(parameter.shape, generator=generator)
    parts = name.split(".")
    if any(part in name for part in ("A_log", "dt_bias", "conv", "lambda_")):
        return
    if parts[-1] == "sinks":
        parameter.copy_(noise)
    elif {"q_norm", "k_norm", "q_layernorm", "k_layernorm"} & set(parts):
        parameter.add_(0.8 + 0.1 * noise)
    elif parameter.dim() > 1:
        parameter.copy_(0.35 * noise)
    else:
        parameter.add_(0.1 * noise)


def _causal(name: str, **settings: Any) -> Callable[[], PreTrainedModel]:
    return partial(make, f"{name}Config", f"{name}ForCausalLM", settings)


ZOO: dict[str, Callable[[], PreTrainedModel]] = {
    "llama-mha": _causal("Llama", **_USUAL, num_key_value_heads=4),
    "llama-gqa": _causal("Llama", **_GROUPED),
    "llama-mqa": _causal("Llama", **_USUAL, num_key_value_heads=1),
    "mistral-sliding": _causal("Mistral", **_HEADED, sliding_window=WINDOW),
    "mixtral": _causal("Mixtral", **_HEADED, num_local_experts=4, num_experts_per_tok=2),
    "qwen2": _causal("Qwen2", **_GROUPED),
    "qwen2-sliding": _causal("Qwen2", **_GROUPED, **_SLIDING_FIRST, use_sliding_window=True),
    "qwen2_moe": _causal(
        "Qwen2Moe", **_GROUPED, **_EXPERTS, shared_expert_intermediate_size=24,
        decoder_sparse_step=1,
    ),
    "qwen3": _causal("Qwen3", **_HEADED),
    "qwen3_moe": _causal("Qwen3Moe", **_HEADED, **_EXPERTS, decoder_sparse_step=1),
    "qwen3_next": _causal(
        "Qwen3Next", **_HEADED, **_EXPERTS, shared_expert_intermediate_size=24,
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
    ),
    "gemma": _causal("Gemma", **_HEADED),
    "gemma2": _causal(
        "Gemma2", **_HEADED, **_SLIDING_FIRST, query_pre_attn_scalar=8,
        attn_logit_softcapping=3.0, final_logit_softcapping=30.0,
    ),
    "gemma3_text": partial(
        make, "Gemma3TextConfig", "Gemma3ForCausalLM",
        _HEADED | _SLIDING_FIRST | {"query_pre_attn_scalar": 8},
    ),
    "phi": _causal("Phi", **_GROUPED),
    "phi3": _causal("Phi3", **_GROUPED),
    "phi3-sliding": _causal("Phi3", **_GROUPED, sliding_window=WINDOW),
    "gpt2": partial(make, "GPT2Config", "GPT2LMHeadModel", _GPT),
    "gpt_bigcode": partial(make, "GPTBigCodeConfig", "GPTBigCodeForCausalLM", _GPT),
    "gpt_neox": _causal("GPTNeoX", **_USUAL),
    "opt": _causal(
        "OPT", **_TOKENS, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=128, word_embed_proj_dim=32,
    ),
    "biogpt": _causal("BioGpt", **_USUAL),
    "gpt_oss": _causal(
        "GptOss", **_HEADED, **_SLIDING_FIRST, num_local_experts=4, num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
    "stablelm": _causal("StableLm", **_GROUPED),
    "starcoder2": _causal("Starcoder2", **_GROUPED, sliding_window=WINDOW),
    "olmo": _causal("Olmo", **_GROUPED),
    "olmo2": _causal("Olmo2", **_GROUPED),
    "olmo3": _causal("Olmo3", **_GROUPED, **_SLIDING_FIRST),
    "olmoe": _causal("Olmoe", **_GROUPED, num_experts=4, num_experts_per_tok=2),
    "cohere": _causal("Cohere", **_GROUPED, use_qk_norm=True),
    "cohere2": _causal("Cohere2", **_GROUPED, **_SLIDING_FIRST),
    "granite": _causal("Granite", **_GROUPED, attention_multiplier=0.25),
    "granitemoe": _causal(
        "GraniteMoe", **_GROUPED, attention_multiplier=0.25, num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "granitemoehybrid": _causal(
        "GraniteMoeHybrid", **_GROUPED, attention_multiplier=0.25, num_local_experts=4,
        num_experts_per_tok=2, shared_intermediate_size=24, mamba_n_heads=8, mamba_d_head=8,
        mamba_d_state=8, mamba_chunk_size=8, layer_types=["mamba", "attention", "mamba"],
    ),
    "glm": _causal("Glm", **_HEADED),
    "glm4": _causal("Glm4", **_HEADED),
    "glm4_moe": _causal(
        "Glm4Moe", **_HEADED, use_qk_norm=True, moe_intermediate_size=24, n_routed_experts=4,
        num_experts_per_tok=2, num_mtp_layers=0,
    ),
    "deepseek_v2": _causal(
        "DeepseekV2", **_USUAL, **_LATENT, n_routed_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=24, n_shared_experts=1, first_k_dense_replace=1,
    ),
    "deepseek_v3": _causal(
        "DeepseekV3", **_USUAL, **_LATENT, n_routed_experts=8, num_experts_per_tok=2, n_group=2,
        topk_group=1, moe_intermediate_size=24, first_k_dense_replace=1, num_mtp_layers=0,
    ),
    "minicpm3": _causal("MiniCPM3", **_USUAL, **_LATENT, dim_model_base=32),
    "smollm3": _causal("SmolLM3", **_GROUPED, no_rope_layers=[1, 0, 1]),
    "nemotron": _causal("Nemotron", **_GROUPED),
    "persimmon": _causal("Persimmon", **_USUAL),
    "llama4_text": partial(
        make, "Llama4TextConfig", "Llama4ForCausalLM",
        _HEADED | {
            "intermediate_size_mlp": 48, "num_local_experts": 4, "attention_chunk_size": WINDOW,
            "num_hidden_layers": 3, "no_rope_layers": [1, 0, 1],
        },
    ),
    "diffllama": _causal("DiffLlama", **_GROUPED),
    "modernbert-decoder": _causal(
        "ModernBertDecoder", **_USUAL, local_attention=2 * WINDOW,
        layer_types=_SLIDING_FIRST["layer_types"], cls_token_id=1, sep_token_id=2,
    ),
    "ctrl": partial(
        make, "CTRLConfig", "CTRLLMHeadModel",
        _TOKENS | {"n_embd": 32, "n_layer": 3, "n_head": 4, "dff": 48, "n_positions": 128},
    ),
    "jetmoe": _causal(
        "JetMoe", **_TOKENS, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_key_value_heads=2, kv_channels=8, num_local_experts=4, num_experts_per_tok=2,
        max_position_embeddings=128,
    ),
    "ernie4_5": _causal("Ernie4_5", **_HEADED),
    "exaone4": _causal("Exaone4", **_GROUPED, **_SLIDING_FIRST),
    "helium": _causal("Helium", **_HEADED),
    "seed_oss": _causal("SeedOss", **_HEADED),
    "lfm2": _causal("Lfm2", **_GROUPED, layer_types=["conv", "full_attention", "conv"]),
    "bloom": _causal("Bloom", **_TOKENS, hidden_size=32, n_layer=3, n_head=4),
    "mpt": _causal(
        "Mpt", **_TOKENS, d_model=32, n_heads=4, n_layers=3, max_seq_len=128, expansion_ratio=2,
        use_cache=True,
    ),
    "gptj": partial(
        make, "GPTJConfig", "GPTJForCausalLM", _GPT | {"rotary_dim": 4}
    ),
    "gpt_neo": _causal(
        "GPTNeo", **_TOKENS, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=48,
        max_position_embeddings=128, window_size=WINDOW,
        attention_types=[[["local", "global", "local"], 1]],
    ),
    "codegen": partial(
        make, "CodeGenConfig", "CodeGenForCausalLM", _GPT | {"rotary_dim": 4, "n_ctx": 128}
    ),
    "xglm": _causal(
        "XGLM", **_TOKENS, d_model=32, num_layers=3, attention_heads=4, ffn_dim=48,
        max_position_embeddings=128,
    ),
    "openai-gpt": partial(
        make, "OpenAIGPTConfig", "OpenAIGPTLMHeadModel",
        _TOKENS | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
    ),
    "falcon-rotary": _causal("Falcon", **_FALCON, multi_query=True, alibi=False),
    "falcon-new": _causal(
        "Falcon", **_FALCON, new_decoder_architecture=True, num_kv_heads=2, alibi=False
    ),
    "falcon-alibi": _causal("Falcon", **_FALCON, multi_query=False, alibi=True),
    "t5": partial(
        make, "T5Config", "T5ForConditionalGeneration",
        _TOKENS | {
            "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 3,
            "num_heads": 4, "decoder_start_token_id": 0,
        },
    ),
    "bart": partial(
        make, "BartConfig", "BartForConditionalGeneration", _TOKENS | _ENCODER_DECODER
    ),
    "bert": partial(make, "BertConfig", "BertForMaskedLM", _USUAL),
}  # fmt: skip
"""{architecture: function that builds a tiny model of it}."""
