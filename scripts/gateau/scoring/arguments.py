"""The shared command line of the scoring passes, and the code that all of them run."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gateau.command import argument_parser, progress
from gateau.errors import ModelError
from gateau.model_files import ModelSpec, check_window
from gateau.models import (
    Runtime,
    config_window,
    load_config,
    load_model,
    load_tokenizer,
    renamed_tokens,
    resolved,
    special_tokens,
    tokenizer_digest,
)
from gateau.prompts import PromptEncoder, PromptTemplate
from gateau.runtime_options import add_runtime_options

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

    from gateau.scoring.passes import ScoringPass, ShortPass
    from gateau.scoring.segments import Screen

logger = logging.getLogger(__name__)


def pass_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all pass scripts share."""
    parser = argument_parser(description)
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument("--index", required=True, help="index.parquet of rule index")
    parser.add_argument("--shard", type=int, required=True, help="number of the shard to score, from 0")
    parser.add_argument(
        "--max-length",
        type=int,
        required=True,
        help="maximum tokens of a whole sequence; the start of longer contexts is cut off",
    )
    return add_model_options(parser)


def add_model_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of every script that computes with a model and stores its progress; return ``parser``."""
    parser.add_argument(
        "--model", type=json.loads, required=True, help="the model: an entry of the configuration's models, as JSON"
    )
    add_runtime_options(parser)
    parser.add_argument("--progress-dir", required=True, help="folder of the progress store")
    parser.add_argument(
        "--progress-seconds",
        type=float,
        default=20.0,
        help="seconds between writes to the progress store; a kill loses at most this much work",
    )
    parser.add_argument("--output", required=True, help="output: the results, Parquet")
    return parser


def run_pass(
    args: argparse.Namespace,
    spec: ModelSpec,
    name: str,
    schema: pa.Schema,
    make_pass: Callable[[Any, PromptEncoder], ScoringPass],
    *,
    dynamic_ntk: bool = False,
    whole_window: bool = False,
    screen: Screen | None = None,
    **pass_options: Any,
) -> None:
    """Score one shard with one pass. If all of its samples are stored, neither torch nor the model is loaded.

    Args:
        args: the parsed arguments of :func:`pass_parser`.
        spec: the model to score with.
        name: name of the pass.
        schema: columns of a result.
        make_pass: function from the model's config and the prompt encoder to the pass.
        dynamic_ntk: extend the model's window by dynamic NTK scaling of its rotary base.
        whole_window: require that the model's window, without extension, holds ``--max-length`` tokens.
        screen: which samples are read in part or not at all; None reads all samples as a whole.
        pass_options: further settings that change the numbers; they become part of the progress store's key.

    Raises:
        ModelError: if the model cannot be loaded, its window is too short, or its tokenizer encodes texts or the
            frame in another way than the one that the index was made with.
    """
    from gateau.scoring.stored import Note

    spec = resolved(spec)
    note = Note.of(args, spec, name, {**pass_options, "dynamic_ntk": dynamic_ntk, "whole_window": whole_window})
    if note.finish(args, name, schema, screen):
        return
    import torch

    from gateau.schemas import INDEX, SAMPLES
    from gateau.scoring.perplexity import check_logits_to_keep
    from gateau.scoring.settings import pass_settings
    from gateau.scoring.shards import SampleReader, index_of_shard, score_shard
    from gateau.scoring.store import ProgressStore
    from gateau.tables import read_metadata

    torch.set_num_threads(args.threads)
    tokenizer, indexed = load_tokenizer(spec), read_metadata(args.index, INDEX)
    frame = PromptTemplate(**json.loads(indexed["frame"]))
    encoder = PromptEncoder(tokenizer, frame)
    _check_tokenizer(spec, tokenizer, encoder, indexed)
    config = load_config(spec, dynamic_ntk)
    if whole_window:
        check_window(spec, config_window(config), args.max_length)
    runtime = Runtime(args.device, args.dtype, args.attention, gpus=args.gpus_per_job)
    scoring_pass = make_pass(config, encoder)
    settings = pass_settings(spec, config, runtime, asdict(frame), args.max_length, **pass_options)
    note.write(settings, getattr(scoring_pass, "window", None))

    def load() -> Any:
        model = load_model(spec, config, runtime)
        check_logits_to_keep(model)
        return model

    index = index_of_shard(args.index, args.shard)
    samples = SampleReader(args.samples, SAMPLES)
    score_shard(
        scoring_pass,
        index=index if screen is None else screen.apply(index, samples),
        samples=samples,
        encoder=encoder,
        max_length=args.max_length,
        store=ProgressStore(args.progress_dir, name, settings, schema, args.progress_seconds),
        load_model=load,
        output=args.output,
        watch=lambda rows, total: progress(rows, name, "sample", total),
    )


def _check_tokenizer(
    spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, encoder: PromptEncoder, indexed: Mapping[str, str]
) -> None:
    """Check that a model's tokenizer encodes samples as the index did. Warn of special tokens with other names."""
    if tokenizer_digest(tokenizer) != indexed["tokenizer"]:
        raise ModelError(
            f"{spec.path}: its tokenizer differs from that of models.long; homologous models share their vocabulary, "
            "and both put the same tokens, such as BOS, before a text: choose models of one family"
        )
    if encoder.frame_ids() != json.loads(indexed["frame_ids"]):
        raise ModelError(
            f"{spec.path}: its tokenizer lacks a control token of the chat template of models.long, or has it under "
            "another id; set scoring.format: plain, or choose models that share their control tokens"
        )
    if differing := renamed_tokens(special_tokens(tokenizer), json.loads(indexed["special_tokens"])):
        logger.warning("%s: %s from those of models.long; no text is encoded as one of them", spec.path, differing)


def add_short_context_option(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--short-context`` of the passes with a short-context model."""
    parser.add_argument(
        "--short-context",
        choices=("ntk", "truncate", "none"),
        required=True,
        help="how the model sees inputs beyond its window: ntk scales its rotary base dynamically, truncate cuts the "
        "context to the window, none changes nothing",
    )


def run_short_pass(args: argparse.Namespace, spec: ModelSpec, short_context: str, window: int | None = None) -> None:
    """Score one shard with θ_S, or with the model that a method uses instead of θ_S.

    Args:
        args: the parsed arguments of :func:`pass_parser`.
        spec: the model to score with.
        short_context: how the model sees long inputs: ``ntk`` (dynamic NTK scaling), ``truncate`` (the context is cut
            to the window) or ``none``.
        window: with ``truncate``, cut to this many tokens instead of the model's own window. The model's configured
            window stays as it is, because changing it could change the rotary scaling.

    Raises:
        ModelError: if the context is to be cut to the model's window and the model's config does not define one.
    """
    from gateau.schemas import SHORT_RESULT

    def make_pass(config: Any, encoder: PromptEncoder) -> ShortPass:
        from gateau.scoring.passes import ShortPass

        return ShortPass((window or context_window(spec, config)) if short_context == "truncate" else None)

    own: dict[str, Any] = {} if window is None else {"cut_to": window}
    is_scaled = short_context == "ntk"
    own["short_context"] = short_context
    run_pass(args, spec, "short_pass", SHORT_RESULT, make_pass, dynamic_ntk=is_scaled, **own)


def context_window(spec: ModelSpec, config: Any) -> int:
    """Return a model's context window in tokens. Raise ModelError if its config does not define one."""
    window = config_window(config)
    if window is None:
        raise ModelError(
            f"{spec.path}: its config.json does not define max_position_embeddings; set models.short.window"
        )
    return window
