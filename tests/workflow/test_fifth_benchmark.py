"""A benchmark is one module, one scorer, one rule and one block of the schema; no other file knows its name."""

import csv
import filecmp
import json

import pytest
import yaml

from helpers import ROOT, merged, small_config, snakemake, write_jsonl

pytestmark = pytest.mark.workflow

MODULE = '''
"""Sums, scored by whether the answer contains the right number."""

from gateau.evaluation.answering.questions import Question
from gateau.evaluation.benchmarks.base import Benchmark
from gateau.files import read_jsonl


def questions(assets, options, tokenizer):
    for _, row in read_jsonl(assets / "sums.jsonl"):
        yield Question(
            benchmark="arithmetic",
            item=row["id"],
            users=(row["sum"],),
            max_new_tokens=options["max_new_tokens"],
            record={"id": row["id"], "right": row["right"]},
        )


BENCHMARK = Benchmark(
    name="arithmetic",
    titles={"arithmetic": "Arithmetic"},
    data="Arithmetic",
    own_data="three sums",
    questions=questions,
    has_own_scores=True,
)
'''
SCORER = '''
"""Score sums: the share of answers that contain the right number."""

import argparse

from gateau.command import run
from gateau.evaluation.benchmarks.base import predictions_file
from gateau.evaluation.results.measures import ScoredItem, measure_items, write_items, write_scores
from gateau.files import read_jsonl


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--predictions", "--data", "--output", "--items"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    items = [
        ScoredItem("arithmetic", "all", "contained", row["id"], 100.0 * (row["right"] in row["pred"]))
        for _, row in read_jsonl(predictions_file(args.predictions))
    ]
    write_scores(args.output, {}, [measure_items(items, unit="%", data=args.data, headline=True)])
    write_items(args.items, items)


if __name__ == "__main__":
    run(main)
'''
RULE = """

rule score_arithmetic:
    input:
        unpack(scorer_input("arithmetic")),
    output:
        scores=f"{RESULTS}/score_arithmetic/{{model}}/scores.json",
        item_scores=f"{RESULTS}/score_arithmetic/{{model}}/items.jsonl",
    log:
        f"{RESULTS}/logs/score_arithmetic/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_arithmetic/{{model}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        script=script("score_arithmetic"),
        code=code_digest("score_arithmetic.py"),
        labels=score_labels("arithmetic"),
    shell:
        "python {params.script:q} --predictions {input.predictions:q} {params.labels} --output {output.scores:q}"
        " --items {output.item_scores:q} > {log:q} 2>&1"
"""
BLOCK = """
      arithmetic:
        type: object
        additionalProperties: false
        description: Sums.
        default: {}
        properties:
          max_new_tokens: {type: integer, minimum: 1, description: Most tokens of an answer., default: 4}
"""
SUMS = [{"id": f"{n}+{n}", "sum": f"{n} + {n} =", "right": str(2 * n)} for n in (1, 2, 3)]


@pytest.fixture
def fifth(checkout):
    """A checkout with a fifth benchmark."""
    (checkout / "scripts/gateau/evaluation/benchmarks/arithmetic.py").write_text(MODULE.lstrip())
    (checkout / "scripts/score_arithmetic.py").write_text(SCORER.lstrip())
    rules = checkout / "workflow/rules/evaluate.smk"
    rules.write_text(rules.read_text() + RULE)
    schema = checkout / "workflow/schemas/config.schema.yaml"
    start = "\n      longbench:\n        type: object\n"
    before, after = schema.read_text().split(start)
    schema.write_text(before + BLOCK + start.lstrip("\n") + after)
    assert "arithmetic" in yaml.safe_load(schema.read_text())["properties"]["evaluate"]["properties"]
    folder = checkout / "workflow/resources/small_benchmarks/arithmetic"
    folder.mkdir()
    write_jsonl(folder / "sums.jsonl", SUMS)
    return checkout


def config_of(directory, **evaluate):
    section = {
        "benchmarks": ["arithmetic"],
        "models": {"base": "base"},
        "assets": {"source": "own"},
        "generate": {"device": "cpu"},
    }
    return merged(small_config(directory), {"evaluate": merged(section, evaluate)})


def changed_files(checkout):
    """Files of the workflow that a checkout has and that this project does not have, or has otherwise."""
    files = [
        path.relative_to(checkout)
        for name in ("workflow", "config", "scripts")
        for path in (checkout / name).rglob("*")
    ]
    return {
        path.as_posix()
        for path in files
        if (checkout / path).is_file()
        and "__pycache__" not in path.parts
        and not ((ROOT / path).is_file() and filecmp.cmp(checkout / path, ROOT / path, shallow=False))
    }


def test_a_fifth_benchmark_runs_to_the_leaderboard_and_no_other_file_changes(fifth):
    result = snakemake(fifth, config_of(fifth), "evaluated")
    assert result.returncode == 0, result.stdout
    assert changed_files(fifth) == {
        "scripts/gateau/evaluation/benchmarks/arithmetic.py",
        "scripts/score_arithmetic.py",
        "workflow/rules/evaluate.smk",
        "workflow/schemas/config.schema.yaml",
        "workflow/resources/small_benchmarks/arithmetic/sums.jsonl",
    }
    results = fifth / "results"
    source = json.loads((results / "assets/arithmetic/source.json").read_text())
    assert (source["benchmark"], source["data"]) == ("arithmetic", "three sums")
    predictions = [json.loads(line) for line in (results / "predictions/base/arithmetic/predictions.jsonl").open()]
    assert [(row["id"], row["right"]) for row in predictions] == [("1+1", "2"), ("2+2", "4"), ("3+3", "6")]
    (row,) = csv.DictReader((results / "leaderboard/leaderboard.csv").open())
    assert (row["model"], row["benchmark"], row["n"]) == ("base", "arithmetic", "3")
    assert row["data"] == "own small set in the format of Arithmetic"
    assert (
        "## Arithmetic, protocol contained, in %; items: own small set"
        in (results / "leaderboard/leaderboard.md").read_text()
    )
    assert (results / "score_arithmetic/manifest.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmarks": ["algebra"]}, "evaluate.benchmarks: algebra does not exist; choose from arithmetic, longbench"),
        (
            {"arithmetic": {"max_new_tokens": 0}},
            "arithmetic.max_new_tokens: 0 is not allowed; allowed: a whole number at least 1",
        ),
        ({"generate": {"shards": {"algebra": 2}}}, "evaluate.generate.shards: algebra does not exist"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_wrong_settings_of_a_fifth_benchmark_are_refused(fifth, change, message):
    result = snakemake(fifth, config_of(fifth, **change), "evaluated", "--dry-run")
    assert result.returncode != 0
    assert message in result.stdout
