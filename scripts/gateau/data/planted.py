"""Planted data: long question-answer rows in LongAlign's format whose dependency on the context is known.

A context is a list of lines: plain filler sentences and *notes* (``Note falcon balor kemin tasir.``: a subject and
its codes). The instruction asks for one note, the response repeats it. Where the note stands decides the kind, which
is written to the row's ``dataset`` field, so that a ranking can be judged against it:

===============  ====================================================================================
``far``          the asked note stands once, in the first half: a long-range dependency
``far_chain``    as ``far``, and the asked note's last word is the subject of another far note, which the response goes
                 on with: two hops, of which the question names the first
``near``         the asked note stands once, among the last lines
``parametric``   a fact that the demo models know by heart: no context is needed
``wrong``        the response names codes that stand nowhere in the context
``distractor``   as ``near``, with notes on look-alike subjects carrying the same codes far away
===============  ====================================================================================

The words are few on purpose: the committed pair of tiny models (:mod:`train_tiny_pair`) was trained on this
language and really recalls notes inside its window. All kinds share one distribution of lengths and of note counts,
so neither length nor style tells them apart.

Short chats in ShareGPT's format speak the same language (:func:`planted_chats`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("far", "far_chain", "near", "parametric", "wrong", "distractor")

SUBJECTS = (
    "falcon badger otter heron lynx marten raven stork beaver weasel magpie osprey ferret walrus gannet plover "
    "hazel cedar maple poplar willow juniper rowan alder spruce larch myrtle laurel bramble clover thistle sorrel "
    "anchor lantern kettle ladder bucket hammer saddle mirror candle basket barrel shovel needle anvil bellows "
    "compass harbour quarry orchard meadow tunnel bridge chapel windmill granary lighthouse ferry market tavern "
    "bakery mill dock"
).split()

CODES = tuple(
    onset + rime
    for onset in "ba de fi go ju ka le mo nu pa ri so tu va we zo".split()
    for rime in "lor min sar tek pan dil ron gas vel nut bis cor fam hod kil zem".split()
)

_FILLER_SUBJECT = (
    "the old road|a quiet river|the north wind|our small boat|the grey field|a long winter|the open gate|the last train"
)
_FILLER_VERB = "turns past|runs along|rests beside|leads toward|moves around|waits behind|falls upon|drifts over"
_FILLER_OBJECT = (
    "the stone wall|a narrow valley|the empty square|green hills|the sleeping town|tall grass|the wooden fence|"
    "dark water"
)
_FILLER_TAIL = "at dawn|in the rain|after supper|without a sound|before noon|under low clouds|as always|for many days"

FACT_NAMES = "one two three four five six seven eight nine ten eleven twelve".split()


def filler(rng: random.Random) -> str:
    """One plain sentence, e.g. ``The old road turns past tall grass at dawn.``"""
    words = " ".join(
        rng.choice(part.split("|")) for part in (_FILLER_SUBJECT, _FILLER_VERB, _FILLER_OBJECT, _FILLER_TAIL)
    )
    return words[0].upper() + words[1:] + "."


def note(subject: str, codes: tuple[str, ...] | list[str]) -> str:
    """The line that ties a subject to its codes."""
    return f"Note {subject} {' '.join(codes)}."


def fact(number: int) -> tuple[str, str]:
    """The ``number``-th memorised fact as (question, answer); the same in every data set."""
    rng = random.Random(7919 + number)
    name = FACT_NAMES[number % len(FACT_NAMES)]
    return f"Recite fact {name}.", f"Fact {name} {' '.join(rng.sample(CODES, 5))}."


@dataclass(frozen=True)
class PlantedShape:
    """How planted rows look. Line counts are drawn uniformly from [min_lines, max_lines]."""

    min_lines: int = 24
    max_lines: int = 72
    near_lines: int = 4
    note_share: float = 0.35
    n_codes: int = 5


def planted_row(kind: str, rng: random.Random, shape: PlantedShape) -> tuple[str, str, str]:
    """One row as (context, instruction, response). Raises ValueError for a kind not in :data:`KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"unknown planted kind {kind!r}: expected one of {', '.join(KINDS)}")
    n_lines = rng.randint(shape.min_lines, shape.max_lines)
    subjects = rng.sample(SUBJECTS, len(SUBJECTS))
    codes = list(rng.sample(CODES, len(CODES)))

    def fresh_codes() -> list[str]:
        while len(codes) < shape.n_codes:
            codes.extend(rng.sample(CODES, len(CODES)))
        return [codes.pop() for _ in range(shape.n_codes)]

    asked, asked_codes = subjects.pop(), fresh_codes()
    others = subjects[: len(subjects) - 1]
    lines = []
    for _ in range(n_lines):
        if others and rng.random() < shape.note_share:
            lines.append(note(others.pop(), fresh_codes()))
        else:
            lines.append(filler(rng))
    near_from = max(n_lines - shape.near_lines, 1)
    far_line = rng.randrange(0, max(near_from // 2, 1))
    near_line = rng.randrange(near_from, n_lines)
    asked_note = note(asked, asked_codes)
    instruction, response = f"What does note {asked} say?", asked_note
    if kind == "far":
        lines[far_line] = asked_note
    elif kind == "far_chain":
        named = subjects[-1]  # never among the others
        asked_note, named_note = note(asked, [*asked_codes[:-1], named]), note(named, fresh_codes())
        first, second = rng.sample(range(max(near_from // 2, 2)), 2)
        lines[first], lines[second] = asked_note, named_note
        instruction = f"What does note {asked} say, and then the note it names?"
        response = f"{asked_note} {named_note}"
    elif kind == "near":
        lines[near_line] = asked_note
    elif kind == "distractor":
        for line in rng.sample(range(near_from), min(3, near_from)):
            lines[line] = note(others.pop() if others else subjects[-1], rng.sample(asked_codes, len(asked_codes)))
        lines[near_line] = asked_note
    elif kind == "wrong":
        lines[far_line] = asked_note
        response = note(asked, fresh_codes())
    else:
        instruction, response = fact(rng.randrange(len(FACT_NAMES)))
    return "\n".join(lines), instruction, response


def planted_rows(
    counts: Mapping[str, int],
    seed: int,
    shape: PlantedShape = PlantedShape(),
    duplicates: int = 0,
    near_duplicates: int = 0,
) -> Iterator[dict[str, object]]:
    """Yield LongAlign rows, ``counts[kind]`` of each kind in a seeded order, then copies, as crawled data holds them.

    ``duplicates`` repeat earlier rows' messages under new ids; ``near_duplicates`` with two filler sentences
    of the context written anew.
    """
    rng = random.Random(seed)
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    rng.shuffle(kinds)
    rows: list[dict[str, object]] = []
    for number, kind in enumerate(kinds):
        context, instruction, response = planted_row(kind, rng, shape)
        rows.append(_longalign_row(f"planted-{number:05d}", kind, context, instruction, response))
    for number in range(duplicates):
        original = rng.choice(rows)
        rows.append({**original, "id": f"planted-copy-{number:05d}"})
    originals = rows[: len(kinds)]
    for number in range(near_duplicates):
        original = rng.choice(originals)
        rows.append({**original, "id": f"planted-near-copy-{number:05d}", "messages": _retouched(original, rng)})
    yield from rows


def _retouched(row: dict[str, Any], rng: random.Random) -> list[dict[str, str]]:
    user, assistant = row["messages"]
    lines = user["content"].split("\n")
    plain = [number for number, line in enumerate(lines[:-2]) if not line.startswith("Note ")]
    for number in rng.sample(plain, min(2, len(plain))):
        lines[number] = filler(rng)
    return [{**user, "content": "\n".join(lines)}, assistant]


def _longalign_row(row_id: str, kind: str, context: str, instruction: str, response: str) -> dict[str, object]:
    user = f"{context}\n\n{instruction}"
    return {
        "id": row_id,
        "dataset": f"planted/{kind}",
        "length": len(user.split()) + len(response.split()),
        "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": response}],
    }


def planted_chats(count: int, seed: int) -> Iterator[dict[str, object]]:
    """Yield ShareGPT rows of one to three turns, each of which asks for a note of the first message or for a fact.

    The first message holds a few lines, three notes among them, so that no two chats are alike even where they ask for
    the same facts.
    """
    rng = random.Random(f"chats {seed}")
    for number in range(count):
        conversation = []
        for question, answer in _chat_turns(rng):
            conversation += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        yield {"id": f"planted-chat-{number:05d}", "conversations": conversation}


def _chat_turns(rng: random.Random) -> list[tuple[str, str]]:
    """The turns of one chat as (user message, response)."""
    notes = {subject: note(subject, rng.sample(CODES, 5)) for subject in rng.sample(SUBJECTS, 3)}
    lines = [*notes.values(), *(filler(rng) for _ in range(rng.randint(1, 2)))]
    rng.shuffle(lines)
    facts = rng.sample(range(len(FACT_NAMES)), 3)
    turns = [
        fact(number) if rng.random() < 0.25 else (f"What does note {subject} say?", line)
        for number, (subject, line) in zip(facts, notes.items(), strict=True)
    ]
    (question, answer), *later = turns[: rng.randint(1, 3)]
    return [("\n".join(lines) + f"\n\n{question}", answer), *later]
