"""Our three passes against the released algorithm, restated, on the same model and samples, in one process.

``make bench`` prints FLOPs (torch's counter), seconds (median of alternating runs) and the ratios between the two.
FLOPs are counted with eager attention on both sides, because on a CPU the counter knows no other, all of S x S,
causal or not. The released algorithm, per sample: two full passes with logits at every position; a pass padded to the
window with the attention of every layer materialised; one forward per segment of the *window*, padding included.

The model is a scale model of a 7B at 64k tokens: window / (12 · width) = 4/3 puts attention and matrix work in the same
proportion, and 512 segments fill the window. Segments are batched alike on both sides, so that the ratio compares the
algorithms and not batch sizes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from gateau.prompts import EncodedSample
from gateau.scoring.passes import LongPass, SegmentPass, ShortPass

N_SEGMENTS = 512
PAD = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    window, segment = args.window, args.window // N_SEGMENTS
    fast, slow = scale_model(window, "sdpa"), scale_model(window, "eager")
    batch_tokens = 1024
    print(f"window {window}, width {fast.config.hidden_size}, {N_SEGMENTS} segments of {segment} tokens a window")
    print("| sample | FLOP released | FLOP ours | ratio | s released | s ours | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for part in (8, 4):
        sample = random_sample(window // part)

        def ours(model: LlamaForCausalLM = fast, sample: EncodedSample = sample) -> None:
            ShortPass(None).compute(model, sample)
            LongPass(16, 128).compute(model, sample)
            SegmentPass(segment, batch_tokens, (0,)).compute(model, sample)

        def released(model: LlamaForCausalLM = fast, sample: EncodedSample = sample) -> None:
            released_passes(model, slow, sample, window, segment, batch_tokens)

        flops = [count_flops(partial(run, slow)) for run in (released, ours)]
        seconds = [statistics.median(times) for times in alternate(released, ours, repeats=args.repeats)]
        print(
            f"| window / {part} | {flops[0]:.3g} | {flops[1]:.3g} | {flops[0] / flops[1]:.1f} "
            f"| {seconds[0]:.2f} | {seconds[1]:.2f} | {seconds[0] / seconds[1]:.1f} |"
        )


def scale_model(window: int, attention: str) -> LlamaForCausalLM:
    """Four layers of a width of window / 16."""
    width = window // 16
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=window, attn_implementation=attention,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def random_sample(n_tokens: int) -> EncodedSample:
    """Question and response of twelve tokens in all: as short against the window as in LongAlign."""
    ids = torch.randint(3, 1024, (n_tokens,)).tolist()
    return EncodedSample(ids[:1], ids[1:-12], ids[-12:-6], ids[-6:])


@torch.no_grad()
def released_passes(
    fast: LlamaForCausalLM, slow: LlamaForCausalLM, sample: EncodedSample, window: int, segment: int, batch_tokens: int
) -> None:
    """The released work: every logit, every pad, every attention weight."""
    whole = torch.tensor([sample.sequence()])
    for _ in ("short", "long"):
        logits = fast(whole, use_cache=False).logits.float()
        torch.nn.functional.cross_entropy(logits[0, :-1], whole[0, 1:], reduction="none")
    padded = torch.full((1, window), PAD)
    padded[0, -whole.shape[1] :] = whole
    attentions = slow(padded, use_cache=False, output_attentions=True).attentions
    torch.stack([layer[0, :, -6:].mean((0, 1)) for layer in attentions]).mean(0)
    del attentions
    context = torch.full((N_SEGMENTS * segment,), PAD)
    context[: len(sample.context)] = torch.tensor(sample.context)
    tail = torch.tensor(sample.question + sample.response).expand(N_SEGMENTS, -1)
    sequences = torch.cat([context.view(N_SEGMENTS, segment), tail], 1)
    for batch in sequences.split(max(batch_tokens // sequences.shape[1], 1)):
        logits = fast(batch, use_cache=False).logits.float()
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="none")


def count_flops(run: Callable[[], None]) -> int:
    """Floating point operations of matrix products and attention (all of S x S, causal or not, on both sides)."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def alternate(*runs: Callable[[], None], repeats: int) -> list[list[float]]:
    """Seconds of each run, taken in turn, so that a drifting machine hits them alike."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, taken in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
