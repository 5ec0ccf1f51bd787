"""Planted data: generated question-answer rows whose dependency on the context is known, in LongAlign's format.

A context is a list of lines: plain filler sentences and *notes*. A note is a subject with its codes, such as
``Note falcon balor kemin tasir.`` The instruction asks for one note, and the response repeats it. The position of this
note determines the kind of the row. The kind is written to the row's ``dataset`` field, so that a ranking can be
evaluated against it:

===============  ====================================================================================
``far``          the requested note occurs once, in the first half: a long-range dependency
``far_chain``    like ``far``, but the last word of the requested note is the subject of a second far note, which the
                 response also repeats: two hops, of which the question names only the first
``near``         the requested note occurs once, among the last lines
``parametric``   the question asks for a fact that the demo models have memorised: no context is needed
``wrong``        the response gives codes that occur nowhere in the context
``distractor``   like ``near``, with notes far away that have other subjects but the same codes in another order
===============  ====================================================================================

The vocabulary is small on purpose: the committed pair of tiny models (:mod:`train_tiny_pair`) was trained on this
language and can recall notes within its window. All kinds have the same distribution of lengths and of numbers of
notes, so neither length nor style distinguishes them.

:func:`planted_chats` generates short chats of the same language in ShareGPT's format.
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


def filler_sentence(rng: random.Random) -> str:
    """Return a random sentence without information, such as ``The old road turns past tall grass at dawn``."""
    words = " ".join(
        rng.choice(part.split("|")) for part in (_FILLER_SUBJECT, _FILLER_VERB, _FILLER_OBJECT, _FILLER_TAIL)
    )
    return words[0].upper() + words[1:] + "."


def note_line(subject: str, codes: tuple[str, ...] | list[str]) -> str:
    """Return the line that assigns codes to a subject."""
    return f"Note {subject} {' '.join(codes)}."


def known_fact(number: int) -> tuple[str, str]:
    """Return fact ``number`` (from 0) as (question, answer). The facts are the same in every data set."""
    rng = random.Random(7919 + number)
    name = FACT_NAMES[number % len(FACT_NAMES)]
    return f"Recite fact {name}.", f"Fact {name} {' '.join(rng.sample(CODES, 5))}."


@dataclass(frozen=True)
class PlantedShape:
    """The shape of planted rows.

    Attributes:
        min_lines: minimum lines of a context; the number of lines is drawn uniformly.
        max_lines: maximum lines of a context.
        near_lines: how many lines at the end of a context count as near.
        note_share: share of notes among the other lines.
        n_codes: codes of a note.
    """

    min_lines: int = 24
    max_lines: int = 72
    near_lines: int = 4
    note_share: float = 0.35
    n_codes: int = 5


def planted_row(kind: str, rng: random.Random, shape: PlantedShape) -> tuple[str, str, str]:
    """Return a random row of one kind as (context, instruction, response).

    Raises:
        ValueError: if ``kind`` is not in :data:`KINDS`.
    """
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
            lines.append(note_line(others.pop(), fresh_codes()))
        else:
            lines.append(filler_sentence(rng))
    near_from = max(n_lines - shape.near_lines, 1)
    far_line = rng.randrange(0, max(near_from // 2, 1))
    near_line = rng.randrange(near_from, n_lines)
    asked_note = note_line(asked, asked_codes)
    instruction, response = f"What does note {asked} say?", asked_note
    if kind == "far":
        lines[far_line] = asked_note
    elif kind == "far_chain":
        named = subjects[-1]  # not in others, so no filler note has this subject
        asked_note, named_note = note_line(asked, [*asked_codes[:-1], named]), note_line(named, fresh_codes())
        first, second = rng.sample(range(max(near_from // 2, 2)), 2)
        lines[first], lines[second] = asked_note, named_note
        instruction = f"What does note {asked} say, and then the note it names?"
        response = f"{asked_note} {named_note}"
    elif kind == "near":
        lines[near_line] = asked_note
    elif kind == "distractor":
        for line in rng.sample(range(near_from), min(3, near_from)):
            subject = others.pop() if others else subjects[-1]
            lines[line] = note_line(subject, rng.sample(asked_codes, len(asked_codes)))
        lines[near_line] = asked_note
    elif kind == "wrong":
        lines[far_line] = asked_note
        response = note_line(asked, fresh_codes())
    else:
        instruction, response = known_fact(rng.randrange(len(FACT_NAMES)))
    return "\n".join(lines), instruction, response


def planted_rows(
    counts: Mapping[str, int],
    seed: int,
    shape: PlantedShape = PlantedShape(),
    duplicates: int = 0,
    near_duplicates: int = 0,
) -> Iterator[dict[str, object]]:
    """Yield generated rows in a seeded order, followed by duplicates like those in crawled data.

    Args:
        counts: number of rows of each kind.
        seed: seed of all random choices.
        shape: number of lines and notes of a row.
        duplicates: number of exact copies: messages of earlier rows under new ids.
        near_duplicates: number of copies with two filler sentences of the context replaced, under new ids.
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
        rows.append({**original, "id": f"planted-near-copy-{number:05d}", "messages": _with_new_fillers(original, rng)})
    yield from rows


def _with_new_fillers(row: dict[str, Any], rng: random.Random) -> list[dict[str, str]]:
    """Return the row's messages with two filler sentences of the context replaced."""
    user, assistant = row["messages"]
    lines = user["content"].split("\n")
    plain = [number for number, line in enumerate(lines[:-2]) if not line.startswith("Note ")]
    for number in rng.sample(plain, min(2, len(plain))):
        lines[number] = filler_sentence(rng)
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
    """Yield ``count`` ShareGPT rows of one to three turns.

    Each turn asks for a note of the first message or for a fact. The first message contains a few lines, three of them
    notes, so that chats that ask for the same facts still differ.
    """
    rng = random.Random(f"chats {seed}")
    for number in range(count):
        conversation = []
        for question, answer in _chat_turns(rng):
            conversation += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        yield {"id": f"planted-chat-{number:05d}", "conversations": conversation}


def _chat_turns(rng: random.Random) -> list[tuple[str, str]]:
    """Return the turns of a random chat as (user message, response)."""
    notes = {subject: note_line(subject, rng.sample(CODES, 5)) for subject in rng.sample(SUBJECTS, 3)}
    lines = [*notes.values(), *(filler_sentence(rng) for _ in range(rng.randint(1, 2)))]
    rng.shuffle(lines)
    facts = rng.sample(range(len(FACT_NAMES)), 3)
    turns = [
        known_fact(number) if rng.random() < 0.25 else (f"What does note {subject} say?", line)
        for number, (subject, line) in zip(facts, notes.items(), strict=True)
    ]
    (question, answer), *later = turns[: rng.randint(1, 3)]
    return [("\n".join(lines) + f"\n\n{question}", answer), *later]
