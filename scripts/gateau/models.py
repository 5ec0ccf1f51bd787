"""Load models and tokenizers, and resolve the settings that are ``auto``.

``auto`` means: device, CUDA if there is one, else the CPU; dtype, bfloat16 on CUDA and float32 on the CPU; attention,
an installed flash-attn (in this order: 2, 4 on Hopper and later, 3) on CUDA in half precision, and otherwise sdpa.
Models with capped attention logits use eager, because sdpa cannot cap them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import resolve_revision
from transformers.utils.import_utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_flash_attn_4_available,
)

from gateau.errors import ModelError, SettingsError
from gateau.model_files import ModelSpec
from gateau.prompts import adds_bos

if TYPE_CHECKING:  # importing it takes two seconds, which scripts that only need the tokenizer save
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_LOADING = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROBE_TEXT = "### Input: Zwölf Boxkämpfer jagen 12,345 quick foxes.\n\n\tdef f(x): return x\n 长文本 </s> <|im_start|>"


@dataclass(frozen=True)
class Runtime:
    """Device, dtype and attention backend of a model, as configured; each may be ``auto``."""

    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    setting: str = "scoring"  # section of the configuration that messages name

    def resolved_device(self) -> torch.device:
        """Return the torch device.

        Raises:
            SettingsError: CUDA is requested, but torch finds no CUDA device.
        """
        if self.device != "auto":
            if self.device.startswith("cuda") and not torch.cuda.is_available():
                raise SettingsError(f"{self.setting}.device is cuda, but torch sees no CUDA device; use auto or cpu")
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def resolved_dtype(self) -> torch.dtype:
        """Return the torch dtype of weights and activations."""
        if self.dtype == "auto":
            return torch.bfloat16 if self.resolved_device().type == "cuda" else torch.float32
        return _DTYPES[self.dtype]

    def resolved_attention(self, config: Any, packed: bool = False) -> str:
        """Return the attention backend for a model with this config.

        With ``packed`` sequences, as in training, sdpa needs a dense mask of shape (S, S). On CUDA without flash-attn,
        flex_attention is used instead.
        """
        if self.attention != "auto":
            return self.attention
        on_cuda = self.resolved_device().type == "cuda"
        if on_cuda and self.resolved_dtype() != torch.float32:
            if is_flash_attn_2_available():
                return "flash_attention_2"
            if is_flash_attn_4_available() and torch.cuda.get_device_capability() >= (9, 0):
                return "flash_attention_4"
            if is_flash_attn_3_available():
                return "flash_attention_3"
        if on_cuda and packed:
            return "flex_attention"
        return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"

    def describe(self, config: Any) -> dict[str, str]:
        """Return device, dtype and attention with ``auto`` resolved, for logs and digests."""
        return {
            "device": self.resolved_device().type,
            "dtype": str(self.resolved_dtype()).removeprefix("torch."),
            "attention": self.resolved_attention(config),
        }


def resolved(spec: ModelSpec) -> ModelSpec:
    """Return the spec with its hub revision resolved to a commit, if the hub or the cache knows it.

    A job then loads everything from one state of the repository, and its results are stored under that commit. The spec
    of a local model is returned unchanged.
    """
    if spec.is_local:
        return spec
    revision = resolve_revision(spec.path, spec.revision)
    return replace(spec, revision=getattr(revision, "resolved", revision))


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer.

    Raises:
        ModelError: the tokenizer cannot be loaded.
    """
    _require_directory(spec)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            spec.location, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except _LOADING as error:
        raise ModelError(load_advice(spec, "tokenizer", error)) from error
    return tokenizer


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of a tokenizer's behaviour: vocabulary, whether it adds BOS, and the ids of a probe text.

    Two homologous models must have the same digest. It does not depend on file layouts or chat templates.
    """
    probe = tokenizer(_PROBE_TEXT, add_special_tokens=False, split_special_tokens=True).input_ids
    content = [sorted(tokenizer.get_vocab().items()), adds_bos(tokenizer), probe]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_config(spec: ModelSpec, dynamic_ntk: bool = False) -> Any:
    """Return the model's configuration, overridden by the spec's ``window`` and ``rope_parameters``.

    With ``dynamic_ntk``, the rotary base of full-attention layers grows with length / window beyond the window. The
    factor is 1, so that nothing changes inside the window.

    Raises:
        ModelError: the configuration cannot be loaded, there are no rotary embeddings to scale, or (with
            ``dynamic_ntk``) the model has a scaling of its own, which must not be overwritten silently.
    """
    _require_directory(spec)
    try:
        config = AutoConfig.from_pretrained(
            spec.location, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except _LOADING as error:
        raise ModelError(load_advice(spec, "config", error)) from error
    if spec.window:
        config.max_position_embeddings = spec.window
    if dynamic_ntk or spec.rope_parameters:
        _scale_rope(spec, config, {"rope_type": "dynamic", "factor": 1.0} if dynamic_ntk else {})
    return config


def _scale_rope(spec: ModelSpec, config: Any, scaling: dict[str, Any]) -> None:
    current = getattr(config, "rope_parameters", None)
    if not current:
        raise ModelError(f"{spec.path}: no rotary position embeddings to scale; use scoring.short_context: truncate")
    by_layer_type = all(isinstance(value, dict) for value in current.values())  # as in Gemma 3
    full = current.get("full_attention", {}) if by_layer_type else current
    own = full.get("rope_type", "default")
    if scaling and own != "default" and not spec.rope_parameters:
        raise ModelError(
            f"{spec.path} scales its rotary embeddings itself ({own}), which dynamic NTK would overwrite; use "
            "scoring.short_context: none or truncate, or set models.short.rope_parameters to what you want"
        )
    full = {**full, **scaling, **spec.rope_parameters}
    config.rope_parameters = {**current, "full_attention": full} if by_layer_type else full


def load_model(spec: ModelSpec, config: Any, runtime: Runtime) -> PreTrainedModel:
    """Return the model in evaluation mode on its device.

    Raises:
        ModelError: the model cannot be loaded.
    """
    device, dtype, attention = runtime.resolved_device(), runtime.resolved_dtype(), runtime.resolved_attention(config)
    logger.info("loading %s: %s on %s, attention %s", spec.path, dtype, device, attention)
    model = load_pretrained(spec, config, dtype, attention)
    model.to(device)  # type: ignore[arg-type]
    model.eval()
    return model


def load_pretrained(
    spec: ModelSpec, config: Any, dtype: torch.dtype, attention: str | None, kind: Any = AutoModelForCausalLM
) -> PreTrainedModel:
    """Return the model as ``from_pretrained`` loads it.

    Args:
        spec: the model's place.
        config: its configuration, from :func:`load_config`.
        dtype: type of the weights.
        attention: attention backend; None leaves the choice to transformers.
        kind: one of the auto classes of transformers.

    Raises:
        ModelError: the model cannot be loaded, or its weights lack a tensor.
    """
    model: PreTrainedModel
    report: dict[str, Any]
    try:
        model, report = kind.from_pretrained(
            spec.location,
            config=config,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except _LOADING as error:
        raise ModelError(load_advice(spec, "weights", error)) from error
    absent = sorted([*report["missing_keys"], *(str(entry) for entry in report.get("mismatched_keys", ()))])
    if absent:  # transformers would fill them with random values
        raise ModelError(
            f"{spec.path}: {len(absent)} tensors of the model are not in its weights ({', '.join(absent[:3])}, …); "
            "fetch the checkpoint again, or check that its config.json belongs to it"
        )
    return model


def _require_directory(spec: ModelSpec) -> None:
    if spec.is_local:
        spec.config()


def load_advice(spec: ModelSpec, part: str, error: Exception) -> str:
    """Return a message that says why a part of a model cannot be loaded, and what to do."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{spec.path}: cannot load the {part} ({reason}); give a local directory with config.json, weights and "
        "tokenizer, or a hub name that is cached or reachable; set trust_remote_code only for code you have read"
    )
