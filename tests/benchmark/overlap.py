"""The share of the time that a pass computes, when it reads, encodes and writes beside the model and when it does not.

``python tests/benchmark/overlap.py``. Both ways score the same samples in turn, with the code of the passes. The
devices are stand-ins: they take a fixed time for each token and no CPU, as a GPU does. 50 µs a token are about a 7B
model, 5 µs a small one. ``model`` is a tiny model on the CPU, where the threads take their time from the model.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from gateau.prompts import DEFAULT_TEMPLATE, PromptEncoder
from gateau.schemas import SAMPLES, SHORT_RESULT
from gateau.scoring import ahead, store
from gateau.scoring.passes import ShortPass
from gateau.scoring.shards import SampleReader, score_shard
from gateau.tables import write_rows

TOKENIZER = Path(__file__).resolve().parents[2] / "workflow/resources/tiny_pair/long"


class AtOnce:
    """An executor without a thread: it does everything when it is told to."""

    def __init__(self, threads):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, function, *arguments):
        done = Future()
        done.set_result(function(*arguments))
        return done

    def shutdown(self, cancel_futures):
        pass


class Timed(ShortPass):
    """The short pass, or a stand-in for a device that takes a fixed time for each token; it adds up its seconds."""

    def compute(self, model, sample):
        start = time.perf_counter()
        if model is None:
            time.sleep(self.per_token * sample.n_tokens)
            result = {"token_nll": [1.0] * len(sample.response)}
        else:
            result = super().compute(model, sample)
        self.seconds += time.perf_counter() - start
        return result


def made(folder, tokenizer, samples, tokens):
    """Write a sample table of random words, and return the rows of its index."""
    words, generator = list(tokenizer.get_vocab()), random.Random(0)
    words = [word.lstrip("Ġ") for word in words if word.lstrip("Ġ").isalpha()]

    def text(count):
        return " ".join(generator.choices(words, k=count))

    rows = [
        {"id": f"s{number}", "file": "f", "line": number, "dataset": None, "length": None, "context": text(tokens // 2),
         "instruction": "What?", "response": text(100), "messages": "[]", "digest": f"d{number}"}
        for number in range(samples)
    ]  # fmt: skip
    write_rows(folder / "samples.parquet", SAMPLES, rows, row_group_size=1024)
    return [
        {"id": row["id"], "row": number, "status": "ok", "n_tokens": 2, "n_context": 1}
        for number, row in enumerate(rows)
    ]


def one_run(folder, index, encoder, model, per_token, tokens, is_serial):
    """Score all samples. Return the seconds in all, and the share of them that was computing."""
    timed = Timed(None)
    vars(timed).update(seconds=0.0, per_token=per_token)
    with tempfile.TemporaryDirectory(dir=folder) as name, ExitStack() as patches:
        if is_serial:
            for module in (ahead, store):
                patches.enter_context(patch.object(module, "ThreadPoolExecutor", AtOnce))
        progress = store.ProgressStore(name, "short_pass", {}, SHORT_RESULT, flush_seconds=1.0)
        reader = SampleReader(str(folder / "samples.parquet"), SAMPLES)
        start = time.perf_counter()
        score_shard(
            timed, index, reader, encoder, tokens, progress, lambda: model, f"{name}/out.parquet", lambda rows, n: rows
        )
        seconds = time.perf_counter() - start
    return seconds, timed.seconds / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=1, max_position_embeddings=args.tokens, **sizes)
    model = LlamaForCausalLM(config).eval()
    encoder = PromptEncoder(tokenizer, DEFAULT_TEMPLATE)
    print("| computing | busy, one after another | busy, side by side | time, side by side to one after another |")
    print("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index = made(folder, tokenizer, args.samples, args.tokens)
        for kind, computes, per_token in (
            ("device, 50 µs", None, 5e-5),
            ("device, 5 µs", None, 5e-6),
            ("model", model, 0),
        ):
            runs = [
                [one_run(folder, index, encoder, computes, per_token, args.tokens, serial) for serial in (True, False)]
                for _ in range(args.repeats)
            ]
            before, after = (statistics.median(run[way][1] for run in runs) for way in (0, 1))
            ratios = sorted(run[1][0] / run[0][0] for run in runs)
            print(
                f"| {kind} | {before:.1%} | {after:.1%} "
                f"| {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) |", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
