"""Export of a trained model in the usual format: weights, tokenizer with chat template, stop token, model card."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from gateau.errors import SettingsError
from gateau.files import write_json, write_text
from gateau.formats import ChatFormat, chat_format
from gateau.model_files import ModelSpec
from gateau.models import load_config, load_pretrained, load_tokenizer, resolved

logger = logging.getLogger(__name__)

_MAX_SHARD_SIZE = "5GB"


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


def export_model(trained: Path, base: ModelSpec, format_name: str, summaries: StageSummaries, output: Path) -> None:
    """Write the model to the folder ``output``, which appears only once it is complete.

    Weights are written in the dtype that training computed in. Adapters are merged into the base model.

    Args:
        trained: folder with the trained weights or adapters.
        base: the model that was fine-tuned.
        format_name: chat format of the training.
        summaries: summaries of the stages that produced the model.
        output: folder to write.
    """
    base = resolved(base)
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tokenizer = load_tokenizer(base)
    trained_format = chat_format(format_name, tokenizer)
    dtype = getattr(torch, summaries.train["dtype"])
    model = _merged(trained, base, dtype) if (trained / "adapter_config.json").exists() else _loaded(trained, dtype)
    model.generation_config = generation_config(trained_format, tokenizer)
    model.config.use_cache = True
    model.save_pretrained(temporary, max_shard_size=_MAX_SHARD_SIZE)
    tokenizer.chat_template = trained_format.chat_template()
    tokenizer.save_pretrained(temporary)
    write_json(temporary / "gateau.json", {"chat_format": format_name, "experiment": summaries.experiment})
    write_text(temporary / "README.md", model_card(summaries, base, format_name))
    shutil.rmtree(output, ignore_errors=True)
    temporary.rename(output)


def _loaded(trained: Path, dtype: torch.dtype) -> Any:
    spec = ModelSpec(str(trained.resolve()))
    return load_pretrained(spec, load_config(spec), dtype, "sdpa")


def _merged(trained: Path, base: ModelSpec, dtype: torch.dtype) -> Any:
    from peft import PeftModel

    model: Any = load_pretrained(base, load_config(base), dtype, "sdpa")
    return PeftModel.from_pretrained(model, str(trained)).merge_and_unload()


def generation_config(trained_format: ChatFormat, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Return a config for greedy decoding that stops at the stop token of the chat format used in training."""
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else trained_format.stop_id
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=trained_format.stop_id, pad_token_id=padding, do_sample=False
    )


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


def push_to_hub(folder: Path, repository: str, private: bool) -> str:
    """Upload an exported model to the Hugging Face hub and return its address.

    The token is read from the environment variable HF_TOKEN, never from a file or an argument.

    Args:
        folder: folder of the exported model.
        repository: name of the repository, which is created if it does not exist.
        private: create the repository as private.

    Raises:
        SettingsError: if there is no token, or the hub rejects the upload.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    token = os.environ.get("HF_TOKEN")
    if not token:
        raise SettingsError(
            "export.hub_repository is set, but HF_TOKEN is not in the environment; set it, or set "
            "export.hub_repository: null and push later"
        )
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        info = api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Model trained with GATEAU")
    except (HfHubHTTPError, OSError) as error:
        raise SettingsError(f"{repository}: the hub rejects the upload ({str(error).splitlines()[0]})") from None
    return str(info)


def describe_upload(folder: Path) -> str:
    """Return the files that a push would upload with their sizes in bytes, as JSON."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return json.dumps({str(file.relative_to(folder)): file.stat().st_size for file in files}, indent=2)
