"""Text models that are applied to every sample: embeddings, to cluster topics, and rewards, to rate quality.

Neither is part of GATEAU. They are used for diversity and for the baseline CaR (Ge et al. 2024, "Clustering and
Ranking"). Samples are computed one at a time, without padding, so that the numbers of a sample depend on that sample
alone. Results are kept in a progress store, keyed by content, so that a killed job continues where it stopped.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gateau.command import argument_parser, progress
from gateau.digests import meaning_digest
from gateau.errors import ModelError, ScoreError
from gateau.model_files import ModelSpec, tokenizer_fingerprint, weights_fingerprint
from gateau.models import (
    Runtime,
    config_window,
    input_device,
    load_advice,
    load_config,
    load_model,
    load_tokenizer,
    resolved,
)
from gateau.scoring.arguments import add_model_options

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

    from gateau.scoring.store import ProgressStore

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Compute = Callable[[Row], Row]


def text_model_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a script that applies a text model to every sample."""
    parser = argument_parser(description)
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    return add_model_options(parser)


def run_text_model(
    args: argparse.Namespace, name: str, schema: pa.Schema, load: Callable[[ModelSpec, Runtime], Compute]
) -> Iterator[dict[str, Any]]:
    """Apply a text model to every sample and return the rows of its table.

    Args:
        args: the parsed arguments of :func:`text_model_parser`.
        name: name of the rule, which also names its progress store.
        schema: schema of the table: ``id`` and the columns that the model computes.
        load: loads the model and returns the function that computes these columns for a sample.
    """
    import torch

    from gateau.scoring.store import ProgressStore

    torch.set_num_threads(args.threads)
    spec = resolved(ModelSpec.from_config(args.model))
    runtime = Runtime(args.device, args.dtype, args.attention, gpus=args.gpus_per_job)
    columns = schema.remove(schema.get_field_index("id"))
    store = ProgressStore(args.progress_dir, name, text_model_settings(spec, runtime), columns, args.progress_seconds)
    return every_sample(args.samples, store, lambda: load(spec, runtime), name)


def text_model_settings(spec: ModelSpec, runtime: Runtime) -> Mapping[str, Any]:
    """Return all settings that change a text model's numbers, as the JSON-ready key of its progress store."""
    return {
        "weights": weights_fingerprint(spec.path, spec.revision),
        "tokenizer": tokenizer_fingerprint(spec.path, spec.revision),
        "window": spec.window,
        "rope_parameters": spec.rope_parameters,
        "dtype": str(runtime.resolved_dtype()),
        "attention": runtime.attention,
        "code": meaning_digest([Path(__file__)]),
    }


def every_sample(samples: str, store: ProgressStore, load: Callable[[], Compute], name: str) -> Iterator[Row]:
    """Yield ``id`` and the computed columns for every row of the sample table, in its order.

    Only rows that are not in ``store`` are computed. If none is missing, ``load`` is not called. Results with a number
    that is not finite are not stored, so that a rerun computes them again.

    Args:
        samples: the sample table.
        store: the progress store.
        load: loads the model and returns the function that computes the columns.
        name: name of the rule, for the log.
    """
    from gateau.schemas import SAMPLES
    from gateau.scoring.shards import SampleReader
    from gateau.tables import open_table

    with open_table(samples, SAMPLES) as file:
        rows = file.read(columns=["id", "digest"]).to_pylist()
    missing = [number for number, row in enumerate(rows) if row["digest"] not in store]
    logger.info("%s: %d samples, %d to compute", name, len(rows), len(missing))
    compute = load() if missing else None
    not_finite: dict[str, Row] = {}
    with store:
        for text in progress(SampleReader(samples, SAMPLES).read(missing), name, "sample", len(missing)):
            assert compute is not None
            result = compute(text)
            if all(math.isfinite(value) for value in result.values() if isinstance(value, float)):
                store.add(text["digest"], result)
            else:
                not_finite[text["digest"]] = result
    for row in rows:
        found = not_finite.get(row["digest"]) or next(iter(store.get([row["digest"]])))
        yield {"id": row["id"], **found}


def load_embedder(spec: ModelSpec, runtime: Runtime) -> Compute:
    """Load an embedding model and return a function that embeds a sample's instruction and context.

    The instruction, which describes the task, comes before the context, which carries the topic. A text longer than the
    model's window is cut at its end. Any model of sentence-transformers works; its own files define the pooling.

    Raises:
        ModelError: if the model cannot be loaded.
        ScoreError: from the returned function, if an embedding is not finite.
    """
    from sentence_transformers import SentenceTransformer  # takes seconds to import

    given = {} if runtime.attention == "auto" else {"attn_implementation": runtime.attention}
    try:
        model = SentenceTransformer(
            spec.location, device=str(runtime.resolved_device()), revision=spec.revision,
            trust_remote_code=spec.trust_remote_code, model_kwargs={"dtype": runtime.resolved_dtype(), **given},
        )  # fmt: skip
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(load_advice(spec, "embedding model", error)) from error
    if spec.window:
        model.max_seq_length = spec.window

    def embed(row: Row) -> Row:
        text = f"{row['instruction']}\n\n{row['context']}"
        values = model.encode(text, show_progress_bar=False).astype("float32").tolist()
        if not all(map(math.isfinite, values)):
            raise ScoreError(
                f"the embedding of sample {row['id']} is not finite; half precision is the usual cause: set "
                "scoring.dtype to bfloat16 or float32"
            )
        return {"embedding": values}

    return embed


def load_reward_model(spec: ModelSpec, runtime: Runtime) -> Compute:
    """Load a reward model and return a function that computes the reward of a sample's response.

    A reward model is a sequence classifier with one output. A sample that does not fit into its window even without
    context has the status ``too_long`` and no reward.

    Raises:
        ModelError: if the model cannot be loaded, does not have exactly one output, or its config does not define its
            window.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    tokenizer, config = load_tokenizer(spec), load_config(spec)
    if config.num_labels != 1:
        raise ModelError(
            f"{spec.path} has {config.num_labels} outputs, but a reward model has one output (num_labels: 1 in its "
            "config.json)"
        )
    window = config_window(config)
    if window is None:
        raise ModelError(
            f"{spec.path}: its config.json does not define max_position_embeddings; set models.reward.window"
        )
    model = load_model(spec, config, runtime, AutoModelForSequenceClassification)

    @torch.no_grad()
    def reward(row: Row) -> Row:
        inputs = reward_inputs(tokenizer, row["context"], row["instruction"], row["response"], window)
        if inputs is None:
            return {"status": "too_long", "reward": None}
        tensors = {name: torch.tensor([ids], device=input_device(model)) for name, ids in inputs.items()}
        value = float(model(**tensors).logits[0, 0])
        return {"status": "ok" if math.isfinite(value) else "non_finite", "reward": value}

    return reward


def reward_inputs(
    tokenizer: PreTrainedTokenizerBase, context: str, instruction: str, response: str, window: int
) -> dict[str, list[int]] | None:
    """Encode a sample for a reward model, with the tokenizer's chat template or else as a pair of prompt and response.

    If the sample exceeds ``window`` tokens, tokens are cut from the middle of its context.

    Returns:
        The model's inputs, or None if the sample exceeds the window even without context.
    """

    def encoded(part: str) -> dict[str, list[int]]:
        prompt = f"{part}\n\n{instruction}" if part else instruction
        if tokenizer.chat_template is None:
            return dict(tokenizer(prompt, response))
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
        return dict(cast(Mapping[str, list[int]], rendered))

    inputs = encoded(context)
    ids = tokenizer(context, add_special_tokens=False).input_ids
    kept = len(ids)
    while (over := len(inputs["input_ids"]) - window) > 0:
        if not kept:
            return None
        kept = max(kept - over, 0)  # joined text can encode to more tokens, so another round may be needed
        first = (kept + 1) // 2
        ends = (tokenizer.decode(ids[:first]), tokenizer.decode(ids[len(ids) - (kept - first) :]))
        part = "".join(cast(str, end) for end in ends)
        inputs = encoded(part if kept else "")
    return inputs
