"""The harness's results as measures with intervals, and the scores of single items.

Every number is the harness's own. Where a number is the mean of its items' scores, the items are kept, so that models
are compared item by item. The interval of another number, such as a perplexity, resamples the items and has the harness
compute the number of each sample.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gateau.evaluation.harness.running import LoadedTask
from gateau.evaluation.results.intervals import stratified_interval
from gateau.evaluation.results.measures import OWN_UNIT, Measure, ScoredItem, measure_items

logger = logging.getLogger(__name__)

BENCHMARK = "lm-evaluation-harness"
_ABSENT = -1  # the harness's score of an item for the lengths that the item does not have
_RESAMPLES = 1000
_SLOW = {"bleu": 100, "chrf": 100, "ter": 100}  # as in the harness


def measures_of(
    results: Mapping[str, Any], loaded: LoadedTask, protocol: str, data: str
) -> tuple[list[Measure], list[ScoredItem]]:
    """Return the measures and scored items of one configured task.

    Args:
        results: what the harness returned, with its samples.
        loaded: the task.
        protocol: the task's version and the harness's.
        data: what tables call the items.
    """
    maker = _Maker(results, loaded, protocol, data)
    for name in (loaded.name, *loaded.groups, *loaded.tasks):
        if name in results["results"] and name not in maker.done:
            maker.add(name)
    if not any(measure.headline for measure in maker.measures):  # a tag, or a group without a number of its own
        maker.measures = [Measure(**{**vars(measure), "headline": True}) for measure in maker.measures]
    return maker.measures, maker.items


class _Maker:
    def __init__(self, results: Mapping[str, Any], loaded: LoadedTask, protocol: str, data: str) -> None:
        self._results, self._loaded, self._protocol, self._data = results, loaded, protocol, data
        self.measures: list[Measure] = []
        self.items: list[ScoredItem] = []
        self.done: set[str] = set()

    def add(self, name: str) -> None:
        """Add all numbers of a task or group."""
        self.done.add(name)
        for key, value in self._results["results"][name].items():
            metric, _, kept = key.partition(",")
            if not kept or metric.endswith("_stderr") or not isinstance(value, int | float) or self._is_absent(metric):
                continue
            label = f"{metric} tokens" if self._is_length(metric) else metric
            label += "" if kept == "none" else f" ({kept})"
            shown = label if name == self._loaded.name else f"{name}: {label}"
            if name in self._loaded.groups:
                self._add_group(name, metric, kept, float(value), shown)
            else:
                self._add_task(name, metric, kept, float(value), shown)

    def _is_length(self, metric: str) -> bool:
        return bool(self._loaded.lengths) and metric.isdigit()

    def _is_absent(self, metric: str) -> bool:
        return self._is_length(metric) and int(metric) not in self._loaded.lengths

    def _scores(self, task: str, metric: str, kept: str) -> dict[str, Any]:
        """Return the harness's scores of a task's items by their id, for one metric and filter.

        Texts of given lengths depend on the tokenizer. Their digest is part of the id, so that only equal texts of two
        models are compared.
        """
        found = {
            f"{task}/{sample['doc_id']}" + (f"/{sample['doc_hash'][:12]}" if self._loaded.lengths else ""): sample[
                metric
            ]
            for sample in self._results["samples"].get(task, ())
            if sample["filter"] == kept and metric in sample
        }
        return {item: score for item, score in found.items() if not (self._is_length(metric) and score == _ABSENT)}

    def _add_task(self, task: str, metric: str, kept: str, value: float, shown: str) -> None:
        scores = self._scores(task, metric, kept)
        if not scores:  # no text of this length
            return
        if _is_mean(scores.values(), value):
            self._add_items(shown, scores, task == self._loaded.name)
            return
        compute = self._loaded.tasks[task].aggregation().get(metric)
        low, high = (
            _resampled(list(scores.values()), compute, _SLOW.get(metric, _RESAMPLES)) if compute else (value, value)
        )
        self._add_measure(shown, value, low, high, len(scores), task == self._loaded.name)

    def _add_group(self, group: str, metric: str, kept: str, value: float, shown: str) -> None:
        members = [task.task_name for task in self._loaded.groups[group].get_all_tasks()]
        strata = [scores for task in members if (scores := self._scores(task, metric, kept))]
        together = {item: score for scores in strata for item, score in scores.items()}
        headline = group == self._loaded.name
        if not strata or not all(isinstance(score, int | float) for score in together.values()):
            logger.warning("%s: no interval, so it is left out", shown)
        elif _is_mean(together.values(), value):
            self._add_items(shown, together, headline)
        else:
            found = stratified_interval([list(map(float, scores.values())) for scores in strata])
            low, high = (found.low, found.high) if found else (None, None)
            self._add_measure(shown, value, low, high, len(together), headline)

    def _add_items(self, shown: str, scores: Mapping[str, float], headline: bool) -> None:
        items = [ScoredItem(BENCHMARK, shown, self._protocol, item, float(score)) for item, score in scores.items()]
        self.items += items
        self.measures.append(measure_items(items, unit=OWN_UNIT, data=self._data, headline=headline))

    def _add_measure(
        self, shown: str, value: float, low: float | None, high: float | None, n: int, headline: bool
    ) -> None:
        self.measures.append(
            Measure(
                BENCHMARK, shown, self._protocol, OWN_UNIT, value, low, high, n, self._data, headline=headline
            )
        )  # fmt: skip


def _is_mean(scores: Any, value: float) -> bool:
    """Return whether a number is the mean of the items' scores."""
    values = list(scores)
    if not all(isinstance(score, int | float) for score in values):
        return False
    return math.isclose(sum(map(float, values)) / len(values), value, rel_tol=1e-9, abs_tol=1e-12)


def _resampled(scores: Sequence[Any], compute: Callable[[list[Any]], float], resamples: int) -> tuple[float, float]:
    """Return the middle 95 % of the number that ``compute`` gives for items drawn with replacement."""
    draws = np.random.default_rng(0).integers(len(scores), size=(resamples, len(scores)))
    low, high = np.quantile([float(compute([scores[place] for place in draw])) for draw in draws], (0.025, 0.975))
    return float(low), float(high)
