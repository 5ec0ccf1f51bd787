"""A small training problem in files, and ways to run it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from gateau.schemas import MIXTURE, TOKENS
from gateau.tables import write_rows, write_tables

import warm
from helpers import ROOT

DEEPSPEED = ROOT / "config/deepspeed"
OPTIONS = {
    "learning_rate": 1e-3, "lr_scheduler": "cosine", "warmup_share": 0.1, "weight_decay": 0.0, "adam_beta1": 0.9,
    "adam_beta2": 0.95, "max_grad_norm": 1.0, "optimizer": "adamw_torch", "lora": None, "dtype": "float32",
    "attention": "auto", "device": "cpu", "seed": 0,
}  # fmt: skip


def small_model(directory: Path, **changes) -> Path:
    """A seeded random Llama in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig(**{
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": 2, **changes,
    })  # fmt: skip
    LlamaForCausalLM(config).float().save_pretrained(directory)
    return directory


def token_rows(source: str, count: int, longest: int, seed: int = 0):
    """Random sequences of which the last part is learnt. Every third long one has two pieces."""
    import pyarrow as pa

    rng = random.Random(f"{source}{seed}")
    rows = []
    for number in range(count):
        n = rng.randint(4, longest)
        ids = [rng.randrange(3, 96) for _ in range(n)]
        start = rng.randint(1, n - 1)
        labels = [-100] * start + ids[start:]
        pieces = [n]
        if number % 3 == 0 and start < n // 2:
            pieces, labels[n // 2] = [n // 2, n - n // 2], -100  # nothing precedes the first token of a piece
        rows.append({
            "id": f"{source}-{number}", "source": source, "input_ids": ids, "labels": labels, "pieces": pieces,
            "n_tokens": n, "n_targets": sum(label != -100 for label in labels[1:]),
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=TOKENS)


class Problem:
    """Model, tokens, mixture and plan under one folder."""

    def __init__(self, folder: Path, *, world_size=2, method="step_pack", n_long=20, n_short=44, epochs=2, **model):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.model = small_model(folder / "base", **model)
        tables = {"long": token_rows("long", n_long, 120), "short": token_rows("short", n_short, 30)}
        rows = []
        for source, table in tables.items():
            write_tables(folder / f"{source}.parquet", TOKENS, [table.slice(0, 9), table.slice(9)], metadata={})
            for place, row in enumerate(table.select(["id", "n_tokens", "n_targets"]).to_pylist()):
                rows.append({**row, "source": source, "row": place, "split": "held_out" if place < 3 else "train"})
        write_rows(folder / "mixture.parquet", MIXTURE, rows)
        self.plan(world_size, method, epochs)

    def plan(self, world_size, method="step_pack", epochs=2, token_budget=160, sequences_per_step=8):
        options = {
            "method": method, "epochs": epochs, "sequences_per_step": sequences_per_step, "token_budget": token_budget,
            "seed": 0,
        }  # fmt: skip
        subprocess.run(
            [
                warm.python(), ROOT / "scripts/plan.py", "--mixture", self.folder / "mixture.parquet", "--options",
                json.dumps(options), "--world-size", str(world_size), "--plan", self.folder / "plan.parquet",
                "--statistics", self.folder / "statistics.json",
            ],
            check=True, capture_output=True,
        )  # fmt: skip

    def command(self, name: str, *, ranks=1, deepspeed=None, options=None, **run):
        """The command of rule train, with outputs under ``<folder>/<name>``."""
        settings = {
            "gradient_checkpointing": True, "deepspeed": deepspeed and str(DEEPSPEED / f"{deepspeed}.json"), "nodes": 1,
            "ranks_per_node": ranks, "threads": 1, "evaluate_steps": 1000, "save_steps": 1000,
            "checkpoint_dir": str(self.folder / name / "checkpoints"), "resume": "auto", "report_to": "none",
            "peak_tflops": None, "log_dir": str(self.folder / name / "tensorboard"), **run,
        }  # fmt: skip
        return [
            sys.executable, str(ROOT / "scripts/train.py"), "--experiment", name,
            "--mixture", str(self.folder / "mixture.parquet"), "--plan", str(self.folder / "plan.parquet"),
            "--long", str(self.folder / "long.parquet"), "--short", str(self.folder / "short.parquet"),
            "--base", json.dumps({"path": str(self.model)}), "--options", json.dumps({**OPTIONS, **(options or {})}),
            "--run", json.dumps(settings), "--model", str(self.folder / name / "model"),
            "--history", str(self.folder / name / "history.jsonl"),
            "--summary", str(self.folder / name / "summary.json"),
        ]  # fmt: skip

    def train(self, name: str, **settings):
        """Run it to the end; the log in stdout."""
        return subprocess.run(
            [warm.python(), *self.command(name, **settings)[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, timeout=300, env=self.environment(),
        )  # fmt: skip

    def environment(self):
        """Of a run in which any rank that lets its interpreter shut down aborts there.

        A collective still on its way does that to one now and then.
        """
        folder = self.folder / "exits"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(
            "import atexit, os, sys\n"
            "if 'LOCAL_RANK' in os.environ and sys.orig_argv[1].endswith('train.py'):\n"
            "    atexit.register(os.abort)\n"
        )
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}

    def losses(self, name: str):
        """Training loss of every step."""
        entries = [json.loads(line) for line in (self.folder / name / "history.jsonl").read_text().splitlines()]
        return [entry["loss"] for entry in entries if "loss" in entry]

    def weights(self, name: str):
        """Trained weights by name."""
        from safetensors.torch import load_file

        return load_file(self.folder / name / "model/model.safetensors")
