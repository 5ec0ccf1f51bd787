"""A run with a screen, for real: what is read, what is found again, and what another share or option reruns."""

import re

import pytest

from gateau.schemas import RANKING, SCORES, SCREEN
from gateau.tables import read_rows

from helpers import merged, planned_rules, small_config, snakemake

pytestmark = pytest.mark.workflow
SEGMENTS = {"attended": 0.3, "drawn": 0.2}
TABLE = "results/scores/scores.parquet"
RANKINGS = [f"results/selection/{name}/ranking.parquet" for name in ("paper", "hmg")]


def scored(directory):
    return {row["id"]: row for row in read_rows(directory / TABLE, SCORES)}


def computed(directory):
    """Numbers of samples that the last segment pass found and computed."""
    log = (directory / "results/logs/segment_pass/0000-of-0001.log").read_text()
    return [int(number) for number in re.search(r"(\d+) found in \S+, (\d+) to compute", log).groups()]


def test_a_screen_can_be_raised_refined_and_switched_off(tmp_path):
    config = small_config(tmp_path, scoring={"screen": 0.4}, train={"experiments": "none"})
    config["experiments"] = {"paper": {"method": "gateau", "n_long": 4}, "hmg": {"method": "hmg"}}
    result = snakemake(tmp_path, config, *RANKINGS)
    assert result.returncode == 0, result.stdout
    assert computed(tmp_path) == [0, 4]
    first = scored(tmp_path)
    admitted = {row["id"] for row in read_rows(tmp_path / "results/screen/screen.parquet", SCREEN) if row["admitted"]}
    assert {key for key, row in first.items() if row["status"] == "ok"} == admitted
    assert {row["status"] for key, row in first.items() if key not in admitted} == {"screened_out"}
    assert all(row["nll_long"] and row["token_nll_short"] and row["segment_attention"] for row in first.values())
    paper, hmg = (read_rows(tmp_path / path, RANKING) for path in RANKINGS)
    assert {row["id"] for row in paper[:4]} == admitted
    assert [row["score"] for row in paper[4:]] == [None] * 6
    assert None not in [row["score"] for row in hmg]

    assert planned_rules(tmp_path, merged(config, {"selection": {"alpha": 0.5}}), RANKINGS[0]) == {"selection"}

    result = snakemake(tmp_path, merged(config, {"scoring": {"screen": 0.7}}), TABLE)
    assert result.returncode == 0, result.stdout
    assert computed(tmp_path) == [4, 3]
    second = scored(tmp_path)
    assert sum(row["status"] == "ok" for row in second.values()) == 7
    assert all(second[key] == first[key] for key in admitted)

    result = snakemake(tmp_path, merged(config, {"scoring": {"segments": SEGMENTS}}), TABLE)
    assert result.returncode == 0, result.stdout
    assert computed(tmp_path) == [4, 6]
    part = scored(tmp_path)
    assert {row["status"] for row in part.values()} == {"ok"}
    assert all(part[key] == first[key] for key in admitted)

    result = snakemake(tmp_path, merged(config, {"scoring": {"screen": None}}), TABLE)
    assert result.returncode == 0, result.stdout
    assert computed(tmp_path) == [7, 3]
    exact = scored(tmp_path)
    assert all(exact[key] == second[key] for key in exact if second[key]["status"] == "ok")
    for key in part.keys() - admitted:
        weights, nll = part[key]["segment_weight"], part[key]["segment_nll"]
        assert sum(weights) == pytest.approx(len(nll))
        assert [value is not None for value in nll] == [weight > 0 for weight in weights]
        pairs = zip(nll, exact[key]["segment_nll"], strict=True)
        assert all(one == pytest.approx(other, abs=1e-5) for one, other in pairs if one is not None)
