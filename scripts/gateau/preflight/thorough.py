"""All checks of a run: the cheap ones, and those that parse rows, load tokenizers, ask the hub, or estimate costs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from gateau.costs.run import Run, Stage
from gateau.errors import DataError, ModelError, SettingsError
from gateau.evaluation.configured import Evaluation
from gateau.experiments import Configuration
from gateau.hub_entries import is_unfetched
from gateau.model_files import ModelSpec, local_copy
from gateau.preflight.cheap import cheap_checks, existing, is_cached, is_offline, sections, window_of
from gateau.preflight.findings import ERROR, OK, WARNING, Finding, distinct, error_of
from gateau.preflight.rows import check_all_rows, check_rows
from gateau.reports import gigabytes

ASSUMED_GIB = 80.0


def all_checks(configuration: Configuration, gpu_memory_gib: float | None = None) -> list[Finding]:
    """Return the findings of all checks.

    Args:
        configuration: the configuration of the run.
        gpu_memory_gib: memory of one GPU in GiB; None stands for that of the GPU here, or an assumed one.
    """
    if wrong := error_of("configuration", configuration.check_names):
        return wrong
    run = Run(configuration, Path(configuration.config["results_dir"]))
    hub = check_hub(configuration)
    asked = {one.subject for one in hub}
    found = [
        *(one for one in cheap_checks(configuration) if one.subject not in asked),
        *hub,
        *check_hub_data(configuration),
        *check_rows(configuration),
        *check_tokenizers(configuration),
        *check_chat_format(configuration),
        *check_attention(configuration),
        *check_training_rows(run),
    ]
    stages: list[Stage] = []
    wrong = error_of("estimate", lambda: stages.extend(run.stages()))
    found += [*wrong, *check_all_rows(run), *check_memory(stages, gpu_memory_gib), *check_disk(stages)]
    found += error_of("configuration", configuration.check)
    found += error_of("configuration", Evaluation(configuration).check)
    return distinct(found, general=("configuration", "estimate"))


def check_tokenizers(configuration: Configuration) -> list[Finding]:
    """Check that the models that score encode all rows alike, and that the configured frame can be used."""
    from gateau.frames import choose_frame
    from gateau.models import load_tokenizer, renamed_tokens, special_tokens, tokenizer_digest
    from gateau.prompts import PromptEncoder

    if not configuration.ranked or "models.long" in configuration.unset:
        return []
    found, specs, tokenizers = [], {}, {}
    roles = ["long", "short", *(one.role for one in configuration.contrasts.values())]
    for role in dict.fromkeys(roles):
        try:
            specs[role] = local_copy(ModelSpec.from_config(configuration.model(role)))
            tokenizers[role] = load_tokenizer(specs[role])
        except ModelError as error:
            if ModelSpec.from_config(configuration.model(role)).is_local:
                found.append(Finding(ERROR, f"models.{role}", str(error)))
    if "long" not in tokenizers:
        return found
    long, scoring = tokenizers["long"], configuration.config["scoring"]
    try:
        frame = choose_frame(scoring["format"], specs["long"], long, scoring["prompt"], scoring["template_options"])
    except SettingsError as error:
        return [*found, Finding(ERROR, "scoring.format", str(error))]
    for role, tokenizer in tokenizers.items():
        if tokenizer_digest(tokenizer) != tokenizer_digest(long):
            text = (
                "its tokenizer is not that of models.long, so their losses cannot be compared token by token; choose "
                "homologous models, or copy the tokenizer if the vocabularies are the same"
            )
            found.append(Finding(ERROR, f"models.{role}", text))
        elif PromptEncoder(tokenizer, frame).frame_ids() != PromptEncoder(long, frame).frame_ids():
            text = "it lacks control tokens of the chat template of models.long; set scoring.format: plain"
            found.append(Finding(ERROR, f"models.{role}", text))
        elif differing := renamed_tokens(special_tokens(tokenizer), special_tokens(long)):
            text = f"{differing} from those of models.long; no text is encoded as one of them"
            found.append(Finding(WARNING, f"models.{role}", text))
    if len(tokenizers) > 1 and not found:
        found.append(Finding(OK, "tokenizers", f"the same for {', '.join(f'models.{role}' for role in tokenizers)}"))
    return found


def check_chat_format(configuration: Configuration) -> list[Finding]:
    """Check that models.base can be trained in the chat format, with over-long rows treated as configured."""
    from gateau.formats import FormatSettings
    from gateau.models import load_tokenizer
    from gateau.training.tokenization import RowEncoder, TokensOptions

    if not configuration.is_fine_tuned:
        return []
    name, max_length, over_long = (configuration.config["tokens"][key] for key in ("format", "max_length", "over_long"))
    try:
        tokenizer = load_tokenizer(local_copy(ModelSpec.from_config(configuration.model("base"))))
    except ModelError:  # the check of the models says so
        return []
    try:
        options = TokensOptions(name, max_length, over_long, FormatSettings(**configuration.format_settings))
        stop = RowEncoder(tokenizer, options).format.stop_id
    except SettingsError as error:
        return [Finding(ERROR, "tokens.format", str(error))]
    return [Finding(OK, "tokens.format", f"{name}; a response ends with {tokenizer.convert_ids_to_tokens(stop)}")]


def check_hub(configuration: Configuration) -> list[Finding]:
    """Ask the hub for each model that is neither local nor cached, unless HF_HUB_OFFLINE forbids it."""
    found = []
    for key, section in sections(configuration).items():
        spec = ModelSpec.from_config(section)
        if not spec.is_local and not is_cached(spec) and not is_offline():
            found.append(Finding(*_ask_hub(key, spec.path)))
    return found


def check_hub_data(configuration: Configuration) -> list[Finding]:
    """Ask the hub for each data set that is not fetched yet, unless HF_HUB_OFFLINE or a mirror takes its place."""
    from gateau.data.hub_data import ask_hub

    config, found = configuration.config, []
    if is_offline() or config["data"]["hub_mirror"] or not configuration.needs_rows:
        return []
    for entry in configuration.hub_data.values():
        if is_unfetched(entry.listing(config["results_dir"])):
            able = Finding(OK, "data", f"{entry.hub} can be fetched")
            found += error_of("data", partial(ask_hub, entry)) or [able]
    return found


def _ask_hub(key: str, name: str) -> tuple[str, str, str]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().auth_check(name)
    except GatedRepoError:
        return ERROR, key, f"{name} is gated; accept its licence on the hub, and log in with `hf auth login`"
    except RepositoryNotFoundError:
        return ERROR, key, f"{name} is not on the hub, or your token may not read it; give a folder or another name"
    except Exception as error:  # noqa: BLE001 - the client's errors have no common class
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        advice = f"fetch it with `hf download {name}` where there is a network, or give a local folder"
        return ERROR, key, f"{name} is not cached, and the hub cannot be reached ({reason}); {advice}"
    return OK, key, f"{name} can be downloaded; the first job does so"


def check_attention(configuration: Configuration) -> list[Finding]:
    """Check that the attention of the training can do what the plan asks of it, and warn of eager attention."""
    from gateau.training.objective import check_dense_mask

    config, train = configuration.config, configuration.config["train"]
    text = "eager attention holds weights for all pairs of tokens, which no estimate of memory counts; choose another"
    used = {"scoring": bool(configuration.ranked), "train": bool(configuration.trained)}
    eager = [key for key, is_used in used.items() if is_used and config[key]["attention"] == "eager"]
    found = [Finding(WARNING, f"{key}.attention", text) for key in eager]
    if not configuration.trained or config["plan"]["method"] == "sort":
        return found
    attention = "sdpa" if (train["attention"], train["device"]) == ("auto", "cpu") else train["attention"]
    return found + error_of("train.attention", lambda: check_dense_mask(attention, config["plan"]["token_budget"]))


def check_training_rows(run: Run) -> list[Finding]:
    """Check that there are as many rows as each training asks for, and that window and batches hold the longest."""
    found: list[Finding] = []
    for name in run.configuration.trained:
        try:
            rows = run.mixture(run.configuration.experiments[name])
        except DataError as error:
            found.append(Finding(ERROR, f"experiments.{name}", str(error)))
            continue
        if rows:
            found.append(Finding(OK, f"experiments.{name}", f"about {len(rows)} rows to train on"))
    longest = max((one.tokens for rows in run.rows.values() for one in rows or ()), default=0)
    base, budget = run.configuration.model("base"), run.config["plan"]["token_budget"]
    window = window_of(base) if longest else None
    if window and longest > window and not base.get("rope_parameters"):
        text = (
            f"the longest row has about {longest} tokens, and models.base has a window of {window}, beyond which it is "
            "untrained; lower tokens.max_length, or scale the model with rope_parameters"
        )
        found.append(Finding(WARNING, "tokens.max_length", text))
    if longest > budget:
        text = f"{budget} tokens cannot hold the longest row (about {longest}); raise it, or lower tokens.max_length"
        found.append(Finding(ERROR, "plan.token_budget", text))
    return found


_MORE_GPUS = "raise scoring.gpus_per_job, or take GPUs with more memory"
_LOWER = {
    "segment_pass": f"lower scoring.segment_batch_tokens, {_MORE_GPUS}",
    "train": (
        "set train.gradient_checkpointing: true, use more GPUs (train.deepspeed: config/deepspeed/zero3.json, "
        "train.ranks_per_node), move the optimizer to the host (zero3_offload_optimizer.json), train adapters "
        "(train.lora: {r: 16}), or lower tokens.max_length and plan.token_budget"
    ),
    "generate": (
        "lower evaluate.generate.batch_tokens or evaluate.generate.max_length, or raise evaluate.generate.gpus_per_job"
    ),
}


def check_memory(stages: Iterable[Stage], gpu_memory_gib: float | None = None) -> list[Finding]:
    """Check that each rule that uses GPUs fits the memory of one."""
    memory, name = _gpu(gpu_memory_gib)
    on_gpus = [one for one in stages if one.devices]
    largest: dict[str, float] = {}
    for one in on_gpus:
        largest[one.rule] = max(largest.get(one.rule, 0.0), one.memory or 0.0)
    found = []
    for rule, needed in largest.items():
        text = f"about {gigabytes(needed)} of {gigabytes(memory)} GB of {name}"
        if needed > memory:
            text += "; " + _LOWER.get(rule, f"lower scoring.max_length, {_MORE_GPUS}")
        if needed:
            found.append(Finding(ERROR if needed > memory else OK, f"memory of {rule}", text))
    if unknown := dict.fromkeys(one.rule for one in on_gpus if not one.memory):
        text = f"unknown for {', '.join(unknown)} without config.json; fetch it with `hf download MODEL config.json`"
        found.append(Finding(WARNING, "memory", text))
    return found


def _gpu(gib: float | None) -> tuple[float, str]:
    """Return the memory of one GPU in bytes, and its name."""
    import torch

    if gib:
        return gib * 2**30, f"a GPU with {gib:g} GiB"
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return float(found.total_memory), found.name
    return ASSUMED_GIB * 2**30, f"an assumed GPU with {ASSUMED_GIB:g} GiB (--gpu-memory-gib)"


def check_disk(stages: Iterable[Stage]) -> list[Finding]:
    """Check that each disk has room for what is still to be written there.

    Results, progress and checkpoints may be on different disks. What a folder of a stage holds already does not count
    again.
    """
    needed: Counter[str] = Counter()
    for one in stages:
        needed.update(one.files or {})
    folders: dict[Any, Path] = {}
    more: Counter[Any] = Counter()
    for path, size in needed.items():
        folder = existing(path)
        disk = _disk_of(folder)
        folders.setdefault(disk, folder)
        more[disk] += max(size - _written(Path(path)), 0)
    return [_room(folder, more[disk]) for disk, folder in folders.items()]


def _disk_of(folder: Path) -> int:
    return folder.stat().st_dev


def _written(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if there is none."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def _room(folder: Path, more: float) -> Finding:
    free = shutil.disk_usage(folder).free
    text = (
        f"about {gigabytes(more)} GB are still to be written, and {gigabytes(free)} GB are free on the disk of {folder}"
    )
    if more <= 0.8 * free:
        return Finding(OK, "disk", text)
    advice = "set results_dir, progress_dir or train.checkpoint_dir to a larger disk, or train fewer experiments"
    return Finding(ERROR if more > free else WARNING, "disk", f"{text}; {advice}")
