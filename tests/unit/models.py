"""Tiny random models of several architectures, with weights large enough that attention is far from uniform."""

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from gateau.prompts import EncodedSample

COMMON = {
    "vocab_size": 160, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip

_ALTERNATING = ["sliding_attention", "full_attention"] * 2
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4}
_LINEAR = {
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
# as in E2B: the last layers have no keys of their own, full attention has wider heads, each layer its own embeddings
_GEMMA4 = {
    "sliding_window": 96, "layer_types": _ALTERNATING, "num_kv_shared_layers": 2, "global_head_dim": 32,
    "use_double_wide_mlp": True, "vocab_size_per_layer_input": 160, "hidden_size_per_layer_input": 8,
    "final_logit_softcapping": 30.0,
}  # fmt: skip
_LLAMA4 = {
    "num_local_experts": 4, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 96, "attention_chunk_size": 96,
    "no_rope_layer_interval": 2, "floor_scale": 64, "tie_word_embeddings": True,
}  # fmt: skip
# the frequencies of a window of 128 tokens, which the samples exceed
_YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 128,
    "short_factor": [1.0 + n / 8 for n in range(8)], "long_factor": [1.0 + n for n in range(8)],
}  # fmt: skip

# the text model is one part of some models, beside one for images
_WHOLE = {"gemma3_images": "gemma3", "gemma4_images": "gemma4"}
_IMAGES = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip

ARCHITECTURES = {
    "llama": ("llama", {}),
    "llama_all_heads": ("llama", {"num_key_value_heads": 4}),
    "llama3_scaled": ("llama", {"rope_parameters": _LLAMA3}),
    "qwen2": ("qwen2", {}),
    "qwen2_yarn": ("qwen2", {"rope_parameters": _YARN}),
    "qwen3": ("qwen3", {}),
    "mistral_window": ("mistral", {"sliding_window": 96}),
    "phi3": ("phi3", {}),
    "phi3_longrope": ("phi3", {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 128}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "gpt_oss": ("gpt_oss", {"sliding_window": 96, "rope_parameters": _YARN, "layer_types": _ALTERNATING, **_EXPERTS}),
    "qwen3_next": ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"] * 2, **_EXPERTS, **_LINEAR}),
    "gemma": ("gemma", {"num_key_value_heads": 1}),
    "gemma2_softcap": ("gemma2", {"sliding_window": 96, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0}),
    "gemma3_images": ("gemma3_text", {"sliding_window": 96, "query_pre_attn_scalar": 16, "layer_types": _ALTERNATING}),
    "gemma3_mixed": ("gemma3_text", {"sliding_window": 96, "query_pre_attn_scalar": 16, "layer_types": _ALTERNATING}),
    "gemma4_shared": ("gemma4_text", _GEMMA4),
    "gemma4_images": ("gemma4_text", _GEMMA4),
    "llama4": ("llama4_text", _LLAMA4),
    "opt": ("opt", {"ffn_dim": 96, "dropout": 0.0}),
}


def tiny_model(architecture, attention="eager", **changes):
    """A seeded random model in float32; the same weights for every attention backend."""
    kind, special = ARCHITECTURES[architecture]
    torch.manual_seed(7)
    config = CONFIG_MAPPING[kind](**{**COMMON, **special, **changes})
    if architecture in _WHOLE:
        config = CONFIG_MAPPING[_WHOLE[architecture]](
            text_config=config.to_dict(), vision_config=_IMAGES, mm_tokens_per_image=4
        )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # transformers makes biases zeros and norms ones; sinks must be large to be seen
            parameter.data += 0.3 * torch.randn(parameter.shape) + (4.0 if name.endswith("sinks") else 0.0)
    return model


def random_sample(n_context=300, n_question=9, n_response=23, seed=0):
    """Random ids in all four parts; id 0 occurs in the context."""
    generator = torch.Generator().manual_seed(seed)

    def ids(n):
        return torch.randint(0, COMMON["vocab_size"], (n,), generator=generator).tolist()

    context = ids(n_context)
    context[:1] = [0][: len(context)]
    return EncodedSample([0, 5, 6], context, ids(n_question), ids(n_response))


def random_chat(**sizes):
    """The same as ids of a chat template have it: control tokens in the frame, and a stop token at the end."""
    plain, (start, end, stop) = random_sample(**sizes), (150, 151, 152)
    head, question = [0, start, 7, end], [*plain.question, stop, start, 8, end]
    return EncodedSample(head, plain.context, question, [*plain.response[:-1], stop])


def profile_of(result, name):
    """A profile of the long pass, float64 ``[blocks]``."""
    return np.asarray(result[name], dtype=np.float64) * result[f"{name}_peak"]
