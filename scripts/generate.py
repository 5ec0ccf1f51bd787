"""Rule ``generate``: one shard of one model's answers to one benchmark, in process or through a model server.

Whatever was answered before, under the same model and settings, is read from the progress folder.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch

from gateau.chatting import FORMATS, choose_format
from gateau.command import progress, run
from gateau.digests import meaning_digest
from gateau.errors import SettingsError
from gateau.evaluation.answering.answers import AnswerStore, answer_shard, deal_batches, summarise, write_answers
from gateau.evaluation.answering.generation import Generator, plan_batches
from gateau.evaluation.answering.prompting import Prompter
from gateau.evaluation.answering.questions import Question
from gateau.evaluation.answering.through_server import ModelServer, answer_through
from gateau.evaluation.benchmarks.catalogue import BENCHMARKS, questions
from gateau.model_files import ModelSpec, tokenizer_fingerprint, weights_fingerprint
from gateau.models import Runtime, load_config, load_model, load_tokenizer, resolved

_PACKAGE = Path(__file__).resolve().parent / "gateau"
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
        raise SettingsError(f"shard {args.shard} of {args.shards}: shards count from 0")
    spec = resolved(ModelSpec.from_config(args.model))
    torch.set_num_threads(args.threads)
    tokenizer, config = load_tokenizer(spec), load_config(spec)
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    format_name = choose_format(args.format, spec, tokenizer)
    prompter = Prompter(tokenizer, format_name, args.max_length, window)
    asked = questions(args.benchmark, args.assets, args.options, tokenizer)
    _check_needle(args.benchmark, asked, prompter)
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
        code = meaning_digest(_PACKAGE / name for name in _CODE)
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
    """What a local model's generation_config.json says: its stop tokens decide answers."""
    file = spec.directory / "generation_config.json"
    return file.read_text(encoding="utf-8") if spec.is_local and file.is_file() else None


def _check_needle(benchmark: str, asked: list[Question], prompter: Prompter) -> None:
    """A haystack that loses its middle may lose its needle: then the score would be the window's, not the model's."""
    if benchmark != "needle":
        return
    for question in asked:
        if prompter.prompt(question).truncated_tokens:
            raise SettingsError(
                f"needle: {question.item} does not fit into the model's window or evaluate.generate.max_length; lower "
                "evaluate.needle.lengths, or evaluate models with long windows apart"
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmark", choices=BENCHMARKS, required=True)
    parser.add_argument("--assets", required=True, help="the benchmark's folder of rule assets")
    parser.add_argument("--options", type=_json, default={}, help="evaluate.<benchmark>, as JSON")
    parser.add_argument("--model", type=json.loads, required=True, help="path and options of the model, as JSON")
    parser.add_argument("--format", choices=("auto", *FORMATS), default="auto", help="the chat format")
    parser.add_argument("--max-length", type=int, default=64000, help="most tokens of a question's text")
    parser.add_argument("--batch-tokens", type=int, default=16384, help="most tokens of a batch, padding included")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--server", type=json.loads, help="an OpenAI-compatible server that has the model, as JSON")
    parser.add_argument("--shard", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--progress-dir", required=True, help="folder of answers; any number of jobs may share it")
    parser.add_argument("--output", required=True, help="output: jsonl")
    return parser.parse_args()


def _json(text: str) -> dict[str, Any]:
    return dict(json.loads(text))


if __name__ == "__main__":
    run(main)
