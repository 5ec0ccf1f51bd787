"""Results folders of generated runs, as the rules write them, for tests and measurements of the page."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gateau.files import write_json
from gateau.model_files import ModelSpec
from gateau.models import load_tokenizer
from gateau.provenance import make_manifest
from gateau.schemas import INDEX, PARTS, RANKING, SAMPLES, SCORES
from gateau.selection.parts import parts_frames
from gateau.selection.policy import Policy, Tables, select, summarise
from gateau.tables import write_frames, write_rows

from helpers import ROOT, TINY_PAIR

SEGMENT = 32
# what a page must show as text, never run, and never reorder
NASTY = (
    "</script><script>window.attacked = 1</script>",
    "<img src=x onerror='window.attacked = 2'><!-- <script>",
    "שלום עולם مرحبا بالعالم",
    "👩‍👩‍👧 🎂 naïve \u2028 \u0000 {{ 7 * 7 }} ${1}",
)
UNSCORED = dict.fromkeys(
    ("token_nll_short", "token_nll_long", "nll_short", "nll_long", "segment_nll", "segment_attention", "cas",
     "segment_attention_second_half", "segment_weight")
)  # fmt: skip
WORDS = "the old road runs along a narrow valley at dawn while grey water turns past tall grass".split()


def make_results(
    folder: Path,
    n: int = 120,
    *,
    words: int = 200,
    bad: tuple[str, ...] = (),
    seed: int = 0,
    experiments: tuple[str, ...] = ("gateau", "gateau_robust"),
    in_part: int = 0,
    screened_out: int = 0,
) -> Path:
    """Write samples, index, scores, selections and a manifest of a run on generated rows; return the folder.

    The first samples hold the texts of ``NASTY``, and have the statuses ``bad`` in place of scores. Of the ``in_part``
    samples after these, only every second segment was read. The last ones are ``screened_out``. Texts repeat, so that
    many rows are made quickly.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    tokenizer = load_tokenizer(ModelSpec(str(TINY_PAIR / "long")))
    texts = [" ".join(draw.choices(WORDS, k=words + 7 * (number % 5))) for number in range(min(n, 40))]
    texts[: len(NASTY)] = [f"{nasty} {text}" for nasty, text in zip(NASTY, texts, strict=False)]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids]
    response = "tall grass turns past 🎂 water"
    n_response = len(tokenizer(response, add_special_tokens=False).input_ids)
    ids = [f"s{number:06d}" for number in range(n)]

    def samples() -> Any:
        for number, row_id in enumerate(ids):
            yield {
                "id": row_id, "file": "rows.jsonl", "line": number + 1, "dataset": f"set {number % 3}", "length": None,
                "context": texts[number % len(texts)], "instruction": f"Question {number}? {NASTY[number % 4]}",
                "response": response, "messages": "[]", "digest": row_id,
            }  # fmt: skip

    def scores() -> Any:
        for number, row_id in enumerate(ids):
            n_context = lengths[number % len(texts)]
            segments = -(-n_context // SEGMENT)
            tokens = numbers.gamma(2, 1, (2, n_response)).astype(np.float32)
            nll = numbers.gamma(9, 0.3, segments)
            attention = numbers.dirichlet(np.ones(segments)) / SEGMENT
            changed: dict[str, Any] = UNSCORED | {"status": bad[number]} if number < len(bad) else {}
            if number >= n - screened_out:
                changed = {"status": "screened_out"} | dict.fromkeys(("segment_nll", "nll_response_only", "cas"))
            elif len(bad) <= number < len(bad) + in_part:
                weights = 2.0 * (np.arange(segments) % 2 == 0)
                read = [value if weight else None for value, weight in zip(nll.tolist(), weights, strict=True)]
                changed = {"segment_nll": read, "segment_weight": weights.tolist()}
            yield {
                "id": row_id, "status": "ok", "n_context": n_context, "n_instruction": 9, "n_response": n_response,
                "truncated_tokens": 0, "nll_short": float(tokens[0].mean()), "nll_long": float(tokens[1].mean()),
                "token_nll_short": tokens[0].tolist(), "token_nll_long": tokens[1].tolist(),
                "nll_instruction_only": 3.0, "nll_response_only": 4.0, "segment_nll": nll.tolist(),
                "segment_weight": None,
                "segment_attention": attention.tolist(), "segment_attention_second_half": attention.tolist(),
                "cas": 0.5, **changed,
            }  # fmt: skip

    for name in ("samples", "index", "scores"):
        (folder / name).mkdir(exist_ok=True)
    write_rows(folder / "samples/samples.parquet", SAMPLES, samples())
    intake = {
        "rows": n + 7,
        "samples": n,
        "rejected": 7,
        "rejected_by_reason": {"duplicate_content": 5, "no_response": 2},
    }
    write_json(folder / "samples/summary.json", intake)
    write_rows(folder / "scores/scores.parquet", SCORES, scores())
    frame = pd.read_parquet(folder / "scores/scores.parquet")
    index = (
        {**row, "row": place, "shard": 0, "n_tokens": row["n_context"] + n_response + 9, "cost": 1.0}
        for place, row in enumerate(
            frame[["id", "status", "n_context", "n_instruction", "n_response", "truncated_tokens"]].to_dict("records")
        )
    )
    write_rows(folder / "index/index.parquet", INDEX, index)
    labels = pd.Series({row_id: f"set {number % 3}" for number, row_id in enumerate(ids)})
    for name in experiments:
        target = folder / "selection" / name
        target.mkdir(parents=True, exist_ok=True)
        policy, tables = Policy(name, n_long=max(n // 5, 1), held_out=min(n - 1, 2)), Tables(ids, frame)
        selection = select(policy, tables)
        write_rows(target / "ranking.parquet", RANKING, selection.ranking.to_dict("records"))
        write_frames(target / "parts.parquet", PARTS, parts_frames(selection.scored.ids, selection.scored.parts))
        write_json(target / "summary.json", summarise(name, policy, tables, selection, labels))
    write_manifest(folder)
    return folder


def write_manifest(folder: Path, **config: Any) -> None:
    """Write the manifest of the folder ``scores``, which tells the configuration."""
    whole = {
        "models": {"short": str(TINY_PAIR / "short"), "long": str(TINY_PAIR / "long")},
        "cam": {"segment_length": SEGMENT},
        "selection": {"importance": "softmax_neg_ppl"}, "experiments": {}, **config,
    }  # fmt: skip
    (folder / "scores").mkdir(exist_ok=True)
    manifest = make_manifest(folder / "scores", folder / "logs/scores", ROOT, whole, {}, [])
    write_json(folder / "scores/manifest.json", json.loads(json.dumps(manifest)))
