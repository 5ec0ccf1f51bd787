"""Answers in process: the prompts of training, explicit decoding, nothing asked twice."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from gateau.conversations import Turn
from gateau.errors import DataError
from gateau.evaluation.generation import Generation, Generator, Question, answer_all, read_generations, truncate_middle
from gateau.formats import chat_format

from helpers import TINY_PAIR


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(TINY_PAIR / "long", dtype=torch.float32).eval()


@pytest.fixture
def generator(model, tiny_tokenizer):
    return Generator(model, tiny_tokenizer, "longalign", 500)


def test_a_wrapped_question_is_prompted_as_in_training(generator, tiny_tokenizer):
    question = Question("b", "1", "And otter?", turns=(("falcon?", "badger."),), system="Be brief.")
    trained = chat_format("longalign", tiny_tokenizer).prompt_ids(
        [Turn("falcon?", "badger.")], "And otter?", "Be brief."
    )
    assert generator.prompt(question) == (trained, 0)


def test_an_unwrapped_question_is_continued_as_it_is(generator, tiny_tokenizer):
    assert generator.prompt(Question("b", "1", "falcon", wrapped=False))[0] == tiny_tokenizer("falcon").input_ids


def test_a_long_question_loses_its_middle_by_the_token(tiny_tokenizer):
    text = " ".join(f"falcon {n}" for n in range(400))
    ids = tiny_tokenizer(text).input_ids
    cut, lost = truncate_middle(tiny_tokenizer, text, 101)
    assert lost == len(ids) - 100
    assert cut == tiny_tokenizer.decode(ids[1:50]) + tiny_tokenizer.decode(ids[-50:])
    assert truncate_middle(tiny_tokenizer, text, len(ids)) == (text, 0)


def greedy(model, ids, count, stops):
    """The plainest decoding: the likeliest token, one forward over everything for each."""
    new = []
    for _ in range(count):
        new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
        if new[-1] in stops:
            break
    return new


def test_greedy_answers_are_those_of_plain_decoding(model, generator, tiny_tokenizer):
    question = Question("b", "1", "Note falcon balor detek.\n\nWhat does note falcon say?", max_new_tokens=12)
    ids, _ = generator.prompt(question)
    with torch.no_grad():
        new = greedy(model, ids, 12, {1})
    got = generator.answer(question)
    assert got.text == tiny_tokenizer.decode([token for token in new if token != 1])
    assert (got.new_tokens, got.prompt_tokens) == (len(new), len(ids))
    assert got.finish_reason == ("stop" if new[-1] == 1 else "length")


def test_the_first_line_only_where_the_benchmark_says_so(generator):
    text = "Note falcon balor detek.\nNote otter detek balor.\n" * 4
    open_ended = generator.answer(Question("b", "1", text, wrapped=False, max_new_tokens=30))
    first_line = generator.answer(Question("b", "1", text, wrapped=False, max_new_tokens=30, stop_at_newline=True))
    assert "\n" in open_ended.text.strip()
    assert "\n" not in first_line.text
    assert open_ended.text.startswith(first_line.text)
    assert first_line.finish_reason == "stop"


def test_draws_depend_on_the_seed_alone(generator):
    def ask(seed):
        return generator.answer(Question("b", "1", "falcon", temperature=1.5, seed=seed, max_new_tokens=20)).text

    first = ask(1)
    assert ask(2) != first
    assert ask(1) == first


def answers(calls):
    def answer(question):
        calls.append(question.item)
        return Generation(question.benchmark, question.item, "x", "d", 1, 1, 0, "stop")

    return answer


def test_a_rerun_asks_only_what_is_missing_even_after_a_torn_line(tmp_path):
    questions = [Question("b", str(n), "?") for n in range(4)]
    calls = []
    path = tmp_path / "a/generations.jsonl"
    assert answer_all(questions[:2], answers(calls), path, lambda rows, total: iter(rows)) == 2
    path.write_bytes(path.read_bytes() + b'{"benchmark": "b", "it')
    assert [row["item"] for row in read_generations(path)] == ["0", "1"]
    assert answer_all(questions, answers(calls), path, lambda rows, total: iter(rows)) == 2
    assert calls == ["0", "1", "2", "3"]
    assert [json.loads(line)["item"] for line in path.read_text().splitlines()] == ["0", "1", "2", "3"]


def test_doubled_items_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "generations.jsonl"
    with pytest.raises(DataError, match="item 1 is asked twice"):
        answer_all([Question("b", "1", "?")] * 2, answers([]), path, lambda rows, total: iter(rows))
    answer_all([Question("b", "1", "?")], answers([]), path, lambda rows, total: iter(rows))
    with pytest.raises(DataError, match="other questions"):
        answer_all([Question("b", "2", "?")], answers([]), path, lambda rows, total: iter(rows))
