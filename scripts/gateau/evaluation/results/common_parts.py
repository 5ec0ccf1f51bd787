"""Headlines of models that were asked different parts of a benchmark, such as the lengths that fit their windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateau.evaluation.results.leaderboard import Entry, Items, Section, by_measure, section_of
from gateau.evaluation.results.measures import ScoredItem, measure_items


def on_common_parts(entries: Sequence[Entry], items: Items) -> tuple[list[Entry], dict[str, list[ScoredItem]]]:
    """Add a headline over the parts that all models share, wherever the models were asked different parts.

    The mean over each model's own parts is no longer a headline then. The number of items without a rating stays that
    of all parts.
    """
    found, more = list(entries), {model: list(own) for model, own in items.items()}
    asked: dict[tuple[Section, str], dict[int, list[ScoredItem]]] = {}
    by_key = {model: by_measure(own) for model, own in items.items()}
    for place, entry in enumerate(entries):
        measure = entry.measure
        if measure.headline and entry.source == "measured":
            own = by_key[entry.model].get((measure.benchmark, measure.protocol, measure.name), {})
            asked.setdefault((section_of(measure), measure.name), {})[place] = list(own.values())
    for members in asked.values():
        parts = [dict.fromkeys(item.part for item in scored) for scored in members.values()]
        shared = [part for part in parts[0] if all(part in others for others in parts)]
        if not shared or all(len(one) == len(shared) for one in parts):
            continue
        for place, scored in members.items():
            entry = entries[place]
            name = f"{entry.measure.name}, in common"
            kept = [replace(item, name=name) for item in scored if item.part in shared]
            notes = [note for note in entry.measure.note.split("; ") if note] + [f"in common: {', '.join(shared)}"]
            measure = measure_items(
                kept, unit=entry.measure.unit, data=entry.measure.data, judge=entry.measure.judge,
                nulls=entry.measure.nulls, headline=True, note="; ".join(notes),
            )  # fmt: skip
            found[place] = replace(entry, measure=replace(entry.measure, headline=False))
            found.append(replace(entry, measure=measure))
            more[entry.model] += kept
    return found, more
