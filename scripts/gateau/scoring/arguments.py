"""The command line that the scripts of passes share, and the run behind it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch

from gateau.command import progress
from gateau.errors import ModelError
from gateau.model_files import ModelSpec, check_window
from gateau.models import Runtime, load_config, load_model, load_tokenizer, resolved, tokenizer_digest
from gateau.prompts import PromptEncoder
from gateau.schemas import INDEX, SAMPLES
from gateau.scoring.passes import ScoringPass, ShortPass
from gateau.scoring.perplexity import check_logits_to_keep
from gateau.scoring.settings import pass_settings
from gateau.scoring.shards import SampleReader, score_shard
from gateau.scoring.store import ProgressStore
from gateau.tables import iterate_rows, read_metadata


def pass_parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments of every pass script."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--samples", required=True)
    parser.add_argument("--index", required=True)
    parser.add_argument("--shard", type=int, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--max-length", type=int, required=True)
    return with_model(parser)


def with_model(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add what every script needs that computes with a model and keeps its progress."""
    parser.add_argument("--model", type=json.loads, required=True, help="an entry of the section models, as JSON")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; fixed, since sums depend on their number")
    parser.add_argument("--progress-dir", required=True)
    parser.add_argument("--progress-seconds", type=float, default=20.0, help="at most this much work is lost by a kill")
    parser.add_argument("--output", required=True)
    return parser


def run_pass(
    args: argparse.Namespace,
    spec: ModelSpec,
    make_pass: Callable[[Any, PromptEncoder], ScoringPass],
    *,
    dynamic_ntk: bool = False,
    whole_window: bool = False,
    **pass_options: Any,
) -> None:
    """Score one shard as the arguments say. ``make_pass`` gets the model's config and the prompt encoder.

    Args:
        dynamic_ntk: extend the model's window by dynamic NTK scaling of its rotary base.
        whole_window: the model must hold ``--max-length`` tokens in its window as it is.
        pass_options: what else changes the numbers, for the progress store.

    Raises:
        ModelError: the model cannot be loaded, its window is too short, or its tokenizer is not the one that the index
            was made with.
    """
    spec = resolved(spec)
    torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer(spec)
    if tokenizer_digest(tokenizer) != read_metadata(args.index, INDEX)["tokenizer"]:
        raise ModelError(
            f"{spec.path}: its tokenizer differs from that of models.long; homologous models share vocabulary and "
            "BOS habit: choose models of one family"
        )
    config = load_config(spec, dynamic_ntk)
    if whole_window:
        check_window(spec, getattr(config, "max_position_embeddings", None), args.max_length)
    runtime = Runtime(args.device, args.dtype, args.attention)
    encoder = PromptEncoder(tokenizer, args.prompt)
    scoring_pass = make_pass(config, encoder)
    settings = pass_settings(spec, config, runtime, args.prompt, args.max_length, **pass_options)

    def load() -> Any:
        model = load_model(spec, config, runtime)
        check_logits_to_keep(model)
        return model

    score_shard(
        scoring_pass,
        index=[row for row in iterate_rows(args.index, INDEX) if row["shard"] == args.shard],
        samples=SampleReader(args.samples, SAMPLES),
        encoder=encoder,
        max_length=args.max_length,
        store=ProgressStore(args.progress_dir, scoring_pass.name, settings, scoring_pass.schema, args.progress_seconds),
        load_model=load,
        output=args.output,
        watch=lambda rows, total: progress(rows, scoring_pass.name, "sample", total),
    )


def run_short_pass(args: argparse.Namespace, spec: ModelSpec, short_context: str, window: int | None = None) -> None:
    """Score one shard with θ_S, or what stands in its place.

    The context is cut to ``window`` instead of the model's own: setting the model's could change its rotary scaling.

    Raises ModelError where the context is to be cut to a window that the model does not tell.
    """

    def make_pass(config: Any, encoder: PromptEncoder) -> ShortPass:
        return ShortPass((window or context_window(spec, config)) if short_context == "truncate" else None)

    own: dict[str, Any] = {} if window is None else {"cut_to": window}
    run_pass(args, spec, make_pass, dynamic_ntk=short_context == "ntk", short_context=short_context, **own)


def context_window(spec: ModelSpec, config: Any) -> int:
    """A model's window in tokens. Raises ModelError where its configuration does not tell."""
    window: int | None = getattr(config, "max_position_embeddings", None)
    if window is None:
        raise ModelError(f"{spec.path} does not tell its window; set models.short.window")
    return window
