"""The three scoring passes: against the released algorithm, against their bound, as texts grow, and their memory."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from gateau.costs.lengths import SampleLength
from gateau.costs.passes import ScoringPass
from gateau.prompts import EncodedSample
from gateau.scoring.passes import LongPass, SegmentPass, ShortPass
from gateau.work import DecoderShape

from benchmark.harness import PeakMemory, Row, Settings, alternate, in_child, matmul_flops_per_second
from benchmark.released import random_sample, released_passes

SEGMENT = 128
BLOCK = 16
BATCH_TOKENS = 8192
EXACT = {"cam": {"segment_length": SEGMENT}, "scoring": {"screen": None, "segments": None}}
QUESTION, RESPONSE = 30, 100
RATE = "operations of work.py at the measured rate of a large matmul"


def released(settings: Settings) -> Iterator[Row]:
    """The same scores with less work: the three passes against the released algorithm, restated.

    The model is a scale model of a 7B at 64k tokens: attention and matrix work have the same proportion, and 512
    segments fill the window. Operations are torch's count with eager attention on both sides, all of S × S. The ratio
    of times is larger than that of operations, because attention that is written to memory waits for memory.
    """
    window, n_segments = (512, 64) if settings.quick else (4096, 512)
    segment = window // n_segments
    fast, slow = (scale_model(window, attention, settings.device) for attention in ("sdpa", "eager"))
    for part in (8, 4):
        sample = random_sample(window // part, 6, 6, 1024)  # a tail as short against the window as in LongAlign

        def ours(model: Any = fast, sample: EncodedSample = sample) -> None:
            for one in (ShortPass(None), LongPass(BLOCK, SEGMENT), SegmentPass(segment, 1024, (0,))):
                one.compute(model, sample)

        def theirs(model: Any = fast, sample: EncodedSample = sample) -> None:
            released_passes(model, slow, sample, window, segment, 1024)

        case, names = f"sample of 1/{part} of the window", ("released algorithm", "three passes")
        counts = [float(count_flops(partial(run, slow))) for run in (theirs, ours)]
        bound = "what is left is the passes' own work, see the part bound"
        yield Row("released", case, *names, "operations", counts[:1], counts[1:], bound, None)
        taken = alternate(dict(zip(names, (theirs, ours), strict=True)), settings.rounds, settings.device)
        yield Row("released", case, *names, "s", *taken.values(), bound, None)


def bound(settings: Settings) -> Iterator[Row]:
    """Each pass against what it cannot beat: a bare forward of the same tokens with logits at the same positions.

    The second bound is the time that a large matmul of this machine would need for the operations of the pass. 1.00
    means that the bound is reached. What is missing to 1 is the loss, the attention profile, and layers that are too
    small to keep the device busy.
    """
    model, length = bench_model(settings), 256 if settings.quick else 4096
    dtype, side = str(model.dtype).removeprefix("torch."), 256 if settings.quick else 2048
    side = 8192 if settings.device == "cuda" else side
    sample = random_sample(length, QUESTION, RESPONSE, model.config.vocab_size)
    for one in passes():
        flops = operations(one.name, model, sample)
        ways: dict[str, Callable[[], object]] = {
            "bare forward": partial(bare_forward, model, one, sample),
            "pass": partial(one.compute, model, sample),
            "matmul": partial(matmul_flops_per_second, settings.device, dtype, side),
        }
        for way in ("bare forward", "pass"):  # the first call is slower
            ways[way]()
        taken = alternate(ways, settings.rounds, settings.device)
        case = f"{one.name}, {length} tokens"
        yield Row("bound", case, "bare forward", "pass", "s", taken["bare forward"], taken["pass"],
                  "the same forward with logits at the same positions")  # fmt: skip
        at_rate = [flops / rate for rate in taken["matmul"]]
        yield Row("bound", case, "at matmul rate", "pass", "s", at_rate, taken["pass"], RATE)


def growth(settings: Settings) -> Iterator[Row]:
    """How time grows from the shortest to the longest of four lengths T, by a fitted exponent, against the operations.

    The exponent lies between 1 (matrices) and 2 (attention). A ratio of 1 or more means that time grows no faster than
    the operations of ``work.py``.
    """
    model, first = bench_model(settings), 64 if settings.quick else 512
    lengths = [first << power for power in range(4)]
    samples = [random_sample(length, QUESTION // 2, RESPONSE // 4, model.config.vocab_size) for length in lengths]
    for one in passes():
        by_work = slope(lengths, [operations(one.name, model, sample) for sample in samples])
        ways = {str(sample.n_tokens): partial(one.compute, model, sample) for sample in samples}
        one.compute(model, samples[-1])
        rounds = zip(*alternate(ways, settings.rounds, settings.device).values(), strict=True)
        by_time = [slope(lengths, seconds) for seconds in rounds]
        case = f"{one.name}, {lengths[0]} to {lengths[-1]} tokens"
        powers = [by_work] * len(by_time), by_time
        factors = [[(lengths[-1] / lengths[0]) ** power for power in found] for found in powers]
        exponents = f"operations: T^{by_work:.2f}; time: T^{statistics.median(by_time):.2f}"
        yield Row("growth", case, "operations", "time", "growth", *factors, exponents)


def memory(settings: Settings) -> Iterator[Row]:
    """The peak memory of the segment pass against the same batches with all their logits at once.

    The output layer works in chunks, so the vocabulary and the batch add at most a fixed amount. What is left are the
    layers' own tensors.
    """
    vocabulary = 4096 if settings.quick else 128_000
    measure = segment_peak if settings.quick else partial(in_child, "benchmark.passes:segment_peak")
    ways = {
        way: partial(measure, way, vocabulary, settings.quick, settings.device)
        for way in ("all logits at once", "segment pass")
    }
    peaks = alternate(ways, settings.script_rounds)
    yield Row("memory", f"segment_pass, vocabulary of {vocabulary:,}", *peaks, "B", *peaks.values(),
              "work.LOGITS_BYTES of logits and the layers' tensors", None)  # fmt: skip


def segment_peak(way: str, vocabulary: int, quick: bool, device: str) -> float:
    """Return the peak bytes of one batch of segments, beyond those at the start."""
    model = bench_model(Settings(quick=quick, device=device), vocab_size=vocabulary)
    one = SegmentPass(SEGMENT, BATCH_TOKENS, ())
    sample = random_sample(512 if quick else 4096, 20, 50, vocabulary)
    run = partial(bare_forward, model, one, loss=True) if way == "all logits at once" else partial(one.compute, model)
    run(random_sample(200, 20, 50, vocabulary))
    with PeakMemory(device) as used:
        run(sample)
    return float(used.added)


def passes() -> list[Any]:
    return [ShortPass(None), LongPass(BLOCK, SEGMENT), SegmentPass(SEGMENT, BATCH_TOKENS, ())]


def operations(rule: str, model: Any, sample: EncodedSample) -> float:
    """Return the operations of one pass over a sample, as the library counts them."""
    n_response = len(sample.response)
    lengths = SampleLength(len(sample.context), sample.n_frame, n_response)
    return ScoringPass(rule, None, EXACT).flops(DecoderShape.from_config(model.config), lengths)


@torch.inference_mode()
def bare_forward(model: Any, one: Any, sample: EncodedSample, loss: bool = False) -> None:
    """Run a plain forward over the batches of a pass, with logits at the positions of the response, and their loss."""
    sequences = [sample.sequence()]
    if isinstance(one, SegmentPass):
        segments = sample.segments(one.segment_length)
        sequences = [*map(sample.sequence, segments), sample.sequence([]), sample.response]
    together = max(BATCH_TOKENS // len(sequences[0]), 1)
    while sequences:
        n = sum(len(sequence) == len(sequences[0]) for sequence in sequences[:together])
        ids = torch.tensor(sequences[:n], device=model.device)
        keep = min(len(sample.response) + 1, ids.shape[1])
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits.float()
        if loss:  # that of other targets, which costs the same
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -keep:].flatten(), reduction="none")
        sequences = sequences[n:]


def slope(lengths: list[int], values: Any) -> float:
    """Return the slope of the line through the logarithms of both."""
    return statistics.linear_regression(list(map(math.log, lengths)), list(map(math.log, values))).slope


def bench_model(settings: Settings, **changes: Any) -> Any:
    """Return the model of ``--model``, or a random one of a size that suits the device."""
    if settings.model:
        from gateau.model_files import ModelSpec
        from gateau.models import Runtime, load_config, load_model

        spec = ModelSpec.from_config(settings.model)
        return load_model(spec, load_config(spec), Runtime(settings.device))
    sizes = {
        "quick": (64, 176, 2, 4, 2, 512), "cpu": (576, 1536, 6, 9, 3, 16_384), "cuda": (2048, 5632, 16, 16, 8, 32_000),
    }["quick" if settings.quick else settings.device]  # fmt: skip
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    config = LlamaConfig(
        **{**dict(zip((*names, "vocab_size"), sizes, strict=True)), "max_position_embeddings": 65_536, **changes}
    )
    return random_model(config, settings.device)


def random_model(config: Any, device: str) -> Any:
    """Return a model with random weights that are made on the device, in bfloat16 on CUDA."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def scale_model(window: int, attention: str, device: str) -> Any:
    """Four layers of a width of window / 16: window / (12 · width) is 4/3, as for a 7B at 64k tokens."""
    width = window // 16
    config = LlamaConfig(
        vocab_size=1024, hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=window, attn_implementation=attention,
    )  # fmt: skip
    return random_model(config, device)


def count_flops(run: Callable[[], object]) -> int:
    """Count the operations of matrix products and attention (all of S × S, causal or not)."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
