"""Export of a trained model in the usual format: weights, tokenizer with chat template, stop token, model card."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateau.files import write_json, write_text
from gateau.formats import ChatFormat, FormatSettings, chat_format
from gateau.model_files import ModelSpec
from gateau.models import load_config, load_pretrained, load_tokenizer, resolved

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_MAX_SHARD_GB = 5


@dataclass(frozen=True)
class StageSummaries:
    """Summaries of the stages that produced a model, for its model card.

    Attributes:
        experiment: name of the experiment.
        train: summary of rule train.
        mixture: summary of rule mixture.
        plan: statistics of rule plan.
        selection: summary of rule selection; None if the experiment has no ranking.
    """

    experiment: str
    train: Mapping[str, Any]
    mixture: Mapping[str, Any]
    plan: Mapping[str, Any]
    selection: Mapping[str, Any] | None


def export_model(
    trained: Path,
    base: ModelSpec,
    format_name: str,
    settings: FormatSettings,
    summaries: StageSummaries,
    output: Path,
) -> None:
    """Write the model to the folder ``output``, which appears only once it is complete.

    Weights are written in the dtype that training computed in. Adapters are merged into the base model. Weights that
    training wrote in the same form are copied, which needs neither torch nor the model.

    Args:
        trained: folder with the trained weights or adapters.
        base: the model that was fine-tuned.
        format_name: chat format of the training.
        settings: settings of this format.
        summaries: summaries of the stages that produced the model.
        output: folder to write.
    """
    base = resolved(base)
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tokenizer = load_tokenizer(base)
    trained_format = chat_format(format_name, tokenizer, settings)
    if settings.stop_token is not None:  # so that other programs stop there, too
        tokenizer.eos_token = settings.stop_token
    decoding = generation_options(trained_format, tokenizer)
    if _can_be_copied(trained, summaries.train["dtype"]):
        _copy(trained, temporary, decoding)
    else:
        _convert(trained, base, summaries.train["dtype"], temporary, decoding)
    tokenizer.chat_template = trained_format.chat_template()
    tokenizer.save_pretrained(temporary)
    record: dict[str, Any] = {"chat_format": format_name, "experiment": summaries.experiment}
    if settings.template_options:
        record["template_options"] = dict(settings.template_options)
    write_json(temporary / "gateau.json", record)
    write_text(temporary / "README.md", model_card(summaries, base, format_name))
    shutil.rmtree(output, ignore_errors=True)
    temporary.rename(output)


def _can_be_copied(trained: Path, dtype: str) -> bool:
    """Tell whether loading and saving the trained weights would write the same bytes."""
    if (trained / "adapter_config.json").exists():
        return False
    config = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    sizes = [file.stat().st_size for file in trained.glob("*.safetensors")]
    return bool(
        sizes
        and max(sizes) <= _MAX_SHARD_GB * 1e9
        and config.get("dtype") == dtype
        and config.get("transformers_version") == version("transformers")
        and "auto_map" not in config  # such a model has code beside its weights
    )


def _copy(trained: Path, output: Path, decoding: Mapping[str, Any]) -> None:
    """Copy the weights, and write both configs as transformers would."""
    for file in [*trained.glob("*.safetensors"), *trained.glob("*.safetensors.index.json")]:
        shutil.copyfile(file, output / file.name)
    config = json.loads((trained / "config.json").read_text(encoding="utf-8")) | {"use_cache": True}
    given = {name: value for name, value in decoding.items() if value is not None}
    options = {**given, "transformers_version": version("transformers")}
    for name, content in (("config.json", config), ("generation_config.json", options)):
        write_text(output / name, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _convert(trained: Path, base: ModelSpec, dtype_name: str, output: Path, decoding: Mapping[str, Any]) -> None:
    """Load the model, with adapters merged and in the wanted dtype, and save it."""
    import torch
    from transformers import GenerationConfig

    dtype = getattr(torch, dtype_name)
    model = _merged(trained, base, dtype) if (trained / "adapter_config.json").exists() else _loaded(trained, dtype)
    model.generation_config = GenerationConfig(**decoding)
    model.config.use_cache = True
    model.save_pretrained(output, max_shard_size=f"{_MAX_SHARD_GB}GB")


def _loaded(trained: Path, dtype: torch.dtype) -> Any:
    spec = ModelSpec(str(trained.resolve()))
    return load_pretrained(spec, load_config(spec), dtype, "sdpa")


def _merged(trained: Path, base: ModelSpec, dtype: torch.dtype) -> Any:
    from peft import PeftModel

    model: Any = load_pretrained(base, load_config(base), dtype, "sdpa")
    return PeftModel.from_pretrained(model, str(trained)).merge_and_unload()


def generation_options(trained_format: ChatFormat, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the options of greedy decoding that stops at the stop token of the chat format used in training."""
    stop = trained_format.stop_id
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": stop, "pad_token_id": padding, "do_sample": False}


def model_card(summaries: StageSummaries, base: ModelSpec, format_name: str) -> str:
    """Return the README of the model, made from the run's own records."""
    train, mixture, plan = summaries.train, summaries.mixture, summaries.plan
    options = train["options"]
    # a local path means nothing to others and may reveal details of this machine
    name = base.directory.name if base.is_local else base.path
    lines = [
        "---",
        *([] if base.is_local else [f"base_model: {base.path}"]),
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [gateau, long-context]",
        "---",
        f"# {name}, fine-tuned: {summaries.experiment}",
        "",
        f"{name}{f' at {base.revision}' if base.revision else ''}, fine-tuned on {mixture['long']} long samples and "
        f"{mixture['short']} short chats, chosen and trained with GATEAU (arXiv:2410.15633) as a Snakemake workflow.",
        "",
        "## Data",
        "",
        "| | |",
        "|---|---|",
        f"| long samples | {mixture['long']} |",
        f"| short chats | {mixture['short']} |",
        f"| tokens (learnt) | {mixture['tokens']} ({mixture['targets']}) |",
        f"| longest sequence | {mixture['longest']} tokens |",
        f"| held out | {mixture['held_out']} rows |",
    ]
    if summaries.selection is not None:
        lines += [f"| ranked by | {summaries.selection['method']} |"]
        lines += [f"| {key} | {value} |" for key, value in sorted(summaries.selection["options"].items())]
        lines += [f"| ranked samples | {summaries.selection['ranked']} |"]
    lines += [
        "",
        "## Training",
        "",
        "| | |",
        "|---|---|",
        f"| chat format | {format_name} |",
        "| loss | mean over sequences of their mean token loss, responses only |",
        f"| batch plan | {plan['method']}, {plan['sequences_per_step']} sequences a step, {plan['epochs']} epochs, "
        f"{train['steps']} steps |",
        f"| ranks | {train['world_size']}"
        + (f", DeepSpeed ZeRO-{train['deepspeed_stage']}" if train["deepspeed_stage"] is not None else "")
        + " |",
        *(f"| {key} | {value} |" for key, value in sorted(options.items()) if key not in ("device", "dtype")),
        f"| computed in | {train['dtype']}, attention {train['attention']} |",
        *(
            f"| {_loss_name(key)}, first and last | {first:.4f}, {last:.4f} |"
            for key, (first, last) in train["losses"].items()
        ),
        f"| versions | {', '.join(f'{key} {value}' for key, value in sorted(train['versions'].items()))} |",
        "",
        "## Use",
        "",
        "The tokenizer's chat template is the format of training and the generation config stops at its stop token.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _loss_name(key: str) -> str:
    return {"loss": "training loss"}.get(key, key.replace("eval_loss", "held-out loss").replace("_", " "))
