"""Ragged tokens and the batch plan against the dense way, on 20 000 generated rows, in one run.

``python tests/benchmark/tokens.py [--rows N] [--workers W]`` prints a table: bytes and peak memory of the ragged table
against rows padded to 65 536 int64 (as the released code stores them), tokens/s of the rule's script against the bare
tokenizer on the same cores, and the time of a plan for 100 000 lengths. Ratios travel to other machines.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from gateau.schemas import CHATS, TOKENS
from gateau.tables import iterate_rows, write_rows
from gateau.training.plans import PlanOptions, describe_plan, make_plan

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 65536
MODEL = ROOT / "workflow/resources/tiny_pair/long"
DENSE_ROWS = 1000


def generated_rows(count, seed=0):
    """Ten short chats for each long row, as in the paper's larger mixture, in planted language."""
    from gateau.planted import KINDS, PlantedShape, planted_chats, planted_row

    rng = random.Random(seed)
    shape = PlantedShape(500, 3000)
    chats = planted_chats(count, seed)
    for number, chat in enumerate(chats):
        if number % 11 == 0:
            context, question, answer = planted_row(rng.choice(KINDS), rng, shape)
            messages = [
                {"role": "user", "content": f"{context}\n\n{question}"},
                {"role": "assistant", "content": answer},
            ]
        else:
            names = {"human": "user", "gpt": "assistant"}
            messages = [{"role": names[m["from"]], "content": m["value"]} for m in chat["conversations"]]
        yield {
            "id": f"r{number}", "file": "generated", "line": number + 1, "dataset": None,
            "messages": json.dumps(messages), "digest": f"{number}",
        }  # fmt: skip


def run_rule(folder, workers):
    """The rule's script as Snakemake would call it: seconds in all, and peak bytes of its largest process."""
    command = [
        sys.executable, ROOT / "scripts/tokens.py", "--rows", folder / "rows.parquet", "--source", "short",
        "--model", json.dumps({"path": str(MODEL)}), "--format", "longalign", "--max-length", WIDTH,
        "--over-long", "drop",
        "--max-rejected-share", 0.5, "--preview", 5, "--workers", workers, "--tokens", folder / "tokens.parquet",
        "--rejects", folder / "rejects", "--summary", folder / "summary.json", "--preview-text", folder / "text",
        "--preview-html", folder / "html",
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return time.perf_counter() - started, peak


def bare_tokenizer(texts, workers):
    """Seconds that the tokenizer alone takes for the same texts on as many threads, from texts to lists of ids."""
    script = (
        "import json, sys, time; from tokenizers import Tokenizer\n"
        f"tokenizer = Tokenizer.from_file({str(MODEL / 'tokenizer.json')!r})\n"
        "texts = json.load(open(sys.argv[1])); started = time.perf_counter(); count = 0\n"
        "for start in range(0, len(texts), 1000):\n"
        "    batch = tokenizer.encode_batch_fast(texts[start:start + 1000], add_special_tokens=False)\n"
        "    count += sum(len(encoding.ids) for encoding in batch)\n"
        "print(time.perf_counter() - started, count)"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(texts, file)
        file.flush()
        environment = {**os.environ, "RAYON_NUM_THREADS": str(workers), "TOKENIZERS_PARALLELISM": "true"}
        output = subprocess.run(
            [sys.executable, "-c", script, file.name], check=True, capture_output=True, text=True, env=environment
        ).stdout.split()
    return float(output[0]), int(output[1])


def dense_peak(tokens, count):
    """Peak bytes of building dense int64 rows of ids and labels, for ``count`` rows, in a process of its own."""

    def build(pipe):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ids, labels = np.zeros((count, WIDTH), np.int64), np.full((count, WIDTH), -100, np.int64)
        ids[:] = 0  # touch the pages
        for number, row in enumerate(iterate_rows(tokens, TOKENS)):
            if number == count:
                break
            ids[number, : row["n_tokens"]], labels[number, : row["n_tokens"]] = row["input_ids"], row["labels"]
        pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=build, args=(there,))
    process.start()
    result = here.recv()
    process.join()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.parquet", CHATS, generated_rows(args.rows), row_group_size=1024)
        texts = []
        for row in iterate_rows(folder / "rows.parquet", CHATS):
            for message in json.loads(row["messages"]):
                content = message["content"]
                texts.append(f"[INST]{content}[/INST]" if message["role"] == "user" else content)
        bare = [bare_tokenizer(texts, args.workers) for _ in range(2)]
        runs = [run_rule(folder, args.workers) for _ in range(2)]
        summary = json.loads((folder / "summary.json").read_text())
        empty = folder / "empty"
        empty.mkdir()
        write_rows(empty / "rows.parquet", CHATS, generated_rows(2))
        start_seconds, _ = run_rule(empty, args.workers)
        ragged = (folder / "tokens.parquet").stat().st_size
        in_memory = 2 * 4 * summary["tokens"]
        dense = args.rows * WIDTH * 8 * 2
        sample = min(DENSE_ROWS, args.rows)
        dense_rss = dense_peak(folder / "tokens.parquet", sample)
        bare_seconds, rule_seconds = min(b[0] for b in bare), min(r[0] for r in runs)
        print(f"{args.rows} rows, {summary['tokens']} tokens, longest {summary['longest']}, {args.workers} workers\n")
        print("| | ragged | dense 65 536 int64 | dense / ragged |\n|---|---:|---:|---:|")
        print(f"| ids and labels on disk | {ragged / 1e6:.1f} MB | {dense / 1e6:.0f} MB | {dense / ragged:.0f} |")
        print(
            f"| ids and labels uncompressed | {in_memory / 1e6:.1f} MB | {dense / 1e6:.0f} MB | "
            f"{dense / in_memory:.0f} |"
        )
        scaled = dense_rss * args.rows / sample
        peak = runs[-1][1]
        print(
            f"| peak memory | {peak / 1e6:.0f} MB (whole process) | {scaled / 1e6:.0f} MB "
            f"({dense_rss / 1e6:.0f} MB measured for {sample} rows, scaled) | {scaled / peak:.0f} |\n"
        )
        print("| | seconds | tokens/s | against bare |\n|---|---:|---:|---:|")
        bare_rate = bare[0][1] / bare_seconds
        rows = {
            f"bare tokenizer, {args.workers} threads, texts to ids": (bare_seconds, bare_rate),
            "rule tokens, whole script": (rule_seconds, summary["tokens"] / rule_seconds),
            "rule tokens without the start of Python and its imports": (
                rule_seconds - start_seconds, summary["tokens"] / (rule_seconds - start_seconds)
            ),
        }  # fmt: skip
        for name, (seconds, rate) in rows.items():
            print(f"| {name} | {seconds:.1f} | {rate:.0f} | {rate / bare_rate:.2f} |")
        print()
    lengths = np.clip(np.random.default_rng(0).lognormal(7, 1.5, 100_000), 4, WIDTH).astype(int).tolist()
    for method in ("step_pack", "sort", "pack"):
        started = time.perf_counter()
        plan = make_plan(lengths, PlanOptions(method, 1, 96, WIDTH, 0), 8)
        seconds = time.perf_counter() - started
        counted = describe_plan(plan, lengths)
        print(
            f"plan {method} for 100 000 lengths: {seconds:.1f} s, {counted['micro_steps']} micro-steps, "
            f"fill {counted['fill']:.2f}, balance {counted['balance']:.3f}"
        )


if __name__ == "__main__":
    main()
