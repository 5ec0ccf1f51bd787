"""The steps that read texts: rows become samples, samples become lengths and tokens."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gateau.places import RESOURCES
from gateau.planted import KINDS, PlantedShape, planted_row
from gateau.prompts import DEFAULT_TEMPLATE
from gateau.schemas import SAMPLES
from gateau.tables import iterate_rows

from benchmark.harness import Row, Settings, Used, alternate, measured, script

WIDTH = 65_536
MODEL = json.dumps({"path": str(RESOURCES / "tiny_pair/long"), "window": WIDTH})
PARSE = "import json, sys\nfor line in open(sys.argv[1], 'rb'): json.loads(line)"
TOKENIZE = """
import json, sys
from tokenizers import Tokenizer
tokenizer, texts = Tokenizer.from_file(sys.argv[2]), json.load(open(sys.argv[1]))
for start in range(0, len(texts), 1000):
    for encoding in tokenizer.encode_batch_fast(texts[start:start + 1000], add_special_tokens=False):
        len(encoding.ids)
"""


def texts(settings: Settings) -> Iterator[Row]:
    """Samples, index and tokens for 1 000 further rows, without the start of Python: against the least work possible.

    The bound of ``samples`` is to parse the lines as JSON. The bound of ``index`` and ``tokens`` is the bare tokenizer
    on the same texts and as many cores. What is missing to 1 are the checks, the digests, and the writing of tables.
    Ragged tokens are compared with rows that are padded to 65 536 tokens of 64 bits, as the released code stores them.
    """
    few, many = (20, 120) if settings.quick else (1000, 10_000)
    with tempfile.TemporaryDirectory() as name:
        made = {rows: Texts(Path(name) / str(rows), rows) for rows in (few, many)}
        clocks = {"samples": "cpu", "index": "wall", "tokens": "wall"}  # the first one uses one core
        for step, clock in clocks.items():
            used: dict[tuple[str, int], list[Used]] = {}

            def run(way: str, rows: int, step: str = step, used: Any = used) -> None:
                used.setdefault((way, rows), []).append(measured(made[rows].command(step, way), env=made[rows].env))

            ways = {f"{way} {rows}": partial(run, way, rows) for way in ("bare", "rule") for rows in made}
            alternate(ways, settings.script_rounds)
            further = [
                [max(getattr(more, clock) - getattr(less, clock), 1e-4) * 1000 / (many - few)
                 for less, more in zip(used[way, few], used[way, many], strict=True)]
                for way in ("bare", "rule")
            ]  # fmt: skip
            unit = "s" if clock == "wall" else "CPU s"
            bare = "parsing JSON" if step == "samples" else "bare tokenizer"
            yield Row("texts", f"{step}, 1 000 rows more", bare, f"rule {step}", unit, *further, f"{bare}, same texts")
            peaks = [[float(one.peak) for one in used["rule", rows]] for rows in (few, many)]
            names = (f"{few:,} rows", f"{many:,} rows")
            yield Row(
                "texts", f"{step}, {many:,} rows", *names, "B of peak memory", *peaks, "memory that does not grow"
            )
        counts = json.loads((made[many].folder / "tokens.json").read_text())
        ragged, file = 2 * 4 * counts["tokens"], (made[many].folder / "tokens.parquet").stat().st_size
        for case, size in (("in memory", ragged), ("on disk", file)):
            yield Row("texts", f"ids and labels {case}", "padded rows", "ragged tokens", "B", [many * WIDTH * 16.0],
                      [float(size)], "the lengths of the rows", None)  # fmt: skip


class Texts:
    """Planted rows in a folder, and the commands that read them."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        folder.mkdir()
        threads = str(os.cpu_count())
        self.env = {**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        rng, shape = random.Random(0), PlantedShape(20, 400)
        with (folder / "rows.jsonl").open("w") as file:
            for number in range(rows):
                context, question, answer = planted_row(rng.choice(KINDS), rng, shape)
                messages = [{"role": "user", "content": f"{context}\n\n{question} {number}"},
                            {"role": "assistant", "content": answer}]  # fmt: skip
                file.write(json.dumps({"messages": messages}) + "\n")

    def command(self, step: str, way: str) -> list[Any]:
        """Return the command of a rule, or of the bare work that bounds it."""
        folder = self.folder
        samples, rows = folder / "samples.parquet", folder / "rows.jsonl"
        if way == "bare":
            if step == "samples":
                return [sys.executable, "-c", PARSE, rows]
            return [sys.executable, "-c", TOKENIZE, self._texts(step), RESOURCES / "tiny_pair/long/tokenizer.json"]
        if step == "samples":
            return script("samples", "--input", rows, "--samples", samples, "--rejects", folder / "rejects",
                          "--summary", folder / "summary.json")  # fmt: skip
        if step == "index":
            return script("index", "--samples", samples, "--model", MODEL, "--prompt", DEFAULT_TEMPLATE,
                          "--max-length", WIDTH, "--shards", 1, "--output", folder / "index.parquet")  # fmt: skip
        return script(
            "tokens", "--rows", samples, "--source", "long", "--model", MODEL, "--format", "longalign", "--max-length",
            WIDTH, "--over-long", "drop", "--max-rejected-share", 0.5, "--preview", 5, "--workers", os.cpu_count(),
            "--tokens", folder / "tokens.parquet", "--rejects", folder / "rejects", "--summary", folder / "tokens.json",
            "--preview-text", folder / "text", "--preview-html", folder / "html",
        )  # fmt: skip

    def _texts(self, step: str) -> Path:
        """Write the texts that a step tokenizes."""
        path = self.folder / f"{step}.json"
        if not path.exists():
            found = []
            for row in iterate_rows(self.folder / "samples.parquet", SAMPLES):
                if step == "index":
                    found += [row["context"], row["instruction"], row["response"]]
                else:
                    found += [f"[INST]{m['content']}[/INST]" if m["role"] == "user" else m["content"]
                              for m in json.loads(row["messages"])]  # fmt: skip
            path.write_text(json.dumps(found))
        return path
