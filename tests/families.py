"""Language models as they are in practice, tiny: what a family has that others have not is in its numbers."""

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

_TEXT = {
    "vocab_size": 264,  # five rows more than tests.tiny's tokenizer has entries, as Qwen's tables have hundreds
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
_LAYERS = ["sliding_attention", "full_attention"]
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True)
class Family:
    """A family's config, whether its rows may be packed, and which of its layers LoRA takes."""

    model_type: str
    values: dict[str, Any]
    packs: bool = True
    lora: tuple[str, ...] = ("q_proj", "v_proj")

    def config(self) -> PreTrainedConfig:
        """The config, made anew."""
        return AutoConfig.for_model(self.model_type, **{**_TEXT, **self.values})


# Windows of 4 and caps of 0.5 are low enough to be felt.
FAMILIES = {
    "llama": Family("llama", {**_GROUPED, "rope_parameters": _LLAMA3, "eos_token_id": [2, 7]}),
    "mistral": Family("mistral", {**_GROUPED, "sliding_window": 4}),
    "qwen2": Family("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": Family("qwen3", {**_GROUPED, "tie_word_embeddings": True}),
    "gemma2": Family(
        "gemma2",
        {
            **_GROUPED,
            "sliding_window": 4,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 0.5,
            "final_logit_softcapping": 0.5,
        },
    ),
    "gemma3": Family("gemma3_text", {**_GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8, "layer_types": _LAYERS}),
    "phi3": Family("phi3", {"num_key_value_heads": 2, "sliding_window": 4}, lora=("qkv_proj",)),
    "smollm3": Family("smollm3", {**_GROUPED, "no_rope_layers": [1, 0]}),
    "olmo2": Family("olmo2", {"num_key_value_heads": 2}),
    "granite": Family(
        "granite",
        {
            "num_key_value_heads": 2,
            "embedding_multiplier": 3.0,
            "logits_scaling": 4.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.25,
        },
    ),
    "gpt_neox": Family("gpt_neox", {}, lora=("query_key_value",)),
    "opt": Family("opt", {"ffn_dim": 32, "word_embed_proj_dim": 24}, packs=False),
    "gpt2": Family("gpt2", {}, lora=("c_attn",)),
    "bloom": Family("bloom", {}, packs=False, lora=("query_key_value",)),
    "lfm2": Family(
        "lfm2", {**_GROUPED, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}, packs=False
    ),
    "falcon": Family("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, packs=False, lora=("query_key_value",)),
    "stablelm": Family("stablelm", {"num_key_value_heads": 2, "use_qkv_bias": True}),
    "phi": Family("phi", {"num_attention_heads": 2}),
    "cohere": Family("cohere", {"num_key_value_heads": 2, "logit_scale": 0.25}),
    "starcoder2": Family("starcoder2", {"num_key_value_heads": 2}),
    "glm4": Family("glm4", _GROUPED),
    "exaone4": Family("exaone4", {**_GROUPED, "sliding_window": 4, "layer_types": _LAYERS}),
    "mpt": Family("mpt", {"d_model": 24, "n_heads": 4, "n_layers": 2}, packs=False, lora=("Wqkv",)),
    "qwen3_moe": Family("qwen3_moe", {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
    "gpt_oss": Family(
        "gpt_oss", {**_GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 4}, packs=False
    ),
}
# Tried in every run of the tests; the others are slow tests.
QUICK = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "mistral", "smollm3", "olmo2", "granite", "gpt_neox", "falcon")
