"""Tiny random models of several architectures, with weights large enough that attention is far from uniform."""

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from gateau.prompts import EncodedSample

COMMON = {
    "vocab_size": 160, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip

ARCHITECTURES = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral_window": ("mistral", {"sliding_window": 96}),
    "gemma": ("gemma", {"num_key_value_heads": 1}),
    "gemma2_softcap": ("gemma2", {"sliding_window": 96, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0}),
    "gemma3_mixed": (
        "gemma3_text",
        {
            "sliding_window": 96,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
}


def tiny_model(architecture, attention="eager", **changes):
    """A seeded random model in float32; the same weights for every attention backend."""
    kind, special = ARCHITECTURES[architecture]
    torch.manual_seed(7)
    config = CONFIG_MAPPING[kind](**{**COMMON, **special, **changes})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().eval()


def random_sample(n_context=300, n_question=9, n_response=23, seed=0):
    """Random ids in all four parts; id 0 occurs in the context."""
    generator = torch.Generator().manual_seed(seed)

    def ids(n):
        return torch.randint(0, COMMON["vocab_size"], (n,), generator=generator).tolist()

    context = ids(n_context)
    context[:1] = [0][: len(context)]
    return EncodedSample([0, 5, 6], context, ids(n_question), ids(n_response))
