"""Write config/README.md, the reference of all configuration keys, from the schema."""

import json
from collections.abc import Iterator
from typing import Any

from gateau.command import argument_parser, run
from gateau.config_schema import read_schema, resolve
from gateau.errors import SettingsError
from gateau.files import write_text
from gateau.places import ROOT

_REFERENCE = ROOT / "config/README.md"
_HEAD = """## Workflow overview

GATEAU selects training data for long-context language models. It scores long instruction samples by how much their
responses depend on distant context, and ranks them. Two homologous models compute the scores: θ_S has a short context
window, θ_L a long one (arXiv:2410.15633). The workflow then

1. validates and scores the samples (three passes of the two models),
2. ranks and selects them, once for each experiment,
3. mixes the selected samples with short chats, fine-tunes a model on them and exports it,
4. evaluates the models on LongBench, LongBench-Chat, needle in a haystack and MT-Bench.

## Running the workflow

### Input data

`data.long` is long instruction data: JSONL, JSON, Parquet, Arrow or CSV files, with `messages` or with columns that
`data.columns` names. By default, the last blank line of the user's message separates the context from the instruction.
`data.short` is short chats, which only training needs. `models.short` and `models.long` are the homologous pair.
docs/data.md describes all formats.

### Execution

Copy a file of `config/presets/` and edit its data and models, or write the keys that differ from `config.yaml` into a
file of your own. Only `data.long` and `models.long` must be set. The defaults rank the samples and do nothing else:
training, benchmarks and a judge run only if your file asks for them.

```
snakemake -n --workflow-profile local --configfile my.yaml    # what would run
snakemake --workflow-profile local --configfile my.yaml       # this machine; the profile slurm is for a cluster
```

Without data of your own, `--configfile config/demo.yaml` runs every stage on generated data, on a CPU, in minutes.
`config/planted.yaml` compares methods on generated rows, and `config/miniature.yaml` trains a tiny model on what they
select.

### Parameters

Unknown keys and values of the wrong type are errors. This page is written from
`workflow/schemas/config.schema.yaml` by `make config-reference`; edit the descriptions there.

| key | type | default | meaning |
|---|---|---|---|
"""


def main() -> None:
    """Write the page, or compare it with the schema."""
    parser = argument_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if the page is out of date")
    args = parser.parse_args()
    text = reference(read_schema())
    if not args.check:
        write_text(_REFERENCE, text)
    elif not _REFERENCE.is_file() or _REFERENCE.read_text(encoding="utf-8") != text:
        raise SettingsError(f"{_REFERENCE} is out of date; run make config-reference")


def reference(schema: dict[str, Any]) -> str:
    """Return the page, with one table row per key."""
    rows = [" | ".join(cells) for cells in _rows(schema, schema, "")]
    return _HEAD + "".join(f"| {row} |\n" for row in rows)


def _rows(node: dict[str, Any], schema: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, value in node.get("properties", {}).items():
        resolved = resolve(value, schema)
        key, alternatives = f"{prefix}{name}", [resolved, *(resolve(one, schema) for one in resolved.get("oneOf", []))]
        if "properties" not in resolved:
            default = json.dumps(value.get("default", resolved.get("default")), ensure_ascii=False)
            text = (
                str(value.get("description", resolved.get("description", ""))).replace("|", "\\|").replace("<", "\\<")
            )
            yield f"`{key}`", _kind(resolved, schema), f"`{default}`", text
        for alternative in alternatives:
            yield from _rows(alternative, schema, f"{key}.")
        if isinstance(resolved.get("additionalProperties"), dict) and "properties" in resolved["additionalProperties"]:
            names = ", ".join(f"`{option}`" for option in resolved["additionalProperties"]["properties"])
            kind = "Overrides of `selection` and `mixture`" if key == "experiments" else "Options"
            yield f"`{key}.<name>`", "object", "`{}`", f"{kind}: {names}."


def _kind(node: dict[str, Any], schema: dict[str, Any]) -> str:
    node = resolve(node, schema)
    if "enum" in node:
        return " \\| ".join(f"`{value}`" for value in node["enum"])
    if alternatives := node.get("oneOf", node.get("anyOf")):
        return " or ".join(_kind(option, schema) for option in alternatives)
    kinds = node.get("type", "any")
    text = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    bounds = [f"{sign} {node[key]}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in node]
    return " ".join([text, *bounds])


if __name__ == "__main__":
    run(main)
