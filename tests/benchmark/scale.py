"""The steps after scoring on many generated samples, from the files of the passes to the plan of a training.

A sample has 20 000 context tokens on average, segments of 128 tokens and a response of 300. The shard files hold the
profile by layer of two layers only; no step reads it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gateau.schemas import INDEX, LONG_RESULT, SAMPLES, SEGMENT_RESULT, SHORT_RESULT, TOKENS, shard_schema
from gateau.tables import write_table_stream

from benchmark.harness import Row, Settings, Used, measured, script

SEGMENT, BLOCK, RESPONSE, SHARD_ROWS, GROUP = 128, 16, 300, 16_384, 32


def scale(settings: Settings) -> Iterator[Row]:
    """Each step after scoring, for each sample: many samples against the smallest number.

    A ratio of 1 or more in time means linear growth or better; the start of Python is divided among more samples.
    Memory grows by what a step must hold of each sample: ids and a few numbers. A million samples run once.
    """
    used: dict[int, dict[str, list[Used]]] = {rows: {} for rows in settings.rows}
    with tempfile.TemporaryDirectory() as name:
        made = {rows: Made(Path(name) / str(rows), rows) for rows in settings.rows}
        for one in made.values():
            one.write()
        for number in range(settings.script_rounds):
            for rows, one in made.items():
                if number and rows > 100_000:
                    continue
                for step, (command, *arguments) in steps(one.folder, one.shards):
                    if settings.quick and step == "selection gateau_robust":
                        continue
                    used[rows].setdefault(step, []).append(measured(script(command, *arguments)))
    fewest = min(used)
    for rows in sorted(used)[1:]:
        for step, many in used[rows].items():
            few = used[fewest][step][: len(many)]
            names = (f"{fewest:,} samples", f"{rows:,} samples")
            seconds = [[1000 * one.cpu / count for one in taken] for taken, count in ((few, fewest), (many, rows))]
            yield Row("scale", f"{step}, {rows:,} samples", *names, "CPU ms a sample", *seconds, "linear time")
            peaks = [[float(one.peak) for one in taken] for taken in (few, many)]
            yield Row("scale", f"{step}, {rows:,} samples", *names, "B of peak memory", *peaks,
                      "memory that does not grow")  # fmt: skip


class Made:
    """Generated tables of ``rows`` samples in a folder."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder, self.rows, self.random = folder, rows, np.random.default_rng(0)
        self.shards = -(-rows // SHARD_ROWS)
        self.context = self.random.integers(10_000, 30_000, rows)
        self.ids = np.char.add("sample-", np.char.zfill(self.random.permutation(rows).astype(str), 9))
        self.pool = self.random.random(2**20)
        self.small = self.pool.astype(np.float16)

    def write(self) -> None:
        self.folder.mkdir()
        write_table_stream(self.folder / "index.parquet", INDEX, self._tables(INDEX, range(self.rows), 1024))
        write_table_stream(self.folder / "samples.parquet", SAMPLES, self._tables(SAMPLES, range(self.rows), 1024))
        write_table_stream(self.folder / "long.parquet", TOKENS, self._tables(TOKENS, range(self.rows), 1024))
        for name, result in (("short", SHORT_RESULT), ("long", LONG_RESULT), ("segments", SEGMENT_RESULT)):
            (self.folder / name).mkdir()
            schema = shard_schema(result)
            for shard in range(self.shards):
                path = self.folder / name / f"{shard:04d}-of-{self.shards:04d}.parquet"
                write_table_stream(path, schema, self._tables(schema, range(shard, self.rows, self.shards), GROUP))

    def _tables(self, schema, rows, size):
        for start in range(0, len(rows), size):
            part = np.asarray(rows[start : start + size])
            yield pa.table([self._column(field, part) for field in schema], schema=schema)

    def _column(self, field, rows):
        fixed = {
            "id": self.ids[rows], "row": rows, "shard": rows % self.shards, "n_context": self.context[rows],
            "digest": self.ids[rows], "messages": np.full(len(rows), json.dumps([{"role": "user", "content": "text"}])),
            "n_tokens": self.context[rows] + RESPONSE, "line": rows + 1,
        }  # fmt: skip
        if field.name in fixed:
            return pa.array(fixed[field.name], field.type)
        if pa.types.is_list(field.type):
            return self._lists(field, rows)
        if pa.types.is_string(field.type):
            return pa.array(np.full(len(rows), "ok" if field.name == "status" else "text"), field.type)
        if pa.types.is_floating(field.type):
            return pa.array(self.random.random(len(rows)), field.type)
        return pa.array(np.full(len(rows), 20), field.type)

    def _lists(self, field, rows):
        if field.name == "segment_weight":  # all segments were read
            return pa.nulls(len(rows), field.type)
        sizes = {
            "segment_nll": -(-self.context[rows] // SEGMENT), "attention": -(-self.context[rows] // BLOCK),
            "attention_second_half": -(-self.context[rows] // BLOCK), "token_nll": np.full(len(rows), RESPONSE),
        }.get(field.name, np.full(len(rows), 2))  # fmt: skip
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        first = int(self.random.integers(0, len(self.pool) - offsets[-1]))
        pool = self.small if field.type.value_type == pa.float16() else self.pool
        values = pa.array(pool[first : first + offsets[-1]]).cast(field.type.value_type, safe=False)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=field.type)


def steps(folder: Path, shards: int) -> Iterator[tuple[str, list[Any]]]:
    """The commands of the steps, as the rules run them."""
    scores, index, samples = folder / "scores.parquet", folder / "index.parquet", folder / "samples.parquet"
    passes = [f"--{name}={folder / name}" for name in ("short", "long", "segments")]
    yield "scores", ["scores", "--index", index, *passes, "--shards", shards, "--segment-length", SEGMENT,
                     "--attention-block", BLOCK, "--output", scores]  # fmt: skip
    yield "screen", ["screen", "--index", index, *passes[:2], "--shards", shards, "--share", 0.2, "--output",
                     folder / "screen.parquet"]  # fmt: skip
    for method in ("gateau", "gateau_robust"):
        out = folder / method
        options = {"method": method, "n_long": {"share": 0.1}, "held_out": 100, "seed": 0}
        yield f"selection {method}", [
            "selection", "--scores", scores, "--samples", samples, "--experiment", method, "--options",
            json.dumps(options), "--ranking", out / "ranking.parquet", "--parts", out / "parts.parquet",
            "--selected", out / "long.jsonl", "--summary", out / "summary.json",
        ]  # fmt: skip
    options = {"method": "gateau", "n_long": {"share": 0.1}, "n_short": 0, "held_out": 100, "seed": 0}
    chosen = ["--ranking", folder / "gateau/ranking.parquet", "--selection", folder / "gateau/summary.json"]
    mixture, tokens = folder / "mixture.parquet", folder / "long.parquet"
    yield "mixture", ["mixture", "--experiment", "gateau", "--options", json.dumps(options), "--samples", samples,
                      "--long", tokens, *chosen, "--mixture", mixture, "--summary", folder / "m.json"]  # fmt: skip
    options = {"method": "step_pack", "epochs": 1, "sequences_per_step": 64, "token_budget": 65536, "seed": 0}
    yield "plan", ["plan", "--mixture", mixture, "--options", json.dumps(options), "--world-size", 8, "--plan",
                   folder / "plan.parquet", "--statistics", folder / "p.json"]  # fmt: skip
