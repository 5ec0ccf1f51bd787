"""What answering the benchmarks costs: lengths of prompts and answers, and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from gateau.costs.lengths import ASSUMED_BYTES_PER_TOKEN
from gateau.costs.passes import bytes_each, forward_bytes, largest_share
from gateau.evaluation.configured import Evaluation
from gateau.places import OWN_SETS
from gateau.work import DecoderShape

Turn = tuple[int, int]  # tokens of a prompt, and of its answer
_SAMPLED_TEXTS = 48


def turns_of(
    evaluation: Evaluation,
    name: str,
    results: Path,
    count_tokens: Callable[[list[str]], list[int]] | None,
    window: int | None = None,
) -> list[Turn] | None:
    """Return the lengths of a benchmark's prompts with answers as long as allowed; None if it is not fetched yet.

    Args:
        evaluation: the section ``evaluate``.
        name: of the benchmark.
        results: the results folder.
        count_tokens: returns the number of tokens of each text; if None, a ratio of bytes per token is assumed.
        window: of the model in tokens, or None if unknown. A benchmark may leave out what does not fit it.

    Raises:
        SettingsError: nothing of a benchmark fits the window.
    """
    benchmark, reasoned = evaluation.benchmark(name), reasoning_tokens(evaluation)
    options: Mapping[str, Any] = evaluation.options(name)
    if benchmark.planned_turns:
        if window and benchmark.left_out_by(options):
            options = benchmark.within(options, window, evaluation.section["generate"]["max_length"])
        return [(one.most_prompt, one.most_new + reasoned) for one in benchmark.planned_turns(options)]
    folder = results / "assets" / name
    if not folder.is_dir() and evaluation.section["assets"]["source"] == "own":
        folder = OWN_SETS / name
    if not folder.is_dir():
        return None
    no_tokenizer = cast("Any", None)  # no benchmark without planned turns reads it
    questions = list(benchmark.questions(folder, options, no_tokenizer))
    texts = [text for question in questions for text in question.users]
    some = texts[:: max(len(texts) // _SAMPLED_TEXTS, 1)]
    tokens = sum(count_tokens(some)) if count_tokens else 0
    ratio = sum(len(text.encode()) for text in some) / tokens if tokens else ASSUMED_BYTES_PER_TOKEN
    limit, turns = evaluation.section["generate"]["max_length"], []
    for question in questions:
        said, new = 0, question.max_new_tokens
        room = new + (reasoned if question.wrapped else 0)
        for number, text in enumerate(question.users):
            said += len(text.encode())
            turns.append((max(min(round(said / ratio), limit), 1) + number * new, room))
    return turns


def reasoning_tokens(evaluation: Evaluation) -> int:
    """Return the tokens that an answer may have for its reasoning."""
    reasoning = evaluation.section["generate"]["reasoning"]
    return 0 if reasoning == "none" else int(reasoning["max_tokens"])


def generation_memory(shape: DecoderShape, evaluation: Evaluation, name: str, window: int | None) -> float:
    """Return the bytes of a device for the longest prompt of a benchmark, and the keys and values of all its tokens.

    ``evaluate.generate.max_length`` or the model's window bounds the prompt. Sliding windows do not lower the memory of
    keys and values.
    """
    generate = evaluation.section["generate"]
    longest = generate["max_length"] + evaluation.options(name).get("max_new_tokens", 0) + reasoning_tokens(evaluation)
    longest = min(longest, window or longest)
    together = max(generate["batch_tokens"] // longest, 1)
    tokens, size = together * longest, bytes_each(generate)
    share = largest_share(shape, generate["gpus_per_job"])
    cache: float = 2.0 * shape.layers * shape.key_width * tokens * size * share
    on_cuda: bool = generate["device"] != "cpu"
    return cache + forward_bytes(shape, tokens, together, size, on_cuda=on_cuda, share=share)
