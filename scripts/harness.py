"""Rule ``harness``: one task of lm-evaluation-harness, asked of one model, in process or through a model server.

The harness makes the prompts and scores the answers. Answers that were stored before under the same model and settings
are read from the progress folder. With ``--fetch``, the script only fetches the task's data into the cache.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateau.command import argument_parser, run
from gateau.digests import settings_digest
from gateau.errors import ModelError, ServerError, SettingsError
from gateau.evaluation.answering.arguments import add_asking_options
from gateau.evaluation.client.start import Start
from gateau.evaluation.harness.index import INSTALL, PACKAGE_NAME, TaskIndex, harness_version
from gateau.evaluation.harness.running import LoadedTask, TaskOptions, load_task, run_task, use_folder
from gateau.files import write_jsonl
from gateau.model_files import ModelSpec
from gateau.models import Runtime, config_window, load_config, load_model, load_tokenizer, resolved

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def main() -> None:
    args = _arguments()
    if find_spec(PACKAGE_NAME) is None:
        raise SettingsError(f"lm-evaluation-harness is not installed; install it with {INSTALL}, or use --sdm conda")
    options = TaskOptions(**args.options)
    use_folder(args.cache, args.offline)
    index = TaskIndex.read(args.cache, args.include_path)
    if args.fetch:
        load_task(args.task, index, options, args.cache, args.tokenizer, None, 0)
        logging.info("%s: its data is in %s", args.task, args.cache)
        return
    if not (args.model and args.progress_dir and args.output and args.items and args.answers):
        raise SettingsError("--model, --progress-dir, --output, --items and --answers are needed, or --fetch")
    _Asked(args, options, index).run()


class _Asked:
    """The model that is asked, with all that the arguments say."""

    def __init__(self, args: argparse.Namespace, options: TaskOptions, index: TaskIndex) -> None:
        import torch

        from gateau.chatting import choose_format, recorded_template_options
        from gateau.evaluation.answering.reasoning import Reasoning

        torch.set_num_threads(args.threads)
        self._args, self._options, self._index = args, options, index
        self._spec = resolved(ModelSpec.from_config(args.model))
        self._tokenizer, self._config = load_tokenizer(self._spec), load_config(self._spec)
        self._window = config_window(self._config)
        self._format = choose_format(args.format, self._spec, self._tokenizer)
        if self._format != "plain" and not self._tokenizer.chat_template:
            raise SettingsError(
                f"{self._spec.path}: the harness needs the chat template of the tokenizer, which has none; set "
                "evaluate.generate.format to plain, or evaluate the export of a training"
            )
        self._template_options = {**recorded_template_options(self._spec), **args.template_options}
        self._reasoning = Reasoning.from_config(args.reasoning)
        self._runtime = Runtime(args.device, args.dtype, args.attention, "evaluate.generate", args.gpus_per_job)

    def run(self) -> None:
        """Run the task and write its results."""
        args = self._args
        room = self._reasoning.max_tokens if self._reasoning else 0
        with _tokenizer_folder(self._spec, self._tokenizer) as folder:
            loaded = load_task(args.task, self._index, self._options, args.cache, folder, self._window, room)
        cache = Path(args.progress_dir, settings_digest(self._decisive(loaded), 32))
        results = self._results(loaded, cache)
        self._write(loaded, results)

    def _decisive(self, loaded: LoadedTask) -> dict[str, Any]:
        """Return what decides an answer to a prompt, which is itself the key of a stored answer."""
        served = {
            name: (self._args.server or {}).get(name) for name in ("start", "options", "model", "send", "extra_body")
        }
        return {
            "task": loaded.name,
            "model": self._spec.identity(),
            "window": self._window,
            "format": [self._format, self._template_options, self._args.reasoning],
            "runtime": self._runtime.describe(self._config) if not self._args.server else served,
            "version": harness_version(),
        }

    def _results(self, loaded: LoadedTask, cache: Path) -> dict[str, Any]:
        from gateau.evaluation.harness import lm

        chat, end = self._format != "plain", self._reasoning.end if self._reasoning else None
        server = self._args.server
        if not server:
            model = load_model(self._spec, self._config, self._runtime)
            asked = lm.in_process(
                model, self._tokenizer, self._window, self._args.batch_tokens, self._template_options, end
            )
            return run_task(loaded, asked, self._options, chat, cache)
        if not chat and server.get("send", "messages") == "messages":
            raise SettingsError(
                "the model is asked without a chat format (plain), but a chat server would add one; set send: tokens "
                "for the model in evaluate.servers, or set evaluate.generate.format"
            )

        def through(base_url: Callable[[], str], name: str) -> dict[str, Any]:
            asked = lm.through_server(
                base_url, server, name, self._tokenizer, self._window, self._template_options, end
            )
            return run_task(loaded, asked, self._options, chat, cache)

        start = Start.from_config(server)
        if start is None:
            with _server_errors():
                return through(lambda: str(server["base_url"]), server["model"])
        from gateau.evaluation.client.started import StartedServer

        with StartedServer(start, self._spec.location, Path(self._args.server_log)) as started:
            try:
                with _server_errors():
                    return through(started.base_url, self._spec.location)
            except ServerError:
                started.check()  # which shows the server's log if it has ended
                raise

    def _write(self, loaded: LoadedTask, results: dict[str, Any]) -> None:
        from gateau.evaluation.harness.measures import measures_of
        from gateau.evaluation.results.measures import write_items, write_scores

        args, name = self._args, loaded.name
        versions = {task: str(version) for task, version in results["versions"].items()}
        if name in loaded.groups:
            version = loaded.groups[name].version
        else:
            version = ", ".join(sorted({versions.get(task, "?") for task in loaded.tasks}))
        protocol = f"{name} version {version}, lm_eval {harness_version()}"
        shots = sorted({int(results["n-shot"].get(task) or 0) for task in loaded.tasks})
        data = f"{'/'.join(map(str, shots))}-shot, chat format {self._format}"
        if self._options.limit:
            data += f", the first {self._options.limit} of each {'length' if loaded.lengths else 'task'}"
        measures, items = measures_of(results, loaded, protocol, data)
        report = {"task": name, "versions": versions, "lengths": list(loaded.lengths), "results": results["results"]}
        write_scores(args.output, report, measures)
        write_items(args.items, items)
        write_jsonl(args.answers, _answers(results))
        for measure in measures:
            if measure.headline:
                logging.info("%s, %s: %.4f, n = %d", name, measure.name, measure.score, measure.n)


def _answers(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what the model answered to each item, with the digest of its prompt."""
    for task, samples in results["samples"].items():
        for sample in samples:
            yield {
                "task": task,
                "item": sample["doc_id"],
                "filter": sample["filter"],
                "prompt_sha256": sample["prompt_hash"],
                "answers": sample["resps"],
                "target": sample["target"] if isinstance(sample["target"], str | int | float | list) else None,
            }


@contextmanager
def _tokenizer_folder(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield a folder with the tokenizer, for tasks that make texts of given lengths.

    Raises:
        ModelError: the tokenizer has code of its own, which such tasks would run, and that is not allowed.
    """
    if "auto_map" in tokenizer.init_kwargs and not spec.trust_remote_code:
        raise ModelError(
            f"{spec.path}: its tokenizer has code of its own, which tasks of the harness would run; set "
            "trust_remote_code only for code you have read"
        )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        yield folder


@contextmanager
def _server_errors() -> Iterator[None]:
    """Turn the errors of the harness's calls into ServerError."""
    import aiohttp
    import requests

    try:
        yield
    except (aiohttp.ClientError, requests.exceptions.RequestException, TimeoutError) as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ServerError(
            f"a call of the model server failed ({reason[0]}); answers so far are stored, and a rerun makes only the "
            "missing calls"
        ) from error


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--task", required=True, help="name of a task, group or tag of the harness")
    parser.add_argument(
        "--options",
        type=json.loads,
        default={},
        help="lengths, limit, num_fewshot and metadata of evaluate.harness, as JSON (default: {})",
    )
    parser.add_argument("--include-path", action="append", default=[], help="folder of further tasks; may be repeated")
    parser.add_argument("--cache", required=True, help="folder for fetched data sets")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument("--fetch", action="store_true", help="only fetch the data of the task")
    parser.add_argument("--tokenizer", default="", help="with --fetch: a tokenizer, for tasks that measure their texts")
    parser.add_argument("--model", type=json.loads, help="path and options of the model, as JSON")
    add_asking_options(parser)
    parser.add_argument("--progress-dir", help="folder of stored answers, which many jobs can share")
    parser.add_argument("--output", help="output: scores, JSON")
    parser.add_argument("--items", help="output: scored items, jsonl")
    parser.add_argument("--answers", help="output: answers, jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
