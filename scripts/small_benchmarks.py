"""Write the generated files of this project's own small benchmark sets.

Run ``python scripts/small_benchmarks.py --output workflow/resources/small_benchmarks`` to write them again. The files
are bytewise the same each time.

They use the language of :mod:`gateau.planted`, which the committed tiny models were trained on. The tasks are recall of
a note, far away and nearby, in three lengths; finding a paragraph; counting paragraphs; a haystack of notes; and the
cases of LongBench-Chat and the questions of MT-Bench, which ask for notes too. All other files of the sets (other data
sets of LongBench, prompts for models and judges) are written by hand.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gateau.command import argument_parser, run
from gateau.evaluation.benchmarks.mt_bench.questions import REFERENCED
from gateau.files import write_text
from gateau.formats import encode_texts
from gateau.places import RESOURCES
from gateau.planted import CODES, SUBJECTS, PlantedShape, filler_sentence, note_line, planted_row

TOKENIZER = RESOURCES / "tiny_pair/long"
# tokens of a prompt → minimum and maximum lines of a context with about that many tokens
LENGTHS = {200: (14, 19), 450: (36, 46), 850: (70, 84)}
TOLERANCE = 12  # tokens by which a prompt's length may differ
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")  # of MT-Bench
NEEDLE_SUBJECT = "falcon"  # subject of the demo's needle, which no haystack may contain

Row = dict[str, Any]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="output: folder for a folder of each benchmark")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)

    data = {
        "multifieldqa_en": [
            row
            for length in LENGTHS
            for row in recall_rows(tokenizer, "far", length, 16, random.Random(f"far {length} {args.seed}"))
        ],
        "qasper": [
            row
            for length, count in zip(LENGTHS, (6, 5, 5), strict=True)
            for row in recall_rows(tokenizer, "near", length, count, random.Random(f"near {length} {args.seed}"))
        ],
        "passage_retrieval_en": list(retrieval_rows(8, random.Random(f"retrieval {args.seed}"))),
        "passage_count": list(count_rows(4, random.Random(f"count {args.seed}"))),
    }
    for name, rows in data.items():
        lines = [json.dumps(longbench_row(name, row), ensure_ascii=False) + "\n" for row in rows]
        write_text(args.output / f"longbench/data/{name}.jsonl", "".join(lines))
    for name in ("first", "second", "third"):
        write_text(args.output / f"needle/haystack/{name}.txt", haystack(random.Random(f"{name} {args.seed}")))
    write_chat_cases(args.output / "longbench_chat", tokenizer, random.Random(f"chat {args.seed}"))
    write_two_turns(args.output / "mt_bench", tokenizer, random.Random(f"turns {args.seed}"))


def recall_rows(
    tokenizer: PreTrainedTokenizerBase, kind: str, length: int, count: int, rng: random.Random
) -> Iterator[Row]:
    """Yield questions for a note in a context, each about another note.

    Args:
        tokenizer: tokenizer that counts the tokens of a prompt.
        kind: kind of planted row.
        length: tokens of a prompt, a key of :data:`LENGTHS`.
        count: number of questions.
        rng: source of all random choices.
    """
    asked: set[str] = set()
    while len(asked) < count:
        n_lines = rng.randint(*LENGTHS[length])
        context, question, answer = planted_row(kind, rng, PlantedShape(n_lines, n_lines))
        n_tokens = len(encode_texts(tokenizer, [f"[INST]{context}\n\n{question}[/INST]"])[0])
        if question not in asked and abs(n_tokens - length) <= TOLERANCE:
            yield {"input": question, "context": context, "answers": [answer], "_id": f"{length}-{len(asked):02d}"}
            asked.add(question)


def retrieval_rows(count: int, rng: random.Random) -> Iterator[Row]:
    """Yield rows of six numbered paragraphs, each with a note. The question gives a note and asks for its paragraph."""
    for number in range(count):
        subjects, codes = rng.sample(SUBJECTS, 6), rng.sample(CODES, 30)
        notes = [note_line(subject, codes[5 * n : 5 * n + 5]) for n, subject in enumerate(subjects)]
        paragraphs = []
        for line in notes:
            sentences = [filler_sentence(rng) for _ in range(2)]
            sentences.insert(rng.randrange(3), line)
            paragraphs.append(" ".join(sentences))
        # ask for every paragraph about equally often
        wanted = number % 6
        yield {
            "input": notes[wanted],
            "context": numbered(paragraphs),
            "answers": [f"Paragraph {wanted + 1}"],
            "_id": f"{number:02d}",
        }


def count_rows(count: int, rng: random.Random) -> Iterator[Row]:
    """Yield rows with numbered paragraphs, two of them copies. The question is how many different ones there are."""
    for number in range(count):
        n_different = 3 + number
        different: list[str] = []
        while len(different) < n_different:
            paragraph = f"{filler_sentence(rng)} {filler_sentence(rng)}"
            if paragraph not in different:
                different.append(paragraph)
        paragraphs = different + rng.choices(different, k=2)
        rng.shuffle(paragraphs)
        yield {"input": "", "context": numbered(paragraphs), "answers": [str(n_different)], "_id": f"{number:02d}"}


def numbered(paragraphs: Sequence[str]) -> str:
    """Return the paragraphs as one text, numbered as in LongBench."""
    return "\n\n".join(f"Paragraph {number}: {text}" for number, text in enumerate(paragraphs, 1))


def longbench_row(name: str, row: Row) -> Row:
    """Return a row as a record of LongBench; its ``length`` is in words."""
    context = str(row["context"])
    return {
        "input": row["input"],
        "context": context,
        "answers": row["answers"],
        "length": len(context.split()),
        "dataset": name,
        "language": "en",
        "all_classes": None,
        "_id": row["_id"],
    }


def write_chat_cases(folder: Path, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> None:
    """Write LongBench-Chat's cases, which ask for a far note, and three rated answers to each of them.

    The rated answers are the note, the note with two wrong codes, and another note.
    """
    cases: list[Row] = []
    few_shots = []
    for row in [row for length in LENGTHS for row in recall_rows(tokenizer, "far", length, 4, rng)]:
        query, answer = row["input"], row["answers"][0]
        prompt = f"{row['context']}\n\n{query}"
        cases.append({"idx": len(cases) + 1, "query": query, "answer": answer, "prompt": prompt})
        half = f"{answer.rsplit(' ', 2)[0]} {' '.join(rng.sample(CODES, 2))}."
        other = rng.choice(notes_of(row["context"], answer))
        few_shots.append([{"answer": text, "score": score} for text, score in ((answer, 10), (half, 6), (other, 1))])
    for name, content in (("test_cases", cases), ("few_shots", few_shots)):
        write_text(folder / f"{name}.json", json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def write_two_turns(folder: Path, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> None:
    """Write MT-Bench's questions, one per category: a far note, and then another note of the same context.

    As in MT-Bench, the categories of :data:`REFERENCED` have reference answers.
    """
    questions: list[Row] = []
    references: list[Row] = []
    rows = recall_rows(tokenizer, "far", 450, len(CATEGORIES), rng)
    for number, (category, row) in enumerate(zip(CATEGORIES, rows, strict=True), 1):
        answer = row["answers"][0]
        second = rng.choice(notes_of(row["context"], answer))
        turns = [f"{row['context']}\n\n{row['input']}", f"What does note {second.split()[1]} say?"]
        question: Row = {"question_id": number, "category": category, "turns": turns}
        if category in REFERENCED:
            question["reference"] = [answer, second]
            references.append(
                {
                    "question_id": number,
                    "answer_id": f"reference-{number}",
                    "model_id": "reference",
                    "choices": [{"index": 0, "turns": [answer, second]}],
                    "tstamp": 0.0,
                }
            )
        questions.append(question)
    for name, lines in (("question", questions), ("reference_answer", references)):
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def notes_of(context: str, but: str) -> list[str]:
    """Return the notes of a context, without one of them."""
    return [line for line in context.split("\n") if line.startswith("Note ") and line != but]


def haystack(rng: random.Random, n_lines: int = 220) -> str:
    """Return a haystack of ``n_lines`` lines like those of planted contexts.

    It has notes on all other subjects, so that the needle is not the only note.
    """
    others = [subject for subject in SUBJECTS if subject != NEEDLE_SUBJECT]
    lines = []
    for _ in range(n_lines):
        is_note = rng.random() < PlantedShape().note_share
        lines.append(note_line(rng.choice(others), rng.sample(CODES, 5)) if is_note else filler_sentence(rng))
    return "".join(line + "\n" for line in lines)


if __name__ == "__main__":
    run(main)
