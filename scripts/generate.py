"""Rule ``generate``: one shard of one model's answers to one benchmark, in process or through a model server.

Answers that were stored before under the same model and settings are read from the progress folder. The model, once it
is loaded, also answers the questions of other benchmarks (``--ahead``), for at most five minutes.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateau.command import argument_parser, progress, run
from gateau.digests import meaning_digest
from gateau.errors import SettingsError
from gateau.evaluation import benchmarks
from gateau.evaluation.answering.answers import AnswerStore, answer_shard, deal_batches, summarise, write_answers
from gateau.evaluation.answering.arguments import add_asking_options
from gateau.evaluation.answering.asking import WAIT_SECONDS, Finished, Share, run_ahead
from gateau.evaluation.client.start import Start
from gateau.model_files import ModelSpec, tokenizer_fingerprint, weights_fingerprint
from gateau.models import Runtime, config_window, load_config, load_model, load_tokenizer, resolved
from gateau.places import PACKAGE
from gateau.provenance import ANSWERED_BY

if TYPE_CHECKING:
    from gateau.evaluation.answering.generation import Generator
    from gateau.evaluation.answering.prompting import Prompter
    from gateau.evaluation.answering.questions import Question
    from gateau.evaluation.client.started import StartedServer

# the code that decides an answer beside the settings
_CODE = (
    "chatting.py",
    "formats.py",
    "models.py",
    "prompts.py",
    "template_format.py",
    "templates.py",
    "evaluation/answering/prompting.py",
    "evaluation/answering/reasoning.py",
    "evaluation/answering/generation.py",
    "evaluation/answering/prefixes.py",
)
_SERVER_CODE = "evaluation/answering/through_server.py"  # decides it too, where a server answers
_ASKED = (
    "format", "template_options", "reasoning", "max_length", "batch_tokens", "share_prefixes", "device", "dtype",
    "attention",
)  # fmt: skip


def main() -> None:
    args = _arguments()
    if not 0 <= args.shard < args.shards:
        raise SettingsError(f"shard {args.shard} of {args.shards}: shards count from 0; lower --shard")
    spec = resolved(ModelSpec.from_config(args.model))
    share = Share(args.benchmark, args.assets, args.options, args.shard, args.shards)
    if args.server and "start" not in args.server:
        Asked(args, spec).through_server(share, args.output)
        return
    settings = {name: getattr(args, name) for name in _ASKED}
    if start := Start.from_config(args.server or {}):
        settings |= {"server": args.server, "backend": start.backend}
        logging.info("%s%s", ANSWERED_BY, start.backend)
    code = (*_CODE, _SERVER_CODE) if start else _CODE
    finished = Finished(Path(args.progress_dir, "finished"), settings, spec, code)
    if finished.take(share, args.output):
        return
    with finished.claimed(share, WAIT_SECONDS):
        if finished.take(share, args.output):
            return
        asked = Asked(args, spec)
        others = [Share(**other) for other in args.ahead]
        if args.server:
            asked.through_started_server(share, finished, others)
            return
        asked.in_process(share, args.output, lambda batches, total: progress(batches, share.benchmark, "batch", total))
        finished.keep(share, args.output)
    if asked.is_loaded:
        run_ahead(finished, others, asked.in_process)


class Asked:
    """The model that is asked, with all that its arguments say. Its weights are loaded when a question needs them."""

    def __init__(self, args: argparse.Namespace, spec: ModelSpec) -> None:
        import torch

        from gateau.chatting import choose_format, recorded_template_options
        from gateau.evaluation.answering.prompting import Prompter
        from gateau.evaluation.answering.reasoning import Reasoning

        torch.set_num_threads(args.threads)
        self._args, self._spec = args, spec
        tokenizer, self._config = load_tokenizer(spec), load_config(spec)
        window = config_window(self._config)
        format_name = choose_format(args.format, spec, tokenizer)
        options = {**recorded_template_options(spec), **args.template_options}
        reasoning = Reasoning.from_config(args.reasoning)
        self._prompter = Prompter(tokenizer, format_name, args.max_length, window, options, reasoning)
        logging.info("chat format %s, window %s", format_name, window)
        self._settings = {
            "weights": weights_fingerprint(spec.path, spec.revision),
            "tokenizer": tokenizer_fingerprint(spec.path, spec.revision),
            "window": window,
            "rope_parameters": spec.rope_parameters,
            "format": format_name,
            "template_options": options,
            "reasoning": args.reasoning,
            "max_length": args.max_length,
            "generation_config": _stops_file(spec),
        }
        self._runtime = Runtime(args.device, args.dtype, args.attention, "evaluate.generate", args.gpus_per_job)

    def through_server(
        self, share: Share, output: str | Path, started: StartedServer | None = None, *, ahead: bool = False
    ) -> None:
        """Write a share's answers of the model's server, which this job starts if ``started`` is given.

        Ahead, the last question is asked first: should the share's own job start now, the two meet in the middle.
        """
        from gateau.evaluation.answering.through_server import ModelServer, answer_through

        questions = self._questions(share)
        numbers = list(range(share.shard, len(questions), share.shards))[:: -1 if ahead else 1]
        server, calls = ModelServer.from_config(self._args.server), Path(self._args.progress_dir, "calls")
        asked = [questions[number] for number in numbers]
        answers = answer_through(server, asked, self._prompter, self._settings, calls, started)
        _write(output, questions, dict(zip(numbers, answers, strict=True)))

    def through_started_server(self, share: Share, finished: Finished, others: Sequence[Share]) -> None:
        """Start the model's server, and write a share's answers. If it was needed, it answers the other shares too."""
        from gateau.evaluation.client.started import StartedServer

        start = Start.from_config(self._args.server)
        assert start is not None
        with StartedServer(start, self._spec.location, Path(self._args.server_log)) as server:
            self.through_server(share, self._args.output, server)
            finished.keep(share, self._args.output)
            if server.is_started:
                run_ahead(
                    finished,
                    others,
                    lambda other, output, _: self.through_server(other, output, server, ahead=True),
                    math.inf,
                )

    def in_process(self, share: Share, output: str | Path, watch: Callable[..., Iterator[Any]]) -> None:
        """Answer a share's questions, and write them if all are answered.

        Args:
            share: what is asked.
            output: file to write.
            watch: yields the batches whose answers are not stored, as far as they are to be answered.
        """
        from gateau.evaluation.answering.generation import plan_batches
        from gateau.evaluation.answering.prefixes import can_share

        questions = self._questions(share)
        described = self._runtime.describe(self._config)
        code = meaning_digest(PACKAGE / name for name in _CODE)
        shared = self._args.share_prefixes and can_share(self._config)
        settings = self._settings | {name: described[name] for name in ("dtype", "attention")} | {"code": code}
        settings["share_prefixes"] = shared
        costs = [len(question.users[0]) + question.max_new_tokens for question in questions]
        batches = plan_batches(questions, self._prompter, self._args.batch_tokens, share=shared)
        mine = deal_batches(batches, costs, share.shards)[share.shard]
        store = AnswerStore(self._args.progress_dir, settings)
        done = answer_shard(questions, mine, store, lambda: self._generator.answer, watch)
        if len(done) == sum(map(len, mine)):
            _write(output, questions, done)

    @cached_property
    def _generator(self) -> Generator:
        from gateau.evaluation.answering.generation import Generator

        model = load_model(self._spec, self._config, self._runtime)
        return Generator(model, self._prompter, self._args.batch_tokens, share=self._args.share_prefixes)

    @property
    def is_loaded(self) -> bool:
        """Whether a question has needed the model's weights."""
        return "_generator" in vars(self)

    def _questions(self, share: Share) -> list[Question]:
        benchmark, options = benchmarks.load(share.benchmark), share.options
        window, left_out_by = self._settings["window"], benchmark.left_out_by(options)
        if left_out_by and window:
            options = benchmark.within(options, window, self._args.max_length)
        asked = benchmark.ask(share.assets, options, self._prompter.tokenizer)
        if left_out_by:
            asked = _fitting(asked, self._prompter, left_out_by)
        elif benchmark.cut_advice:
            _check_uncut(asked, self._prompter, benchmark.cut_advice)
        logging.info("%s: %d questions", share.benchmark, len(asked))
        return asked


def _write(output: str | Path, questions: Sequence[Question], done: dict[int, Any]) -> None:
    write_answers(output, questions, done)
    logging.info("%s: %s", output, ", ".join(f"{n} {name}" for name, n in summarise(done.values()).items()))


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


def _fitting(asked: Sequence[Question], prompter: Prompter, field: str) -> list[Question]:
    """Return the questions without those that share the value of this field of the record with a cut question.

    Raises:
        SettingsError: no question is left.
    """
    cut = {question.record[field] for question in asked if prompter.prompt(question).truncated_tokens}
    if cut:
        logging.warning("%s: left out, because they do not fit into the window: %s %s", asked[0].benchmark, field, cut)
    kept = [question for question in asked if question.record[field] not in cut]
    if not kept:
        raise SettingsError(
            f"{asked[0].benchmark}: no {field} fits into the model's window or evaluate.generate.max_length; add a "
            f"smaller one, or do not evaluate this model"
        )
    return kept


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--benchmark", choices=benchmarks.names(), required=True, help="what is asked")
    parser.add_argument("--assets", required=True, help="the benchmark's folder of rule assets")
    parser.add_argument(
        "--options", type=_json, default={}, help="evaluate.<benchmark> of the configuration, as JSON (default: {})"
    )
    parser.add_argument("--model", type=json.loads, required=True, help="path and options of the model, as JSON")
    add_asking_options(parser)
    parser.add_argument("--max-length", type=int, default=64000, help="largest length of a question in tokens")
    parser.add_argument(
        "--share-prefixes",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the common beginning of many prompts, such as a document, is read once",
    )
    parser.add_argument("--shard", type=int, default=0, help="number of this shard, from 0")
    parser.add_argument("--shards", type=int, default=1, help="number of shards")
    parser.add_argument(
        "--ahead",
        type=json.loads,
        default=[],
        help="JSON list of other benchmarks, each an object with benchmark, assets and options: once the model is "
        "loaded, it answers their questions too, for at most five minutes, and stores the answers. A server that this "
        "job started answers them all (default: [])",
    )
    parser.add_argument("--progress-dir", required=True, help="folder of stored answers, which many jobs can share")
    parser.add_argument("--output", required=True, help="output: answers, jsonl")
    return parser.parse_args()


def _json(text: str) -> dict[str, Any]:
    return dict(json.loads(text))


if __name__ == "__main__":
    run(main)
