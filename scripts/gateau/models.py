"""Load models and tokenizers, and resolve the settings that are ``auto``.

``auto`` means: device, CUDA if there is one, else the CPU; dtype, bfloat16 on CUDA and float32 on the CPU; attention,
an installed flash-attn (in this order: 2, 4 on Hopper and later, 3) on CUDA in half precision if the model supports it,
and otherwise sdpa. Models whose attention sdpa cannot compute, for example those with capped logits or with sinks, use
eager. For a model with code of its own, transformers chooses when it is loaded.

Importing this module takes no time: torch and transformers are imported where they are used, so that a script that
needs a tokenizer alone does not wait for either torch or the code of the models.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from gateau.errors import ModelError, SettingsError
from gateau.model_files import ModelSpec
from gateau.prompts import prefix_ids
from gateau.rotary import set_positions
from gateau.templates import control_tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_LOADING = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)
_PROBE_TEXT = (
    "### Input: Zwölf Boxkämpfer jagen 12,345 quick foxes.\n\n\tdef f(x): return x\n 长文本 </s> <|im_start|>"
    "\r\n \n\n\n   3.14159 1234567 I'm WE'LL don\u2019t \ufb01ne e\u0301 \u00e9 \u2167 \u00bd a\u00a0b\u200bc"
    "  --==>> {}[];\nПривет, мир! \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947 한국어 🙂"
)
_PROBED_TOKENS, _LISTED = 2000, 6
_FLASH_WIDTH = 256  # flash-attn computes no wider heads


@dataclass(frozen=True)
class Runtime:
    """Device, dtype and attention backend of a model, as configured; each may be ``auto``."""

    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    setting: str = "scoring"  # section of the configuration that messages name
    gpus: int = 1  # with more than one, the model's layers are spread over them

    def resolved_device(self) -> torch.device:
        """Return the torch device.

        Raises:
            SettingsError: CUDA is requested, but torch finds no CUDA device.
        """
        import torch

        if self.device != "auto":
            if self.device.startswith("cuda") and not torch.cuda.is_available():
                raise SettingsError(f"{self.setting}.device is cuda, but torch sees no CUDA device; use auto or cpu")
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def resolved_dtype(self) -> torch.dtype:
        """Return the torch dtype of weights and activations."""
        import torch

        if self.dtype == "auto":
            return torch.bfloat16 if self.resolved_device().type == "cuda" else torch.float32
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def resolved_attention(self, config: Any, packed: bool = False) -> str:
        """Return the attention backend for a model with this config.

        It stays ``auto`` if the model's class is not known before it is loaded; transformers then chooses. With
        ``packed`` sequences, as in training, sdpa needs a dense mask of shape (S, S). On CUDA without flash-attn,
        flex_attention is used instead.
        """
        if self.attention != "auto":
            return self.attention
        import torch

        on_cuda, kind = self.resolved_device().type == "cuda", _model_class(config)
        is_capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
        if kind is None and not packed and not is_capped:
            return "auto"
        can_flash = getattr(kind, "_supports_flash_attn", True) and _widest_head(config) <= _FLASH_WIDTH
        if on_cuda and self.resolved_dtype() != torch.float32 and can_flash:
            # None: the model works with all of them
            compatible = getattr(kind, "_compatible_flash_implementations", None)
            for name in _installed_flash():
                if compatible is None or name in compatible:
                    return name
        if on_cuda and packed:
            return "flex_attention"
        return "eager" if is_capped or not getattr(kind, "_supports_sdpa", True) else "sdpa"

    def placement(self) -> dict[str, Any]:
        """Return the arguments of ``from_pretrained`` that spread the layers over several GPUs; empty for one device.

        Raises:
            SettingsError: torch sees fewer GPUs.
        """
        if self.gpus == 1:
            return {}
        import torch
        from accelerate.utils import get_max_memory

        if (found := torch.cuda.device_count()) < self.gpus:
            raise SettingsError(
                f"{self.setting}.gpus_per_job is {self.gpus}, but torch sees {found} CUDA devices; lower it, or give "
                "the job more GPUs"
            )
        free = get_max_memory()
        # without an entry for the CPU, layers that do not fit are left on disk, which load_model refuses
        return {"device_map": "balanced", "max_memory": {number: free[number] for number in range(self.gpus)}}

    def describe(self, config: Any) -> dict[str, str]:
        """Return device, dtype and attention with ``auto`` resolved, except as said above, for logs and digests."""
        return {
            "device": self.resolved_device().type,
            "dtype": str(self.resolved_dtype()).removeprefix("torch."),
            "attention": self.resolved_attention(config),
        }


def _model_class(config: Any) -> Any:
    """Return the class of transformers for a causal model with this config; None if the model brings its own code.

    Loading such a model registers its class, so that only a class of transformers itself counts.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return kind if getattr(kind, "__module__", "").startswith("transformers.") else None


def _widest_head(config: Any) -> int:
    """Return the features of the widest attention head; layers may differ, as in Gemma 4."""
    text = config.get_text_config()
    layers = text.per_layer_config if getattr(text, "is_heterogeneous", False) else [text]
    return max(
        getattr(one, "head_dim", None) or getattr(one, "hidden_size", 0) // getattr(one, "num_attention_heads", 1)
        for one in layers
    )


def _installed_flash() -> list[str]:
    """Return the names of the installed flash-attn backends that this GPU can use, the preferred one first."""
    import torch
    from transformers.utils import import_utils

    usable = {
        "flash_attention_2": import_utils.is_flash_attn_2_available(),
        "flash_attention_4": import_utils.is_flash_attn_4_available() and torch.cuda.get_device_capability() >= (9, 0),
        "flash_attention_3": import_utils.is_flash_attn_3_available(),
    }
    return [name for name, is_usable in usable.items() if is_usable]


def resolved(spec: ModelSpec) -> ModelSpec:
    """Return the spec with its hub revision resolved to a commit, if the hub or the cache knows it.

    A job then loads everything from one state of the repository, and its results are stored under that commit. The spec
    of a local model is returned unchanged.
    """
    if spec.is_local:
        return spec
    from transformers.utils.hub import resolve_revision

    revision = resolve_revision(spec.path, spec.revision)
    return replace(spec, revision=getattr(revision, "resolved", revision))


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer.

    Raises:
        ModelError: the tokenizer cannot be loaded.
    """
    _require_directory(spec)
    kind: Any
    options: dict[str, Any] = {}
    if _has_plain_tokenizer(spec):  # this class alone is imported in a second and without torch
        from transformers import PreTrainedTokenizerFast as kind
    else:
        from transformers import AutoTokenizer as kind
        from transformers.models.auto import tokenization_auto

        # mistral-common's own tokenizers can neither split control tokens in texts nor name their special tokens
        if hasattr(tokenization_auto, "_use_mistral_format"):
            options["mistral_format"] = False
    try:
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(
            spec.location, revision=spec.revision, trust_remote_code=spec.trust_remote_code, **options
        )
    except _LOADING as error:
        raise ModelError(load_advice(spec, "tokenizer", error)) from error
    return tokenizer


def _has_plain_tokenizer(spec: ModelSpec) -> bool:
    """Tell whether AutoTokenizer would certainly take the general class, whose files hold all of the tokenizer.

    For other models than Llama, AutoTokenizer may overrule the class that the files name.
    """
    try:
        named = json.loads((spec.directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        is_llama = spec.is_local and spec.config().get("model_type") == "llama"
    except (OSError, ValueError):
        return False
    is_general = named.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return is_llama and is_general and "auto_map" not in named and (spec.directory / "tokenizer.json").is_file()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of how a tokenizer encodes text: its ordinary vocabulary, its prefix, and probe texts.

    Two homologous models must have the same digest. It does not depend on file layouts, chat templates, or names of
    special tokens, because text never becomes a special token.
    """
    special = special_tokens(tokenizer)
    ordinary = sorted((number, token) for token, number in tokenizer.get_vocab().items() if token not in special)
    # the texts of tokens from all over the vocabulary, alone and together, reach merges that no fixed text reaches
    step = max(len(ordinary) // _PROBED_TOKENS, 1)
    texts = [str(tokenizer.decode([number], clean_up_tokenization_spaces=False)) for number, _ in ordinary[::step]]
    probes = tokenizer([_PROBE_TEXT, *texts, "".join(texts)], add_special_tokens=False, split_special_tokens=True)
    prefix = prefix_ids(tokenizer)
    bos = tokenizer.bos_token_id if prefix == [tokenizer.bos_token_id] else prefix or None
    content = [ordinary, bos, probes.input_ids]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the ids of all special tokens, reserved ones included, by name. Text is never encoded as one of them."""
    numbers: Any = tokenizer.convert_tokens_to_ids(names := control_tokens(tokenizer))
    return dict(zip(names, numbers, strict=True))


def renamed_tokens(first: Mapping[str, int], second: Mapping[str, int]) -> str:
    """Return a description of the special tokens that two tokenizers do not share; empty if there are none.

    Args:
        first: special tokens of one tokenizer, from :func:`special_tokens`.
        second: those of the other.
    """
    names = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
    listed = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    return f"{len(names)} special tokens differ ({listed})" if names else ""


def load_config(spec: ModelSpec, dynamic_ntk: bool = False) -> Any:
    """Return the model's configuration, overridden as :func:`gateau.rotary.set_positions` says.

    Raises:
        ModelError: the configuration cannot be loaded, or see :func:`gateau.rotary.set_positions`.
    """
    from transformers import AutoConfig

    _require_directory(spec)
    try:
        config = AutoConfig.from_pretrained(
            spec.location, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except _LOADING as error:
        raise ModelError(load_advice(spec, "config", error)) from error
    set_positions(spec, config.get_text_config(), dynamic_ntk)  # a part of it for a model that also reads images
    return config


def config_window(config: Any) -> int | None:
    """Return the context window in tokens of a model with this configuration, or None if it does not define one."""
    window: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return window


def load_model(spec: ModelSpec, config: Any, runtime: Runtime, kind: Any = None) -> PreTrainedModel:
    """Return the model in evaluation mode on its device, or with its layers spread over ``runtime.gpus`` GPUs.

    Args:
        spec: the model's place.
        config: its configuration, from :func:`load_config`.
        runtime: device, dtype and attention backend.
        kind: an auto class of transformers, which then chooses the backend for ``auto``; None stands for
            AutoModelForCausalLM.

    Raises:
        ModelError: the model cannot be loaded, or does not fit its GPUs.
        SettingsError: there are fewer GPUs.
    """
    device, dtype = runtime.resolved_device(), runtime.resolved_dtype()
    attention = runtime.attention if kind is not None else runtime.resolved_attention(config)
    where = str(device) if runtime.gpus == 1 else f"{runtime.gpus} GPUs"
    logger.info("loading %s: %s on %s, attention %s", spec.path, dtype, where, attention)
    placement = runtime.placement()
    model = load_pretrained(spec, config, dtype, attention, kind, runtime.setting, **placement)
    if attention == "auto":
        logger.info("%s: transformers chose attention %s", spec.path, model.config._attn_implementation)
    if not placement:
        model.to(device)  # type: ignore[arg-type]
    elif "disk" in getattr(model, "hf_device_map", {}).values():
        raise ModelError(
            f"{spec.path} does not fit {runtime.gpus} GPUs; raise {runtime.setting}.gpus_per_job, or take GPUs with "
            "more memory"
        )
    model.eval()
    return model


def input_device(model: PreTrainedModel) -> torch.device:
    """Return the device for a model's inputs, also if its layers are spread over several devices.

    ``model.device`` is that of the first parameter, which is ``meta`` if its weights are on disk.
    """
    import torch

    device: torch.device = model.get_input_embeddings().weight.device  # type: ignore[assignment]
    return torch.device("cpu") if device.type == "meta" else device


def load_pretrained(
    spec: ModelSpec,
    config: Any,
    dtype: torch.dtype,
    attention: str,
    kind: Any = None,
    setting: str = "train",
    **placement: Any,
) -> PreTrainedModel:
    """Return the model as ``from_pretrained`` loads it.

    Args:
        spec: the model's place.
        config: its configuration, from :func:`load_config`.
        dtype: type of the weights.
        attention: attention backend; ``auto`` leaves the choice to transformers.
        kind: one of the auto classes of transformers; None stands for AutoModelForCausalLM.
        setting: section of the configuration that messages name.
        placement: ``device_map`` and what belongs to it, if the layers do not all lie on one device.

    Raises:
        ModelError: the model cannot be loaded, or its weights lack a tensor.
    """
    from transformers import AutoModelForCausalLM

    kind = kind or AutoModelForCausalLM
    model: PreTrainedModel
    report: dict[str, Any]
    try:
        model, report = kind.from_pretrained(
            spec.location,
            config=config,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
            dtype=dtype,
            attn_implementation=None if attention == "auto" else attention,
            output_loading_info=True,
            **placement,
        )
    except _LOADING as error:
        raise ModelError(load_advice(spec, "weights", error, setting)) from error
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


def load_advice(spec: ModelSpec, part: str, error: Exception, setting: str = "scoring") -> str:
    """Return a message that says why a part of a model cannot be loaded, and what to do.

    ``setting`` is the section of the configuration that has the attention backend.
    """
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if re.search("does not support .*attention", reason, re.IGNORECASE):
        reason = reason.split(" Please request")[0]
        return f"{spec.path}: cannot load the {part} ({reason}); set {setting}.attention: eager"
    return (
        f"{spec.path}: cannot load the {part} ({reason}); give a local directory with config.json, weights and "
        "tokenizer, or a hub name that is cached or reachable; set trust_remote_code only for code you have read"
    )
