"""The card of a data set: README.md with what the Hub reads, how the rows were chosen, and how to load them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateau.model_files import ModelSpec
from gateau.reports import markdown_table, whole

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))


@dataclass(frozen=True)
class Contents:
    """What a data set holds and where it comes from.

    Attributes:
        experiment: its name.
        method: how the rows were chosen.
        options: of the choice.
        models: the models that scored the rows, by role; empty if none did.
        intake: summary of rule samples: rows read, samples, rejected rows.
        ranked: number of ranked samples; None if the experiment ranks none.
        by_label: number of selected rows by data set label.
        files: number of rows by file.
        has_plot: whether distributions.png is beside the card.
    """

    experiment: str
    method: str
    options: Mapping[str, Any]
    models: Mapping[str, ModelSpec]
    intake: Mapping[str, Any]
    ranked: int | None
    by_label: Mapping[str, int]
    files: Mapping[str, int]
    has_plot: bool


def data_card(contents: Contents) -> str:
    """Return the README of a data set. It names no local path."""
    configs = [line for number, file in enumerate(contents.files) for line in _config(file, is_default=number == 0)]
    total = sum(contents.files.values())
    size = next((name for limit, name in _SIZES if total < limit), "n>10M")
    facts = [["method", contents.method]]
    facts += [[name, json.dumps(value)] for name, value in sorted(contents.options.items()) if value is not None]
    facts += [[f"models.{role}", model_name(spec)] for role, spec in contents.models.items()]
    facts += [["rows read, rejected", f"{whole(contents.intake['rows'])}, {whole(contents.intake['rejected'])}"]]
    facts += [["rows ranked", whole(contents.ranked)]] if contents.ranked is not None else []
    facts += [[f"rows in {file}", whole(count)] for file, count in contents.files.items()]
    parts = [
        "---",
        "license: unknown # fill in the licence of your rows, such as cc-by-4.0",
        f"pretty_name: {json.dumps(f'Selected by GATEAU: {contents.experiment}')}",
        "task_categories: [text-generation]",
        "tags: [gateau, long-context, instruction-tuning]",
        f"size_categories: [{size}]",
        "configs:",
        *configs,
        "---",
        f"# Selected by GATEAU: {contents.experiment}",
        "",
        f"{_what(contents)} Made with GATEAU (arXiv:2410.15633) as a Snakemake workflow.",
        "",
        "## How the rows were chosen",
        "",
        markdown_table(["", ""], facts, numbers=()),
        "",
    ]
    if contents.by_label:
        rows = [[label, whole(count)] for label, count in contents.by_label.items()]
        parts += ["## Selected rows by label", "", markdown_table(["data set", "rows"], rows), ""]
    if contents.has_plot:
        parts += ["![How the scores spread](distributions.png)", ""]
    parts += [_loading(list(contents.files)), ""]
    return "\n".join(parts)


def model_name(spec: ModelSpec) -> str:
    """Return a model's name: of a local one the folder alone, because its path means nothing to others."""
    name = spec.directory.resolve().name if spec.is_local else spec.path
    return f"{name} at {spec.revision}" if spec.revision else name


def _config(file: str, *, is_default: bool) -> list[str]:
    name = "default" if is_default else file.removesuffix(".parquet")
    return [f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {file}"]


def _what(contents: Contents) -> str:
    texts = {
        "selected.parquet": "long samples, best first," if contents.ranked is not None else "long samples",
        "chats.parquet": "short chats to mix with them" if "selected.parquet" in contents.files else "short chats",
    }
    return " and ".join(f"{whole(count)} {texts[file]}" for file, count in contents.files.items()) + "."


def _loading(files: Sequence[str]) -> str:
    first = files[0]
    more = '\nchats = load_dataset("path/to/this/folder", "chats", split="train")' if len(files) > 1 else ""
    return f"""## Load it

```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="train"){more}
print(rows[0]["messages"][-1]["content"])
```

```python
import pandas as pd

rows = pd.read_parquet("{first}")
```

```sql
SELECT id, dataset, len(messages) AS n FROM '{first}' LIMIT 10;
```

## Train on it

`llamafactory.yaml` (with `dataset_info.json`), `axolotl.yaml` and `trl.py` are ready to run in this folder: the first
line of each is its command."""
