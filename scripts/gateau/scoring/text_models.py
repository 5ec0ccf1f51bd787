"""What a text model says of each sample: its embedding, to tell topics apart, or its reward, to tell quality.

Neither is part of GATEAU: they serve diversity and the baseline CaR (Ge et al. 2024, "Clustering and Ranking").
Samples are computed one at a time, without padding, and kept in a progress store by content: a sample's numbers depend
on nothing but the sample, and a killed job goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from gateau.command import progress
from gateau.digests import meaning_digest
from gateau.errors import ModelError, ScoreError
from gateau.model_files import ModelSpec, tokenizer_fingerprint, weights_fingerprint
from gateau.models import Runtime, load_advice, load_config, load_pretrained, load_tokenizer, resolved
from gateau.schemas import SAMPLES
from gateau.scoring.arguments import with_model
from gateau.scoring.shards import SampleReader
from gateau.scoring.store import ProgressStore
from gateau.tables import open_table

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Compute = Callable[[Row], Row]


def text_model_parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments of a script that asks a text model about every sample."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--samples", required=True)
    return with_model(parser)


def run_text_model(
    args: argparse.Namespace, name: str, schema: pa.Schema, load: Callable[[ModelSpec, Runtime], Compute]
) -> Iterator[dict[str, Any]]:
    """Rows of ``schema``: what the model that ``load`` gives says of every sample."""
    torch.set_num_threads(args.threads)
    spec, runtime = resolved(ModelSpec.from_config(args.model)), Runtime(args.device, args.dtype, args.attention)
    columns = schema.remove(schema.get_field_index("id"))
    store = ProgressStore(args.progress_dir, name, text_model_settings(spec, runtime), columns, args.progress_seconds)
    return every_sample(args.samples, store, lambda: load(spec, runtime), name)


def text_model_settings(spec: ModelSpec, runtime: Runtime) -> Mapping[str, Any]:
    """What changes a text model's numbers, for its progress store; JSON-ready."""
    return {
        "weights": weights_fingerprint(spec.path, spec.revision),
        "tokenizer": tokenizer_fingerprint(spec.path, spec.revision),
        "window": spec.window,
        "dtype": str(runtime.resolved_dtype()),
        "attention": runtime.attention,
        "code": meaning_digest([Path(__file__)]),
    }


def every_sample(samples: str, store: ProgressStore, load: Callable[[], Compute], name: str) -> Iterator[Row]:
    """``id`` and what ``load()`` computes, for every row of the sample table, in its order.

    Only rows that are not in ``store`` are computed; if none is missing, ``load`` is not called. Results with a number
    that is not finite are not stored: a rerun tries them again.
    """
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
    """Embeds instruction and context, cut to the model's window: what the task is and what the text is about.

    Any model of sentence-transformers; pooling is as the model's own files say.

    Raises:
        ModelError: it cannot be loaded.
        ScoreError: an embedding is not finite.
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
    """The reward of a response to context and instruction, by a sequence classifier with one output.

    Raises:
        ModelError: it cannot be loaded, has more outputs than one, or does not tell its window.
    """
    tokenizer, config = load_tokenizer(spec), load_config(spec)
    if config.num_labels != 1:
        raise ModelError(
            f"{spec.path} has {config.num_labels} outputs; a reward model has one (num_labels 1 in its config.json)"
        )
    window = getattr(config, "max_position_embeddings", None)
    if window is None:
        raise ModelError(f"{spec.path} does not tell its window; set models.reward.window")
    attention = None if runtime.attention == "auto" else runtime.attention
    model = load_pretrained(spec, config, runtime.resolved_dtype(), attention, AutoModelForSequenceClassification)
    model.to(runtime.resolved_device())  # type: ignore[arg-type]
    model.eval()

    @torch.no_grad()
    def reward(row: Row) -> Row:
        inputs = reward_inputs(tokenizer, row["context"], row["instruction"], row["response"], window)
        if inputs is None:
            return {"status": "too_long", "reward": None}
        tensors = {name: torch.tensor([ids], device=model.device) for name, ids in inputs.items()}
        value = float(model(**tensors).logits[0, 0])
        return {"status": "ok" if math.isfinite(value) else "non_finite", "reward": value}

    return reward


def reward_inputs(
    tokenizer: PreTrainedTokenizerBase, context: str, instruction: str, response: str, window: int
) -> dict[str, list[int]] | None:
    """A conversation as a reward model reads it, by its chat template, else as a pair of prompt and response.

    A context too long for ``window`` loses tokens in its middle; None if the rest alone is too long.
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
        kept = max(kept - over, 0)  # it may take another round: text cut and joined can make more tokens
        first = (kept + 1) // 2
        ends = (tokenizer.decode(ids[:first]), tokenizer.decode(ids[len(ids) - (kept - first) :]))
        part = "".join(cast(str, end) for end in ends)
        inputs = encoded(part if kept else "")
    return inputs
