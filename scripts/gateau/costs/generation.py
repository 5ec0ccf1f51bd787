"""What answering the benchmarks costs: lengths of prompts and answers, operations, memory traffic and memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gateau.costs.lengths import ASSUMED_BYTES_PER_TOKEN, BoundedRows, Bounds
from gateau.costs.passes import forward_bytes
from gateau.costs.stages import Stage
from gateau.evaluation.answering.questions import Question
from gateau.evaluation.benchmarks.base import PlannedTurn
from gateau.evaluation.configured import Evaluation
from gateau.work import DecoderShape, generation_flops

_SAMPLED_TEXTS = 48


@dataclass(frozen=True)
class Turn:
    """Tokens of one answer: those of its prompt, and new ones."""

    prompt: int
    new: int


def cache_bytes(shape: DecoderShape, tokens: float, bytes_each: int) -> float:
    """Return the bytes of keys and values of so many tokens in all layers; sliding windows do not lower them."""
    return 2.0 * shape.layers * shape.key_width * tokens * bytes_each


def generation_reads(shape: DecoderShape, turn: Turn, batch: float, bytes_each: int) -> float:
    """Return the bytes that decoding one answer reads from the device's memory, which bound its speed.

    Each new token reads all weights, shared by the ``batch`` answers that are written together, and the answer's own
    cache of keys and values.
    """
    weights = (shape.parameters - shape.vocabulary * shape.hidden * (not shape.tied)) * bytes_each / batch
    return max(turn.new - 1, 0) * (weights + cache_bytes(shape, turn.prompt + turn.new / 2, bytes_each))


def generation_stage(
    model: str, benchmark: str, evaluation: Evaluation, shape: DecoderShape | None, turns: BoundedRows[Turn] | None
) -> Stage:
    """Return rule generate for one model and benchmark. An unknown shape leaves out work and memory."""
    options, shards = evaluation.section["generate"], evaluation.shards(benchmark)
    on_cuda = options["device"] != "cpu"
    size = 2 if (on_cuda if options["dtype"] == "auto" else options["dtype"] != "float32") else 4
    pattern = f"generate/{model}/{benchmark}/*-of-{shards:04d}.tsv"
    stage = Stage("generate", f"{model} {benchmark}", shards, int(on_cuda), benchmarks=pattern)
    if turns is None:
        return stage
    samples = len(turns.likely)
    stage = replace(stage, samples=samples, tokens=turns.total(lambda turn: float(turn.prompt + turn.new)))
    if shape is None:
        return stage

    def batch(turn: Turn) -> int:
        return max(min(int(options["batch_tokens"]) // (turn.prompt + turn.new), samples), 1)

    longest = max(turns.high, key=lambda turn: (turn.prompt, turn.new))
    together = batch(longest)
    filled = together * (longest.prompt + longest.new)
    flops = turns.total(lambda turn: generation_flops(shape, turn.prompt, turn.new))
    return replace(
        stage,
        flops=flops,
        executed=flops.likely,
        reads=turns.total(lambda turn: generation_reads(shape, turn, batch(turn), size)),
        memory=forward_bytes(shape, filled, together, size, on_cuda=on_cuda) + cache_bytes(shape, filled, size),
    )


def answered_turns(folder: Path, shards: int) -> BoundedRows[Turn] | None:
    """Return the exact lengths of the answers in a folder of rule generate, or None unless all shards exist."""
    files = sorted(folder.glob(f"*-of-{shards:04d}.jsonl"))
    if len(files) < shards:
        return None
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return BoundedRows.exact([Turn(turn["prompt_tokens"], turn["new_tokens"]) for row in rows for turn in row["turns"]])


def planned_turns(planned: Sequence[PlannedTurn]) -> BoundedRows[Turn]:
    """Return the lengths of answers to prompts of known length: at least one new token, at most those allowed."""
    most = [Turn(one.most_prompt, one.most_new) for one in planned]
    return BoundedRows([Turn(one.least_prompt, 1) for one in planned], most, most)


def asked_turns(
    questions: Sequence[Question], count_tokens: Callable[[list[str]], list[int]] | None, limit: int
) -> BoundedRows[Turn]:
    """Return the lengths of answers to questions: at least one new token, most likely as many as are allowed.

    Args:
        questions: of a benchmark.
        count_tokens: returns the number of tokens of each text; if None, a ratio of bytes per token is assumed.
        limit: ``evaluate.generate.max_length``, in tokens.
    """
    texts = [text for question in questions for text in question.users]
    some = texts[:: max(len(texts) // _SAMPLED_TEXTS, 1)]
    ratio = ASSUMED_BYTES_PER_TOKEN
    if count_tokens:
        ratio = Bounds.exact(sum(len(text.encode()) for text in some) / max(sum(count_tokens(some)), 1))

    def turns(bytes_per_token: float, answers: bool) -> list[Turn]:
        found = []
        for question in questions:
            new, said = question.max_new_tokens if answers else 1, 0
            for number, text in enumerate(question.users):
                said += len(text.encode())
                found.append(Turn(max(min(round(said / bytes_per_token), limit) + number * new, 1), new))
        return found

    return BoundedRows(turns(ratio.low, False), turns(ratio.likely, True), turns(ratio.high, True))
