"""The own small sets: in the benchmarks' formats, answerable, small, and written anew with the same bytes."""

import json
from collections import Counter

import pytest

from gateau.evaluation.benchmarks.longbench.data_sets import DATA_SETS, Prediction
from gateau.evaluation.benchmarks.longbench.scores import score_prediction
from gateau.evaluation.benchmarks.needle.prompts import read_haystack
from gateau.formats import encode_texts

from helpers import ROOT, run_script

SETS = ROOT / "workflow/resources/small_benchmarks"
DATA = SETS / "longbench/data"
PLANTED = ("multifieldqa_en", "qasper")
JUDGE_SLOTS = {"longbench/prompt_for_qa.txt": 3, "longbench/prompt_for_sum.txt": 2, "longbench_chat/prompt_fs.txt": 9}
MT_BENCH_PROMPTS = {
    "single-v1": ("question", "answer"),
    "single-math-v1": ("question", "ref_answer_1", "answer"),
    "single-v1-multi-turn": ("question_1", "answer_1", "question_2", "answer_2"),
    "single-math-v1-multi-turn": (
        "question_1", "ref_answer_1", "question_2", "ref_answer_2", "answer_1", "answer_2",
    ),
}  # fmt: skip


def read(name):
    return json.loads((SETS / name).read_text(encoding="utf-8"))


def read_lines(path):
    return [json.loads(line) for line in (SETS / path).read_text(encoding="utf-8").splitlines()]


def test_the_generated_files_are_generated(tmp_path):
    result = run_script("small_benchmarks", "--output", tmp_path)
    assert result.returncode == 0, result.stderr
    generated = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(generated) == 4 + 3 + 2 + 2
    for name in generated:
        assert (tmp_path / name).read_bytes() == (SETS / name).read_bytes(), name


def test_they_are_small():
    assert sum(path.stat().st_size for path in SETS.rglob("*") if path.is_file()) < 400_000


def test_every_data_set_has_a_prompt_and_every_prompt_a_data_set():
    templates, new_tokens = read("longbench/dataset2prompt.json"), read("longbench/dataset2maxlen.json")
    names = {path.stem for path in DATA.iterdir()}
    assert names == set(templates) == set(new_tokens)
    assert names <= set(DATA_SETS)
    assert max(new_tokens.values()) <= 64
    assert {templates[name] for name in PLANTED} == {"{context}\n\n{input}"}, (
        "the form that the tiny pair was trained on"
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.iterdir()))
def test_longbench_rows_are_longbenchs_and_their_answers_score_full_marks(name):
    rows = read_lines(f"longbench/data/{name}.jsonl")
    template = read("longbench/dataset2prompt.json")[name]
    assert len({row["_id"] for row in rows}) == len(rows)
    assert len({template.format(**row) for row in rows}) == len(rows)
    for number, row in enumerate(rows, 1):
        assert list(row) == ["input", "context", "answers", "length", "dataset", "language", "all_classes", "_id"]
        assert row["dataset"] == name
        for answer in row["answers"]:
            prediction = Prediction(number, answer, row["answers"], row["all_classes"] or (), row["length"])
            assert score_prediction(DATA_SETS[name], prediction, "strict") == pytest.approx(1)


@pytest.mark.parametrize(("name", "groups"), [("multifieldqa_en", (16, 16, 16)), ("qasper", (6, 5, 5))])
def test_planted_prompts_come_in_three_lengths_and_hold_their_answer_once(tiny_tokenizer, name, groups):
    rows = read_lines(f"longbench/data/{name}.jsonl")
    lengths = Counter()
    for row in rows:
        (answer,) = row["answers"]
        text = f"[INST]{row['context']}\n\n{row['input']}[/INST]"
        n_tokens = len(encode_texts(tiny_tokenizer, [text])[0])
        (nearest,) = (length for length in (200, 450, 850) if abs(n_tokens - length) <= 12)
        lengths[nearest] += 1
        lines = row["context"].split("\n")
        assert lines.count(answer) == 1
        place = lines.index(answer)
        assert place < len(lines) / 2 if name == "multifieldqa_en" else place >= len(lines) - 4
        new_tokens = read("longbench/dataset2maxlen.json")[name]
        assert len(encode_texts(tiny_tokenizer, [answer])[0]) < new_tokens
        assert 1 + n_tokens + new_tokens < 1000
    assert tuple(lengths[length] for length in (200, 450, 850)) == groups


@pytest.mark.parametrize(("name", "n_slots"), JUDGE_SLOTS.items())
def test_judge_prompts_have_the_slots_of_the_pinned_ones(name, n_slots):
    texts = [f"<{number}>" for number in range(n_slots)]
    prompt = (SETS / name).read_text(encoding="utf-8")
    filled = prompt.format(*texts)
    assert prompt.count("{}") == n_slots
    assert [filled.count(text) for text in texts] == [1] * n_slots


def test_longbench_chat_has_three_rated_answers_for_each_case():
    cases, few_shots = read("longbench_chat/test_cases.json"), read("longbench_chat/few_shots.json")
    assert [case["idx"] for case in cases] == list(range(1, 13))
    assert len(few_shots) == len(cases)
    for case, three in zip(cases, few_shots, strict=True):
        assert case["prompt"].split("\n")[-1] == case["query"]
        assert case["prompt"].count(case["query"]) == 1
        assert [sorted(shot) for shot in three] == [["answer", "score"]] * 3
        assert all(1 <= shot["score"] <= 10 for shot in three)
        assert case["prompt"].count(case["answer"]) == 1, "the answer stands in the document"
        assert three[0] == {"answer": case["answer"], "score": 10}
        assert case["answer"] not in (three[1]["answer"], three[2]["answer"])


def test_the_haystack_is_long_enough_and_knows_nothing_of_the_needle(tiny_tokenizer):
    texts = read_haystack(SETS / "needle/haystack")
    assert len(texts) == 3
    # an English tokenizer makes at least one token of a word
    assert sum(len(text.split()) for text in texts) > 5000
    assert "falcon" not in " ".join(texts).lower()
    assert all("Note " in text for text in texts)


def test_mt_bench_has_one_question_of_each_category():
    questions = read_lines("mt_bench/question.jsonl")
    categories = ["writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"]
    assert [question["category"] for question in questions] == categories
    assert [len(question["turns"]) for question in questions] == [2] * 8
    references = {row["question_id"]: row for row in read_lines("mt_bench/reference_answer.jsonl")}
    for question in questions:
        needs_reference = question["category"] in {"math", "reasoning", "coding"}
        assert (question["question_id"] in references) == needs_reference == ("reference" in question)
    for question in questions:
        lines = question["turns"][0].split("\n")
        for turn in question["turns"]:
            subject = turn.split()[-2]
            assert sum(line.startswith(f"Note {subject} ") for line in lines) == 1, "each turn asks for one note"
    for row in references.values():
        assert all(answer in questions[row["question_id"] - 1]["turns"][0] for answer in row["choices"][0]["turns"])
        assert list(row) == ["question_id", "answer_id", "model_id", "choices", "tstamp"]
        assert [len(choice["turns"]) for choice in row["choices"]] == [2]


def test_mt_bench_has_fastchats_four_single_prompts():
    prompts = {row["name"]: row for row in read_lines("mt_bench/judge_prompts.jsonl")}
    assert list(prompts) == list(MT_BENCH_PROMPTS)
    for name, slots in MT_BENCH_PROMPTS.items():
        filled = prompts[name]["prompt_template"].format(**{slot: f"<{slot}>" for slot in slots})
        assert [filled.count(f"<{slot}>") for slot in slots] == [1] * len(slots)
        assert prompts[name]["output_format"] == "[[rating]]"
