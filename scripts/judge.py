"""Rule ``judge``: ratings of one model's answers to one benchmark, or of any requests; one judgment for each request.

Each answer is cached as soon as it arrives, so a rerun makes only the missing calls. The API key is read only from an
environment variable. With --start, this job starts the judge's server and ends it. Too many answers without a rating
are an error, and then no judgments are written. With --dry-run, the judge is not called; the numbers of calls and
tokens and the cost are printed.
"""

import argparse
import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from gateau.command import argument_parser, run
from gateau.errors import SettingsError
from gateau.evaluation import benchmarks
from gateau.evaluation.client.calls import AnswerCache, Usage
from gateau.evaluation.client.start import Start
from gateau.evaluation.judging.judge import (
    JudgeSettings,
    check_null_share,
    check_requests,
    forecast,
    judge,
    read_requests,
    summarise,
    write_judgments,
)
from gateau.evaluation.judging.requests import JudgeRequest
from gateau.files import write_json
from gateau.model_files import ModelSpec
from gateau.provenance import ANSWERED_BY


def main() -> None:
    args = _arguments()

    from gateau.evaluation.client.started import StartedServer
    from gateau.models import resolved

    start = Start.from_config(args.start)
    spec = resolved(ModelSpec(args.model)) if start else ModelSpec(args.model)
    settings = JudgeSettings(
        # ratings of a judge that this job starts are known by its files, wherever they lie
        model=args.name or args.model,
        salt=f"{json.dumps(spec.identity(), sort_keys=True)} {start.key}" if start else "",
        base_url=args.base_url,
        # the key of another judge is not sent to it
        key_variable="MODEL_SERVER_KEY" if start else args.key_variable,
        extra_body=args.extra_body,
        temperature=args.temperature,
        seed=args.seed,
        max_tokens=args.max_tokens,
        concurrency=args.concurrency,
        tries=args.tries,
        backoff_seconds=args.backoff_seconds,
        timeout_seconds=args.timeout_seconds,
        null_retries=args.null_retries,
        budget_tokens=args.budget_tokens,
    )
    requests, cache = _requests(args), AnswerCache(args.cache)
    if args.dry_run:
        expected = forecast(requests, settings, cache)
        print(f"requests: {len(requests)}")
        print(f"cached calls: {expected.cached}")
        print(f"calls to make: {expected.calls}, more where an answer has no rating")
        print(f"prompt tokens, estimated: {expected.usage.prompt_tokens}")
        print(f"completion tokens, at most: {expected.usage.completion_tokens}")
        print(f"cost, estimated: {_shown(_cost(expected.usage, args))}")
        return
    if start:
        logging.info("%s%s", ANSWERED_BY, start.backend)
    with StartedServer(start, spec.location, Path(args.server_log)) if start else nullcontext() as started:
        outcome = judge(requests, settings, cache, started)
    check_null_share(outcome.results, args.max_null_share)
    cost = _cost(sum((judgment.usage for judgment in outcome.results), Usage()), args)
    write_judgments(args.output, outcome.results)
    if args.summary:
        write_json(args.summary, {**summarise(requests, outcome, settings, started), "cost": cost})
    nulls = sum(judgment.rating is None for judgment in outcome.results)
    logging.info(
        "%d judgments, %d without a rating; cost of all their answers, cached ones too: %s",
        len(requests), nulls, _shown(cost),
    )  # fmt: skip


def _requests(args: argparse.Namespace) -> list[JudgeRequest]:
    if args.requests:
        return read_requests(args.requests, args.rating)
    judge_requests = benchmarks.load(args.benchmark).judge_requests
    assert judge_requests is not None  # --benchmark offers no other
    requests = judge_requests(Path(args.predictions), Path(args.assets))
    check_requests(requests)
    return requests


def _cost(usage: Usage, args: argparse.Namespace) -> float | None:
    if args.prompt_price is None or args.completion_price is None:
        return None
    return usage.cost(args.prompt_price, args.completion_price)


def _shown(cost: float | None) -> str:
    return "unknown without --prompt-price and --completion-price" if cost is None else f"{cost:.4f}"


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--benchmark", choices=benchmarks.judged(), help="benchmark whose predictions are rated")
    asked.add_argument("--requests", help="jsonl of {id, messages} and optionally {rating}")
    parser.add_argument("--predictions", help="with --benchmark: the predictions of one model, a folder or a file")
    parser.add_argument("--assets", help="with --benchmark: the benchmark's folder of rule assets")
    parser.add_argument(
        "--rating", choices=tuple(benchmarks.ratings()), help="kind of rating of those --requests that name none"
    )
    parser.add_argument(
        "--model",
        required=True,
        help="name of the judge on its server; with --start, its folder or its name on the hub",
    )
    parser.add_argument("--name", help="name of the judge in the summary and the cache (default: that of --model)")
    parser.add_argument(
        "--start",
        type=_object,
        default={},
        help="how this job starts the judge's server on this machine, as JSON: start (vllm, sglang, transformers, or a "
        "command with {model} and {port}), options, gpus and seconds (default: the server of --base-url is asked)",
    )
    parser.add_argument("--server-log", help="with --start: file for the output of the server")
    parser.add_argument("--base-url", default=JudgeSettings.base_url, help="address of an OpenAI-compatible server")
    parser.add_argument(
        "--key-variable", default=JudgeSettings.key_variable, help="environment variable with the API key"
    )
    parser.add_argument("--cache", required=True, help="folder of cached answers, which many runs can share")
    parser.add_argument("--temperature", type=float, default=JudgeSettings.temperature, help="of the judge")
    parser.add_argument(
        "--seed", type=int, help="sent with each call, plus the number of the attempt (default: no seed is sent)"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=JudgeSettings.max_tokens, help="largest length of an answer in tokens"
    )
    parser.add_argument(
        "--extra-body",
        type=_object,
        default={},
        help="further fields of each call, as JSON; null removes a field (default: {})",
    )
    parser.add_argument("--concurrency", type=int, default=JudgeSettings.concurrency, help="calls at the same time")
    parser.add_argument("--tries", type=int, default=JudgeSettings.tries, help="tries of a call before the run fails")
    parser.add_argument(
        "--backoff-seconds",
        type=float,
        default=JudgeSettings.backoff_seconds,
        help="pause before the second try, which then doubles",
    )
    parser.add_argument(
        "--timeout-seconds", type=float, default=JudgeSettings.timeout_seconds, help="longest wait for one try"
    )
    parser.add_argument(
        "--null-retries",
        type=int,
        default=JudgeSettings.null_retries,
        help="further attempts if an answer has no rating",
    )
    parser.add_argument(
        "--budget-tokens",
        type=int,
        help="largest number of tokens of this run's calls; cached answers are free (default: no limit)",
    )
    parser.add_argument(
        "--max-null-share", type=float, default=0.05, help="largest share of judgments without a rating, from 0 to 1"
    )
    parser.add_argument(
        "--prompt-price", type=float, help="price of a million prompt tokens, in any currency (default: unknown)"
    )
    parser.add_argument(
        "--completion-price", type=float, help="price of a million tokens of answers, same currency (default: unknown)"
    )
    parser.add_argument("--dry-run", action="store_true", help="call nothing; print calls, tokens and cost")
    parser.add_argument("--output", help="output: judgments, jsonl; required unless --dry-run is given")
    parser.add_argument(
        "--summary",
        help="output: judge, ratings and missing ratings by kind, tokens, cost and calls, JSON (default: not written)",
    )
    args = parser.parse_args()
    if args.benchmark and not (args.predictions and args.assets):
        parser.error("--benchmark needs --predictions and --assets")
    if args.benchmark and args.rating:
        parser.error("--rating is for --requests; a benchmark has its own")
    if not args.output and not args.dry_run:
        parser.error("--output is needed unless --dry-run is given")
    if args.start and not args.server_log:
        parser.error("--start needs --server-log")
    if not 0 <= args.max_null_share <= 1:
        raise SettingsError(f"--max-null-share is {args.max_null_share}; a share lies between 0 and 1")
    return args


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text} is not a JSON object")
    return value


if __name__ == "__main__":
    run(main)
