"""Ask a judge to rate answers: requests with ids in, ratings with the same ids out, in the same order.

Each line of the requests is {"id", "messages"}; each line of the output {"id", "rating" or null, "text", "attempts",
"usage"}. Answers are cached as they come, so that a rerun makes only the missing calls. The key is read from an
environment variable and from nowhere else. With --dry-run nothing is called: calls, tokens and cost are printed.
"""

import argparse
import logging

from gateau.command import run
from gateau.errors import SettingsError
from gateau.evaluation.judging import (
    RATINGS,
    AnswerCache,
    JudgeSettings,
    Usage,
    check_null_share,
    cost,
    forecast,
    judge,
    read_requests,
    write_judgments,
)


def main() -> None:
    args = _arguments()
    settings = JudgeSettings(
        model=args.model,
        base_url=args.base_url,
        key_variable=args.key_variable,
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
    requests = read_requests(args.requests)
    rating, cache = RATINGS[args.rating], AnswerCache(args.cache)
    if args.dry_run:
        expected = forecast(requests, settings, rating, cache)
        print(f"requests: {len(requests)}")
        print(f"cached calls: {expected.cached}")
        print(f"calls to make: {expected.calls}, more where an answer has no rating")
        print(f"prompt tokens, estimated: {expected.usage.prompt_tokens}")
        print(f"completion tokens, at most: {expected.usage.completion_tokens}")
        print(f"cost, estimated: {_cost(expected.usage, args)}")
        return
    judgments = judge(requests, settings, rating, cache)
    check_null_share(judgments, args.max_null_share)
    write_judgments(args.output, judgments)
    total = sum((judgment.usage for judgment in judgments), Usage())
    nulls = sum(judgment.rating is None for judgment in judgments)
    logging.info(
        "%d judgments, %d without a rating; cost of all their answers, cached ones too: %s",
        len(judgments), nulls, _cost(total, args),
    )  # fmt: skip


def _cost(usage: Usage, args: argparse.Namespace) -> str:
    if args.prompt_price is None or args.completion_price is None:
        return "unknown without --prompt-price and --completion-price"
    return f"{cost(usage, args.prompt_price, args.completion_price):.4f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", required=True, help="jsonl of {id, messages}")
    parser.add_argument("--rating", choices=sorted(RATINGS), required=True, help="how ratings are written, their scale")
    parser.add_argument("--model", required=True, help="the judge, as its server names it")
    parser.add_argument("--base-url", default=JudgeSettings.base_url, help="an OpenAI-compatible server")
    parser.add_argument("--key-variable", default=JudgeSettings.key_variable, help="environment variable with the key")
    parser.add_argument("--cache", required=True, help="folder of answers, shared by any number of runs")
    parser.add_argument("--temperature", type=float, default=JudgeSettings.temperature)
    parser.add_argument("--seed", type=int, help="sent with each call, plus the attempt's number")
    parser.add_argument("--max-tokens", type=int, default=JudgeSettings.max_tokens, help="most tokens of an answer")
    parser.add_argument("--concurrency", type=int, default=JudgeSettings.concurrency, help="calls at the same time")
    parser.add_argument("--tries", type=int, default=JudgeSettings.tries, help="of a call before it is given up")
    parser.add_argument(
        "--backoff-seconds", type=float, default=JudgeSettings.backoff_seconds, help="before the second try; doubles"
    )
    parser.add_argument("--timeout-seconds", type=float, default=JudgeSettings.timeout_seconds, help="of one try")
    parser.add_argument(
        "--null-retries", type=int, default=JudgeSettings.null_retries, help="how often to ask again without a rating"
    )
    parser.add_argument("--budget-tokens", type=int, help="most tokens of this run's calls; cached answers are free")
    parser.add_argument("--max-null-share", type=float, default=0.05, help="of judgments without a rating")
    parser.add_argument("--prompt-price", type=float, help="per million tokens, in any currency")
    parser.add_argument("--completion-price", type=float, help="per million tokens, in any currency")
    parser.add_argument("--dry-run", action="store_true", help="call nothing; print calls, tokens and cost")
    parser.add_argument("--output", help="jsonl of judgments; needed unless --dry-run")
    args = parser.parse_args()
    if not args.output and not args.dry_run:
        parser.error("--output is needed unless --dry-run is given")
    if not 0 <= args.max_null_share <= 1:
        raise SettingsError(f"--max-null-share is {args.max_null_share}; a share lies between 0 and 1")
    return args


if __name__ == "__main__":
    run(main)
