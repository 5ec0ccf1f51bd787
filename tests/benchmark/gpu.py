"""Measure scoring and training on one GPU of 80 GB, in one call of less than ten minutes.

``python tests/benchmark/gpu.py`` needs torch, transformers and this checkout. Peft, bitsandbytes and flash-attn are
used if they are installed. The models have random weights, and the shapes of Llama-2-7B and Llama-3.1-8B without its
scaled rotary embeddings, which cost nothing. ``gpu.json`` and ``gpu.md`` are written after every case.
``--tiny --device cpu`` runs all of it on tiny shapes.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

ROOT = Path(__file__).resolve().parents[2]
MODELS = {
    "Llama-2-7B": (4096, 11_008, 32, 32, 32, 32_000),
    "Llama-3.1-8B": (4096, 14_336, 32, 32, 8, 128_256),
}
TINY = {"tiny": (64, 176, 2, 4, 2, 512), "tiny, grouped": (64, 176, 2, 4, 1, 512)}
OPTIONAL = ("flash_attn", "peft", "bitsandbytes")
TITLES = ("model", "case", "tokens", "seconds", "tokens/s", "share of matmul rate", "peak GB", "estimate GB", "result")


class Measured:
    """What was measured so far, in two files; the time that is left.

    Attributes:
        result: what gpu.json has.
        failed: whether a case failed, other than by a lack of memory.
    """

    def __init__(self, folder: Path, device: str, minutes: float, rate: float, around: dict[str, Any]) -> None:
        self._folder, self._device, self._end = folder, device, time.monotonic() + 60 * minutes
        self.failed = False
        self.result = {**around, "matmul_flops_per_second": rate, "cases": [], "hours": []}
        self.write()

    def run(self, model: str, case: str, tokens: int, measure: Callable[[], dict[str, Any]]) -> None:
        """Run one case, or skip it if the time is over; out of memory and errors are results too."""
        import torch

        if self._device == "cuda":
            gc.collect()  # the models of earlier cases
            torch.cuda.empty_cache()
        record: dict[str, Any] = {"model": model, "case": case, "tokens": tokens}
        if time.monotonic() > self._end:
            record["status"] = "skipped: no time is left (--minutes)"
        else:
            try:
                record |= {"status": "ok", **measure()}
            except torch.OutOfMemoryError:
                record["status"] = "out of memory"
            except ImportError as error:
                record["status"] = f"absent: {error}"
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                self.failed = True
                record["status"] = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        self.result["cases"].append(record)
        print(f"{model}, {case}, {tokens} tokens: {record['status']}", file=sys.stderr, flush=True)
        self.write()

    def write(self) -> None:
        """Write gpu.json and gpu.md."""
        from gateau.files import write_json, write_text

        write_json(self._folder / "gpu.json", self.result)
        write_text(self._folder / "gpu.md", markdown(self.result))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to run (default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to test the script")
    parser.add_argument("--minutes", type=float, default=9, help="start no case after so many minutes (default: 9)")
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench", help="folder (default: results/bench)")
    args = parser.parse_args(arguments)
    report, harness, cases = load()
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit("torch sees no CUDA device; use --tiny --device cpu to test the script")
    args.output.mkdir(parents=True, exist_ok=True)
    dtype = "bfloat16" if args.device == "cuda" else "float32"
    rate = harness.matmul_flops_per_second(args.device, dtype, 256 if args.tiny else 8192)
    around = {
        **report.surroundings(args.device), "tiny": args.tiny, "dtype": dtype,
        "optional": {name: report.installed(name) for name in OPTIONAL},
    }  # fmt: skip
    measured = Measured(args.output, args.device, args.minutes, rate, around)
    lengths = (512, 1024) if args.tiny else (8192, 16_384, 32_768, 65_536)
    for name, sizes in (TINY if args.tiny else MODELS).items():
        check = lengths[0] // 4
        measured.run(name, "same numbers", check, lambda t=check, s=sizes: cases.same_numbers(s, t, args.device))
        cases.score(measured, name, sizes, lengths, args.device)
        measured.result["hours"] += cases.hours(measured.result, name, cases.config(sizes), lengths)
        measured.write()
        for tokens in lengths[-2:]:
            measured.run(name, "training step", tokens, lambda t=tokens, s=sizes: cases.train(s, t, args.device, rate))
        for tokens in lengths[:2]:
            measured.run(
                name, "released / ours", tokens, lambda t=tokens, s=sizes: cases.against_released(s, t, args.device)
            )
    print((args.output / "gpu.md").read_text())
    return int(measured.failed)


def load() -> tuple[Any, Any, Any]:
    """Import the library and what this script shares with the suite, and say what is too old."""
    if importlib.util.find_spec("pyarrow") is None:  # it describes tables, which this script neither reads nor writes
        sys.modules.update({name: MagicMock() for name in ("pyarrow", "pyarrow.compute", "pyarrow.parquet")})
    try:
        from benchmark import gpu_cases, harness, report
    except ImportError as error:
        sys.exit(
            f"{error}: a newer version of torch or transformers is needed; docs/performance.md says how to bring "
            "wheels to a machine without a network"
        )
    return report, harness, gpu_cases


def markdown(result: dict[str, Any]) -> str:
    """Return what was measured as Markdown."""
    from gateau.reports import decimal, gigabytes, markdown_table, whole

    machine, versions = result["machine"], result["versions"]
    optional = ", ".join(f"{name} {found or 'absent'}" for name, found in result["optional"].items())
    lines = [
        f"# Benchmark on {machine['gpu'] or machine['cpu']}", "",
        *(["**Tiny shapes: these numbers show only that the script works.**", ""] if result["tiny"] else []),
        f"torch {versions['torch']}, transformers {versions['transformers']}, {optional}; {result['dtype']}; commit "
        f"{versions['commit']}; {result['date']}. A large matmul reaches "
        f"{result['matmul_flops_per_second'] / 1e12:.3g} TFLOP/s.", "",
    ]  # fmt: skip
    rows = []
    for one in result["cases"]:
        outcome = one.get("note", "") if one["status"] == "ok" else one["status"]
        rate = one.get("tokens_per_second")
        rows.append([one["model"], one["case"], whole(one["tokens"]), decimal(one.get("seconds")),
                     whole(None if rate is None else round(rate)), decimal(one.get("share")),
                     gigabytes(one.get("peak_bytes")), gigabytes(one.get("estimated_bytes")), outcome])  # fmt: skip
    lines += [markdown_table(TITLES, rows, numbers=range(2, 8)), ""]
    if result["hours"]:
        low, high = result["hours"][0]["lengths"]
        lines += [
            f"GPU-hours for 10,000 rows with lengths log-uniform from {low:,} to {high:,} tokens, by the operations "
            "of work.py at the measured rates; the paper's recipe at the rate of the long pass:",
            "", markdown_table(("model", "scoring", "GPU-hours"), [
                [one["model"], one["plan"], decimal(one["gpu_hours"], 4 if result["tiny"] else 1)]
                for one in result["hours"]
            ], numbers=(2,)), "",
        ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path[:1] = [str(ROOT / "scripts"), str(ROOT / "tests")]
    sys.exit(main())
