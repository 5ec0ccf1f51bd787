"""Rule ``generate``: one shard of one model's answers to one benchmark, in process or through a model server.

Answers that were stored before under the same model and settings are read from the progress folder.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gateau.chatting import FORMATS, choose_format
from gateau.command import argument_parser, progress, run
from gateau.digests import meaning_digest
from gateau.errors import SettingsError
from gateau.evaluation import benchmarks
from gateau.evaluation.answering.answers import AnswerStore, answer_shard, deal_batches, summarise, write_answers
from gateau.evaluation.answering.generation import Generator, plan_batches
from gateau.evaluation.answering.prompting import Prompter
from gateau.evaluation.answering.questions import Question
from gateau.evaluation.answering.through_server import ModelServer, answer_through
from gateau.model_files import ModelSpec, tokenizer_fingerprint, weights_fingerprint
from gateau.models import Runtime, load_config, load_model, load_tokenizer, resolved
from gateau.places import PACKAGE

# the code that decides an answer beside the settings
_CODE = (
    "chatting.py",
    "formats.py",
    "models.py",
    "prompts.py",
    "evaluation/answering/prompting.py",
    "evaluation/answering/generation.py",
)


def main() -> None:
    args = _arguments()
    if not 0 <= args.shard < args.shards:
        raise SettingsError(f"shard {args.shard} of {args.shards}: shards count from 0; lower --shard")
    spec = resolved(ModelSpec.from_config(args.model))
    torch.set_num_threads(args.threads)
    tokenizer, config = load_tokenizer(spec), load_config(spec)
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    format_name = choose_format(args.format, spec, tokenizer)
    prompter = Prompter(tokenizer, format_name, args.max_length, window)
    benchmark = benchmarks.load(args.benchmark)
    asked = benchmark.ask(args.assets, args.options, tokenizer)
    if benchmark.cut_advice:
        _check_uncut(asked, prompter, benchmark.cut_advice)
    logging.info("%s: %d questions, chat format %s, window %s", args.benchmark, len(asked), format_name, window)
    settings = {
        "weights": weights_fingerprint(spec.path, spec.revision),
        "tokenizer": tokenizer_fingerprint(spec.path, spec.revision),
        "window": window,
        "rope_parameters": spec.rope_parameters,
        "format": format_name,
        "max_length": args.max_length,
        "generation_config": _stops_file(spec),
    }
    if args.server:
        share = list(range(args.shard, len(asked), args.shards))
        server = ModelServer.from_config(args.server)
        answers = answer_through(
            server, [asked[position] for position in share], prompter, settings, Path(args.progress_dir, "calls")
        )
        done = dict(zip(share, answers, strict=True))
    else:
        runtime = Runtime(args.device, args.dtype, args.attention, setting="evaluate.generate")
        described = runtime.describe(config)
        code = meaning_digest(PACKAGE / name for name in _CODE)
        settings |= {"dtype": described["dtype"], "attention": described["attention"], "code": code}
        batches = plan_batches(asked, prompter, args.batch_tokens)
        costs = [len(question.users[0]) + question.max_new_tokens for question in asked]
        done = answer_shard(
            asked,
            deal_batches(batches, costs, args.shards)[args.shard],
            AnswerStore(args.progress_dir, settings),
            lambda: Generator(load_model(spec, config, runtime), prompter).answer,
            lambda rows, total: progress(rows, args.benchmark, "batch", total),
        )
    write_answers(args.output, asked, done)
    logging.info("%s: %s", args.output, ", ".join(f"{n} {name}" for name, n in summarise(done.values()).items()))


def _stops_file(spec: ModelSpec) -> str | None:
    """Return the text of a local model's generation_config.json, whose stop tokens decide answers."""
    file = spec.directory / "generation_config.json"
    return file.read_text(encoding="utf-8") if spec.is_local and file.is_file() else None


def _check_uncut(asked: Sequence[Question], prompter: Prompter, advice: str) -> None:
    """Raise SettingsError if the text of a question would be cut."""
    for question in asked:
        if prompter.prompt(question).truncated_tokens:
            raise SettingsError(
                f"{question.benchmark}: {question.item} does not fit into the model's window or "
                f"evaluate.generate.max_length; {advice}, or evaluate models with long windows in a run of their own"
            )


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--benchmark", choices=benchmarks.names(), required=True, help="what is asked")
    parser.add_argument("--assets", required=True, help="the benchmark's folder of rule assets")
    parser.add_argument(
        "--options", type=_json, default={}, help="evaluate.<benchmark> of the configuration, as JSON (default: {})"
    )
    parser.add_argument("--model", type=json.loads, required=True, help="path and options of the model, as JSON")
    parser.add_argument("--format", choices=("auto", *FORMATS), default="auto", help="chat format")
    parser.add_argument("--max-length", type=int, default=64000, help="largest length of a question in tokens")
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=16384,
        help="largest size of a batch in tokens, padding and new tokens included",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--attention", default="auto", help="attention backend")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--server",
        type=json.loads,
        help="section of an OpenAI-compatible server that answers, as JSON (default: answer in process)",
    )
    parser.add_argument("--shard", type=int, default=0, help="number of this shard, from 0")
    parser.add_argument("--shards", type=int, default=1, help="number of shards")
    parser.add_argument("--progress-dir", required=True, help="folder of stored answers, which many jobs can share")
    parser.add_argument("--output", required=True, help="output: answers, jsonl")
    return parser.parse_args()


def _json(text: str) -> dict[str, Any]:
    return dict(json.loads(text))


if __name__ == "__main__":
    run(main)
