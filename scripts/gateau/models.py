"""Loading models and tokenizers the one way this project does, and telling what was chosen.

``auto`` resolves to: device, CUDA if there is one, else CPU; dtype, bfloat16 on CUDA and float32 on CPU; attention,
flash-attn 2 or 3 if installed on CUDA with half precision, else sdpa (eager for models that cap attention logits, which
sdpa cannot).
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from gateau.errors import ModelError, SettingsError
from gateau.model_files import ModelSpec
from gateau.prompts import adds_bos

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROBE_TEXT = "### Input: Zwölf Boxkämpfer jagen 12,345 quick foxes.\n\n\tdef f(x): return x\n 长文本 </s> <|im_start|>"


@dataclass(frozen=True)
class Runtime:
    """Where and how a model computes, as configured; each may be ``auto``."""

    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"

    def resolved_device(self) -> torch.device:
        """The torch device. Raises SettingsError for one that is not there."""
        if self.device != "auto":
            if self.device.startswith("cuda") and not torch.cuda.is_available():
                raise SettingsError("scoring.device is cuda, but torch sees no CUDA device; use auto or cpu")
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def resolved_dtype(self) -> torch.dtype:
        """The torch dtype of weights and activations."""
        if self.dtype == "auto":
            return torch.bfloat16 if self.resolved_device().type == "cuda" else torch.float32
        return _DTYPES[self.dtype]

    def resolved_attention(self, config: Any) -> str:
        """The attention backend for a model of this config."""
        if self.attention != "auto":
            return self.attention
        if self.resolved_device().type == "cuda" and self.resolved_dtype() != torch.float32:
            if is_flash_attn_2_available():
                return "flash_attention_2"
            if is_flash_attn_3_available():
                return "flash_attention_3"
        return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"

    def describe(self, config: Any) -> dict[str, str]:
        """What ``auto`` resolved to, for logs and digests."""
        return {
            "device": self.resolved_device().type,
            "dtype": str(self.resolved_dtype()).removeprefix("torch."),
            "attention": self.resolved_attention(config),
        }


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises ModelError with what to do when it cannot be loaded."""
    _require_directory(spec)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_load_advice(spec, "tokenizer", error)) from error
    return tokenizer


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of what a tokenizer does: vocabulary, BOS habit, and the ids of a probing text.

    Two homologous models must agree in it; file layouts and chat templates do not matter.
    """
    probe = tokenizer(_PROBE_TEXT, add_special_tokens=False, split_special_tokens=True).input_ids
    content = [sorted(tokenizer.get_vocab().items()), adds_bos(tokenizer), probe]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_config(spec: ModelSpec) -> Any:
    """The model's configuration with the spec's ``window`` and ``rope_parameters`` in their places."""
    _require_directory(spec)
    try:
        config = AutoConfig.from_pretrained(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_load_advice(spec, "config", error)) from error
    if spec.window:
        config.max_position_embeddings = spec.window
    if spec.rope_parameters:
        current = getattr(config, "rope_parameters", None)
        if not current:
            raise ModelError(
                f"{spec.path}: no rotary position embeddings to scale; use scoring.short_context: truncate"
            )
        if all(isinstance(value, dict) for value in current.values()):  # one set per layer type, as in Gemma 3
            config.rope_parameters = {kind: {**value, **spec.rope_parameters} for kind, value in current.items()}
        else:
            config.rope_parameters = {**current, **spec.rope_parameters}
    return config


def load_model(spec: ModelSpec, config: Any, runtime: Runtime) -> PreTrainedModel:
    """The model in evaluation mode on its device. Raises ModelError when it cannot be loaded."""
    device, dtype, attention = runtime.resolved_device(), runtime.resolved_dtype(), runtime.resolved_attention(config)
    logger.info("loading %s: %s on %s, attention %s", spec.path, dtype, device, attention)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            spec.path,
            config=config,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
            dtype=dtype,
            attn_implementation=attention,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(_load_advice(spec, "weights", error)) from error
    model.to(device)  # type: ignore[arg-type]
    model.eval()
    return model


def _require_directory(spec: ModelSpec) -> None:
    if spec.is_local:
        spec.config()


def _load_advice(spec: ModelSpec, part: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{spec.path}: cannot load the {part} ({reason}); give a local directory with config.json, weights and "
        "tokenizer, or a hub name that is cached or reachable; set trust_remote_code only for code you have read"
    )
