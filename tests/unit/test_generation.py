"""Answers in process: the prompts of training, explicit decoding, batches that change nothing, nothing asked twice."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from gateau.conversations import Turn
from gateau.errors import DataError
from gateau.evaluation.answering.answers import AnswerStore, answer_shard, deal_batches, read_answers, write_answers
from gateau.evaluation.answering.generation import Generator, plan_batches
from gateau.evaluation.answering.prompting import Prompter, truncate_middle
from gateau.evaluation.answering.questions import AnsweredTurn, Generation, Question, check_items
from gateau.evaluation.answering.reasoning import Reasoning
from gateau.formats import chat_format

from helpers import TINY_PAIR

NOTES = "Note falcon balor detek mosar rigas tunut.\nThe old road turns past tall grass at dawn.\n"


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(TINY_PAIR / "long", dtype=torch.float32).eval()


@pytest.fixture
def prompter(tiny_tokenizer):
    return Prompter(tiny_tokenizer, "longalign", 500, 1024)


@pytest.fixture
def generator(model, prompter):
    return Generator(model, prompter)


def ask(*users, **options):
    return Question("b", options.pop("item", "1"), users, **options)


def test_a_wrapped_question_is_prompted_as_in_training(prompter, tiny_tokenizer):
    question = ask("falcon?", "And otter?", system="Be brief.")
    trained = chat_format("longalign", tiny_tokenizer).prompt_ids(
        [Turn("falcon?", "badger.")], "And otter?", "Be brief."
    )
    assert prompter.prompt(question, [("falcon?", "badger.")]).ids == trained


def test_an_unwrapped_question_is_continued_as_it_is(prompter, tiny_tokenizer):
    assert prompter.prompt(ask("falcon", wrapped=False)).ids == tiny_tokenizer("falcon").input_ids


def test_a_long_question_loses_its_middle_by_the_token(tiny_tokenizer):
    text = " ".join(f"falcon {n}" for n in range(400))
    ids = tiny_tokenizer(text, add_special_tokens=False).input_ids
    cut, lost = truncate_middle(tiny_tokenizer, text, 101)
    assert lost == len(ids) - 100
    assert cut == tiny_tokenizer.decode(ids[:50]) + tiny_tokenizer.decode(ids[-50:])
    assert truncate_middle(tiny_tokenizer, text, len(ids)) == (text, 0)


def test_a_small_window_cuts_the_text_and_leaves_room_for_the_answer(tiny_tokenizer):
    prompter = Prompter(tiny_tokenizer, "longalign", 64000, 256)
    text = NOTES * 40
    prompt = prompter.prompt(ask(text, max_new_tokens=1024))
    assert len(prompt.ids) <= 256 - 64
    assert prompt.max_new_tokens == 256 - len(prompt.ids)
    assert prompt.truncated_tokens > 100
    assert prompt.user.startswith(text[:50])
    assert prompt.user.endswith(text[-50:])
    full = prompter.prompt(ask(text, "otter?", max_new_tokens=1024), [(text, "x")])
    assert full.max_new_tokens == 0


@pytest.mark.parametrize(
    ("prompt", "generated", "expected"),
    [
        ("a", "<t>why</t>\n\nfalcon", ("<t>why</t>", "falcon")),
        ("a <t>\n", "why</t>falcon", ("why</t>", "falcon")),
        ("a", "<t>why and", ("<t>why and", "")),
        ("a <t>\n", "why and", ("why and", "")),
        ("a", "<t>b</t> c </t> falcon", ("<t>b</t> c </t>", "falcon")),
        ("a", " falcon", ("", " falcon")),
    ],
)
def test_reasoning_is_parted_from_the_answer(prompt, generated, expected):
    assert Reasoning("<t>", "</t>", 9).split(prompt, generated) == expected


def test_reasoning_is_kept_and_neither_scored_nor_repeated(tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(TINY_PAIR / "short_chat", dtype=torch.float32).eval()
    question = ask(NOTES + "\nWhat does note falcon say?", "Again?", max_new_tokens=4)
    plain = Generator(model, Prompter(tiny_tokenizer, "longalign", 500, 1024))
    (whole,) = plain.answer([replace(question, max_new_tokens=24)])
    words = whole.turns[0].text.split()
    marks = Reasoning(words[0], words[1], 20)
    prompter = Prompter(tiny_tokenizer, "longalign", 500, 1024, reasoning=marks)
    assert prompter.prompt(question).max_new_tokens == 24
    (answer,) = Generator(model, prompter).answer([question])
    assert answer.turns[0].reasoning + " " + answer.turns[0].text == whole.turns[0].text
    assert answer.turns[0].reasoning.strip() == " ".join(words[:2])
    again = prompter.prompt(question, [(question.users[0], answer.turns[0].text)])
    assert again.ids != prompter.prompt(question, [(question.users[0], whole.turns[0].text)]).ids
    assert prompter.prompt(replace(question, wrapped=False)).max_new_tokens == 4


def test_control_tokens_of_a_template_are_broken_up_and_counted(tiny_tokenizer):
    tiny_tokenizer = copy.deepcopy(tiny_tokenizer)
    tiny_tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    prompt = Prompter(tiny_tokenizer, "tokenizer_template", 500, None).prompt(ask("a </s> b </s>"))
    assert prompt.user == "a < /s> b < /s>"
    assert prompt.control_tokens == 2
    assert tiny_tokenizer.eos_token_id not in prompt.ids
    assert Prompter(tiny_tokenizer, "longalign", 500, None).prompt(ask("a </s> b")).user == "a </s> b"


def greedy(model, ids, count, stops):
    """The plainest decoding: the likeliest token, one forward over everything for each."""
    new = []
    for _ in range(count):
        new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
        if new[-1] in stops:
            break
    return new


def test_greedy_answers_are_those_of_plain_decoding(model, generator, prompter, tiny_tokenizer):
    question = ask(NOTES + "\nWhat does note falcon say?", max_new_tokens=12)
    ids = prompter.prompt(question).ids
    with torch.no_grad():
        new = greedy(model, ids, 12, {1})
    (answer,) = generator.answer([question])[0].turns
    assert answer.text == tiny_tokenizer.decode([token for token in new if token != 1])
    assert (answer.new_tokens, answer.prompt_tokens) == (len(new), len(ids))
    assert answer.finish_reason == ("stop" if new[-1] == 1 else "length")


def test_a_model_s_own_penalties_do_not_reach_the_decoding(model, generator, prompter):
    """transformers lays what a model's generation_config.json says under whatever is asked for."""
    question = ask(NOTES * 3 + "\nWhat does note falcon say?", max_new_tokens=20)
    expected = generator.answer([question])
    other = copy.deepcopy(model)
    other.generation_config = GenerationConfig(eos_token_id=1, repetition_penalty=5.0, no_repeat_ngram_size=2)
    assert Generator(other, prompter).answer([question]) == expected


def test_a_padded_batch_answers_as_each_question_alone(generator):
    texts = [NOTES * n + f"\nWhat does note {name} say?" for n, name in ((1, "falcon"), (3, "otter"), (7, "falcon"))]
    batch = [ask(text, item=str(n), max_new_tokens=20) for n, text in enumerate(texts)]
    assert generator.answer(batch) == [generator.answer([question])[0] for question in batch]


def test_a_second_turn_carries_the_first_answer(generator, prompter, tiny_tokenizer):
    question = ask(NOTES + "\nWhat does note falcon say?", "And again?", max_new_tokens=16)
    first, second = generator.answer([question])[0].turns
    expected = chat_format("longalign", tiny_tokenizer).prompt_ids(
        [Turn(question.users[0], first.text)], "And again?", None
    )
    assert second.prompt_tokens == len(expected)
    assert prompter.prompt(question, [(question.users[0], first.text)]).ids == expected


def test_the_first_line_only_where_the_benchmark_says_so(generator):
    question = ask(NOTES * 4, wrapped=False, max_new_tokens=30)
    open_ended = generator.answer([question])[0].turns[0]
    first_line = generator.answer([replace(question, stop_at_newline=True)])[0].turns[0]
    assert "\n" in open_ended.text.strip()
    assert "\n" not in first_line.text
    assert open_ended.text.startswith(first_line.text)
    assert first_line.finish_reason == "stop"


def test_draws_depend_on_the_seed_alone(generator):
    def draw(seed):
        return generator.answer([ask("falcon", temperature=1.5, seed=seed, max_new_tokens=20)])[0].turns[0].text

    first = draw(1)
    assert draw(2) != first
    assert draw(1) == first


def test_batches_hold_the_budget_and_keep_drawn_answers_alone(prompter):
    questions = [ask(NOTES * (1 + n % 5), item=f"set/{n}", max_new_tokens=8) for n in range(20)]
    questions += [ask("draw", item="set/x", temperature=0.7, max_new_tokens=8)] * 2
    lengths = [len(prompter.prompt(question).ids) for question in questions]
    batches = plan_batches(questions, prompter, 600)
    assert sorted(position for batch in batches for position in batch) == list(range(22))
    assert all(len(batch) == 1 or (max(lengths[p] for p in batch) + 8) * len(batch) <= 600 for batch in batches)
    assert [20] in batches
    assert [21] in batches
    assert len(batches) < 12


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_share_all_batches_evenly(shards):
    batches = [[n] for n in range(13)]
    costs = list(range(13))
    shares = deal_batches(batches, costs, shards)
    assert sorted(batch for share in shares for batch in share) == batches
    loads = [sum(costs[p] for batch in share for p in batch) for share in shares]
    assert max(loads) - min(loads) <= max(costs)


def answer_with(calls):
    def answer(questions):
        calls.append([question.item for question in questions])
        turn = AnsweredTurn("a\u2028b", "d", 1, 1, 0, 0, "stop")
        return [Generation(question.benchmark, question.item, (turn,)) for question in questions]

    return answer


def test_a_rerun_asks_only_what_is_missing_and_a_batch_counts_only_whole(tmp_path):
    questions = [ask("?", item=str(n)) for n in range(5)]
    calls, loaded = [], []
    store = AnswerStore(tmp_path, {"weights": "w"})

    def run(batches):
        def load():
            loaded.append(True)
            return answer_with(calls)

        return answer_shard(questions, batches, store, load, lambda rows, total: iter(rows))

    run([[0, 1]])
    done = run([[0, 1], [2, 3]])
    assert calls == [["0", "1"], ["2", "3"]]
    assert sorted(done) == [0, 1, 2, 3]
    damaged = next(path for path in store.directory.rglob("*.json") if '"item": "2"' in path.read_text())
    damaged.write_text(damaged.read_text()[:30])
    run([[0, 1], [2, 3]])
    assert calls[2:] == [["2", "3"]]
    run([[0, 1], [2, 3]])
    assert len(loaded) == 3
    run([[0], [1, 2]])
    assert calls[3:] == [["0"], ["1", "2"]]
    assert AnswerStore(tmp_path, {"weights": "other"}).get(questions[:2]) is None


def test_shards_that_do_not_belong_together_are_refused(tmp_path):
    questions = [ask("?", item=str(n), record={"idx": n}) for n in range(4)]
    answers = dict(enumerate(answer_with([])(questions)))
    first, second = tmp_path / "0", tmp_path / "1"
    write_answers(first, questions, {n: answers[n] for n in (0, 2)})
    write_answers(second, questions, {n: answers[n] for n in (1, 3)})
    rows = read_answers([first, second])
    assert [row["item"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[2]["record"] == {"idx": 2}
    assert rows[2]["turns"][0]["text"] == "a\u2028b"
    with pytest.raises(DataError, match="2 answers were found, but 4"):
        read_answers([first])
    with pytest.raises(DataError, match="item 0 is answered twice"):
        read_answers([first, second, first])
    write_answers(second, questions[:3], {1: answers[1]})
    with pytest.raises(DataError, match="3 or 4"):
        read_answers([first, second])


def test_doubled_items_are_refused():
    with pytest.raises(DataError, match="item 1 is asked twice"):
        check_items([ask("?"), ask("!")])
    with pytest.raises(DataError, match="no questions"):
        check_items([])


def test_the_record_does_not_name_a_question():
    assert ask("?", record={"answers": ["a"]}).digest == ask("?").digest
    assert json.loads(json.dumps(ask("?").digest)) != ask("?", seed=1).digest
