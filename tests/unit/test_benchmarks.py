"""Benchmarks as questions: prompts of training in every one, options that matter, files that scorers read."""

import copy
import json
import shutil

import numpy as np
import pytest

from gateau.conversations import Conversation, Turn
from gateau.errors import DataError, SettingsError
from gateau.evaluation import benchmarks
from gateau.evaluation.answering.prompting import Prompter
from gateau.evaluation.benchmarks.longbench.data_sets import DATA_SETS
from gateau.evaluation.benchmarks.mt_bench import questions as mt_bench
from gateau.formats import chat_format, encode_texts
from gateau.planted import planted_rows
from gateau.prompts import DEFAULT_TEMPLATE, PromptEncoder

from helpers import ROOT, run_script, write_jsonl

SMALL = ROOT / "workflow/resources/small_benchmarks"
NEEDLE = {
    "lengths": [300, 500],
    "depths": [10, 50, 90],
    "needle": "Note falcon balor detek mosar rigas tunut.",
    "question": "What does note falcon say?",
    "system": "Be brief.",
    "prefix": "",
    "reserve": 60,
    "max_new_tokens": 24,
}
OPTIONS = {
    "longbench": {"data_sets": "all", "extended": False},
    "longbench_chat": {"protocol": "gateau", "max_new_tokens": 48},
    "needle": NEEDLE,
    "mt_bench": {"max_new_tokens": 48},
    "recall": {"questions": 8, "min_lines": 24, "max_lines": 72, "seed": 0, "max_new_tokens": 24},
}
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def asked(benchmark, tokenizer, **options):
    return benchmarks.load(benchmark).ask(SMALL / benchmark, {**OPTIONS[benchmark], **options}, tokenizer)


@pytest.mark.parametrize("benchmark", benchmarks.names())
@pytest.mark.parametrize("format_name", ["longalign", "tokenizer_template"])
def test_every_wrapped_question_is_asked_in_the_format_of_training(benchmark, format_name, tiny_tokenizer):
    """Ids of the prompt are those that training puts before its first target, turn by turn."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = TEMPLATE
    prompter = Prompter(tokenizer, format_name, 64000, None)
    training = chat_format(format_name, tokenizer)
    n_wrapped = 0
    for question in asked(benchmark, tokenizer):
        said = []
        for user in question.users if question.wrapped else ():
            said.append(Turn(user, "An answer."))
            encoded = training.encode(Conversation(tuple(said), question.system))
            targets = np.flatnonzero(encoded.labels != -100)
            starts = [place for place in targets if encoded.labels[place - 1] == -100]
            prompt = prompter.prompt(question, [(turn.user, turn.assistant) for turn in said[:-1]])
            assert prompt.ids == encoded.input_ids[: starts[-1]].tolist(), question.item
            n_wrapped += 1
    assert n_wrapped >= 6


def test_few_shot_and_code_are_continued_without_a_chat_format(tiny_tokenizer):
    for question in asked("longbench", tiny_tokenizer):
        category = DATA_SETS[question.item.partition("/")[0]].category
        assert question.wrapped == (category not in ("few-shot", "code"))
        assert question.stop_at_newline == question.item.startswith("samsum/")


def test_data_sets_can_be_chosen_and_extended(tiny_tokenizer, tmp_path):
    assets = shutil.copytree(SMALL / "longbench", tmp_path / "longbench")
    shutil.copy(assets / "data/qasper.jsonl", assets / "data/qasper_e.jsonl")

    def items(**options):
        found = benchmarks.load("longbench").ask(assets, {**OPTIONS["longbench"], **options}, tiny_tokenizer)
        return {question.item.partition("/")[0] for question in found}

    assert items(data_sets=["trec", "qasper"]) == {"trec", "qasper"}
    assert items(data_sets=["trec", "qasper"], extended=True) == {"trec", "qasper", "qasper_e"}
    with pytest.raises(SettingsError, match="squad does not exist"):
        items(data_sets=["squad"])
    with pytest.raises(DataError, match=r"no narrativeqa\.jsonl"):
        items(data_sets=["narrativeqa"])


def test_recall_asks_for_another_far_note_each_time_and_never_repeats_a_planted_row(tiny_tokenizer, tmp_path):
    options = {"questions": 240, "seed": 3}
    found = asked("recall", tiny_tokenizer, **options)
    trained = {row["messages"][0]["content"] for row in planted_rows({"far": 240}, seed=3)}
    answers = [question.record["answer"] for question in found]
    assert len(set(answers)) == 240
    assert asked("recall", tiny_tokenizer, **options) == found != asked("recall", tiny_tokenizer, questions=240, seed=4)
    for question in found:
        *lines, _, asked_for = question.users[0].split("\n")
        assert lines.index(question.record["answer"]) < len(lines) / 2
        assert asked_for == f"What does note {question.record['answer'].split()[1]} say?"
        assert question.users[0] not in trained
        assert len(encode_texts(tiny_tokenizer, [question.record["answer"]])[0]) < question.max_new_tokens
        assert len(encode_texts(tiny_tokenizer, [question.users[0]])[0]) < 1000
    with pytest.raises(DataError, match=r"prompt\.txt"):
        benchmarks.load("recall").ask(tmp_path, {**OPTIONS["recall"]}, tiny_tokenizer)
    with pytest.raises(SettingsError, match="more than max_lines"):
        benchmarks.load("recall").check({"min_lines": 30, "max_lines": 20})


def test_only_the_exact_note_is_recalled(tmp_path):
    rows = [
        {"id": "0", "answer": "Note elm a b.", "pred": " Note elm a b.\n"},
        {"id": "1", "answer": "Note elm a b.", "pred": "Note elm a b. Note"},
        {"id": "2", "answer": "Note elm a b.", "pred": "Note elm b a."},
        {"id": "3", "answer": "Note elm a b.", "pred": ""},
    ]
    write_jsonl(tmp_path / "predictions.jsonl", rows)
    result = run_script("score_recall", "--predictions", tmp_path, "--output", tmp_path / "scores.json")
    assert result.returncode == 0, result.stderr
    (measure,) = json.loads((tmp_path / "scores.json").read_text())["measures"]
    assert (measure["score"], measure["n"], measure["name"], measure["headline"]) == (25.0, 4, "far", True)
    assert measure["low"] < 25 < measure["high"]


def test_damaged_assets_are_named(tiny_tokenizer, tmp_path):
    assets = shutil.copytree(SMALL / "longbench", tmp_path / "longbench")
    (assets / "data/trec.jsonl").write_text('{"input": "x"}\n')
    with pytest.raises(DataError, match=r"trec\.jsonl, line 1: a row holds input, context"):
        benchmarks.load("longbench").ask(assets, {"data_sets": ["trec"]}, tiny_tokenizer)
    (assets / "dataset2prompt.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset2prompt\.json: not JSON"):
        benchmarks.load("longbench").ask(assets, {}, tiny_tokenizer)


def test_mt_bench_asks_two_turns_at_the_temperature_of_its_category(tiny_tokenizer):
    found = asked("mt_bench", tiny_tokenizer)
    assert all(len(question.users) == 2 for question in found)
    assert {q.record["category"]: q.temperature for q in found} == {
        "writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1,
        "reasoning": 0.0, "math": 0.0, "coding": 0.0, "extraction": 0.0,
    }  # fmt: skip


def test_longbench_chat_is_asked_by_its_protocol(tiny_tokenizer):
    gateau = asked("longbench_chat", tiny_tokenizer)
    longalign = asked("longbench_chat", tiny_tokenizer, protocol="longalign")
    for ours, theirs in zip(gateau, longalign, strict=True):
        assert ours.users[0].endswith(f" ###Instruction: {ours.record['query']}\n\n\n ###Response: ")
        assert theirs.users[0].endswith(theirs.record["query"])


def test_predictions_are_files_that_the_scorers_know(tiny_tokenizer, tmp_path):
    for benchmark in benchmarks.names():
        found = asked(benchmark, tiny_tokenizer)
        rows = [
            {"item": q.item, "record": q.record, "turns": [{"text": f" answer {n} "} for n in range(len(q.users))]}
            for q in found
        ]
        files = benchmarks.load(benchmark).prediction_files("mine", rows)
        assert sum(map(len, files.values())) == len(found)
        json.dumps(files)
        if benchmark == "mt_bench":
            (tmp_path / "mine.jsonl").write_text(
                "".join(json.dumps(r) + "\n" for r in files["model_answer/mine.jsonl"])
            )
            assert mt_bench.read_answers(tmp_path / "mine.jsonl")[0].turns == ("answer 0", "answer 1")


def test_the_tiny_base_model_is_asked_in_the_scoring_prompt_it_was_trained_with(tiny_tokenizer):
    question = asked("needle", tiny_tokenizer, system="")[0]
    context, instruction = question.users[0].rsplit("\n\n", 1)
    encoded = PromptEncoder(tiny_tokenizer, DEFAULT_TEMPLATE).encode([context], [instruction], ["x"])[0]
    expected = [*encoded.head, *encoded.context, *encoded.question]
    assert Prompter(tiny_tokenizer, "tokenizer_template", 64000, None).prompt(question).ids == expected
