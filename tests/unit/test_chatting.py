"""Chatting: prompts as in training, streamed text, context windows, caches, and the script itself."""

import copy
import json
import shutil
from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM

from gateau.chatting import ChatSession, Sampling, WholeText, choose_format, prompt_ids
from gateau.conversations import read_conversation
from gateau.errors import DataError, ModelError, SettingsError
from gateau.formats import chat_format
from gateau.model_files import ModelSpec

from helpers import TINY_PAIR, run_script
from unit.models import tiny_model
from unit.tokenizers import prefixed_tokenizer

MODEL = TINY_PAIR / "long"
CHATML = (
    "{% for m in messages %}{% if m['role'] == 'system' and no_system is defined %}"
    "{{ raise_exception('no system role') }}{% endif %}"
    "{{ '|' + m['role'] + '|' + m['content'] }}{% if m['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '|assistant|' }}{% endif %}"
)
TURNS = [("falcon", "otter"), ("badger", "heron")]


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


@pytest.fixture
def template_tokenizer(tiny_tokenizer):
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.chat_template = CHATML
    return tokenizer


def session(model, tokenizer, format_name="longalign", max_new_tokens=12, **options):
    return ChatSession(model, tokenizer, format_name, Sampling(max_new_tokens), **options)


def ask(chat, question):
    pieces = []
    answer = chat.answer(chat.prepare(question), pieces.append)
    assert "".join(pieces) == answer.text
    return answer


def test_longalign_prompts_are_the_beginning_of_the_trained_sequence(tiny_tokenizer):
    messages = [{"role": "system", "content": "Be brief."}]
    for question, answer in [*TURNS, ("lynx?", "marten")]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    trained = chat_format("longalign", tiny_tokenizer).encode(read_conversation(messages)).input_ids.tolist()
    ids = prompt_ids("longalign", tiny_tokenizer, TURNS, "lynx?", "Be brief.")
    assert ids == trained[: len(ids)]
    assert trained[len(ids) :] == [*tiny_tokenizer("marten", add_special_tokens=False).input_ids, 1]


@pytest.mark.parametrize("format_name", ["longalign", "plain"])
def test_text_of_the_user_never_becomes_a_control_token(tiny_tokenizer, format_name):
    ids = prompt_ids(format_name, tiny_tokenizer, [("</s>", "<s>")], "<pad> </s>", "<s>")
    assert ids[0] == 0
    assert not {0, 1, 2} & set(ids[1:])


def test_a_template_refuses_control_tokens_in_the_text(template_tokenizer):
    with pytest.raises(DataError, match=r"holds </s>, which the chat template would take"):
        prompt_ids("tokenizer_template", template_tokenizer, [], "a </s> b", None)


def test_role_markers_are_control_tokens_whether_or_not_the_tokenizer_lists_them(template_tokenizer):
    from tokenizers import AddedToken

    template_tokenizer.add_tokens([AddedToken("<|role|>", special=True)], special_tokens=False)
    with pytest.raises(DataError, match=r"holds <\|role\|>"):
        prompt_ids("tokenizer_template", template_tokenizer, [], "a <|role|> b", None)


def test_template_prompts_end_where_the_answer_begins(template_tokenizer):
    ids = prompt_ids("tokenizer_template", template_tokenizer, TURNS[:1], "lynx?", "Be brief.")
    assert template_tokenizer.decode(ids) == "|system|Be brief.|user|falcon|assistant|otter</s>|user|lynx?|assistant|"
    assert ids.count(1) == 1


def test_a_template_without_a_system_role_says_so(template_tokenizer):
    template_tokenizer.chat_template = CHATML.replace(" and no_system is defined", "")
    with pytest.raises(SettingsError, match=r"no system role.*leave out --system"):
        prompt_ids("tokenizer_template", template_tokenizer, [], "lynx?", "Be brief.")


def test_plain_prompts_just_go_on(tiny_tokenizer):
    ids = prompt_ids("plain", tiny_tokenizer, TURNS[:1], "lynx", None)
    assert ids == tiny_tokenizer("falconotter\n\nlynx").input_ids
    tokenizer, prefix = prefixed_tokenizer()
    ids = prompt_ids("plain", tokenizer, [], "lynx", None)
    assert ids == tokenizer("lynx").input_ids
    assert ids[:2] == prefix


def test_the_format_is_what_the_export_recorded(tmp_path, tiny_tokenizer, template_tokenizer):
    spec = ModelSpec(str(shutil.copytree(MODEL, tmp_path / "model")))
    record = tmp_path / "model/gateau.json"
    tiny_tokenizer = copy.deepcopy(tiny_tokenizer)
    tiny_tokenizer.chat_template = None
    assert choose_format("auto", spec, tiny_tokenizer) == "plain"
    assert choose_format("auto", spec, template_tokenizer) == "tokenizer_template"
    record.write_text(json.dumps({"chat_format": "longalign", "experiment": "gateau"}))
    assert choose_format("auto", spec, template_tokenizer) == "longalign"
    assert choose_format("plain", spec, template_tokenizer) == "plain"
    for broken in ("[]", "{", json.dumps({"chat_format": "alpaca"})):
        record.write_text(broken)
        with pytest.raises(ModelError, match=r"gateau\.json"):
            choose_format("auto", spec, tiny_tokenizer)
    with pytest.raises(SettingsError, match="no chat template"):
        choose_format("tokenizer_template", spec, tiny_tokenizer)


@pytest.mark.parametrize(
    "text", ["Zwölf Boxkämpfer — 长文本 🎉🎉 end", " two  spaces\n\n\nlines ", "\ufffd odd \ufffd", ""]
)
def test_streamed_text_is_whole_characters_and_adds_up(tiny_tokenizer, text):
    ids = tiny_tokenizer(text, add_special_tokens=False).input_ids
    pieces = []
    stream = WholeText(tiny_tokenizer, pieces.append)
    stream.put(torch.tensor([[0, 5, 6]]))
    for token in [*ids, 1]:
        stream.put(torch.tensor([token]))
    stream.end()
    assert "".join(pieces) == stream.text == text == tiny_tokenizer.decode(ids)
    if "odd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 4 or not text


def test_a_stream_of_broken_characters_ends_as_in_one_piece(tiny_tokenizer):
    ids = tiny_tokenizer("a🎉b长c", add_special_tokens=False).input_ids
    broken = [token for number, token in enumerate(ids) if number % 4 != 2]
    pieces = []
    stream = WholeText(tiny_tokenizer, pieces.append)
    for token in [None, *broken]:
        stream.put(torch.tensor([token or 0]))
    stream.end()
    assert "".join(pieces) == tiny_tokenizer.decode(broken)
    assert "\ufffd" in stream.text


def test_an_answer_is_what_the_model_generates(model, tiny_tokenizer):
    chat = session(model, tiny_tokenizer)
    prompt = chat.prepare("Note falcon balor. What does note falcon say?")
    expected = model.generate(torch.tensor([prompt.ids]), max_new_tokens=12, do_sample=False)[0, len(prompt.ids) :]
    answer = ask(chat, prompt.question)
    assert answer.text == tiny_tokenizer.decode(expected, skip_special_tokens=True)
    assert (answer.tokens, answer.prompt_tokens, answer.reused_tokens) == (12, len(prompt.ids), 0)


def test_greedy_answers_repeat_themselves_and_drawn_ones_follow_the_seed(model, tiny_tokenizer):
    greedy = {ask(session(model, tiny_tokenizer), "falcon").text for _ in range(2)}
    assert len(greedy) == 1

    def drawn(seed):
        torch.manual_seed(seed)
        return ask(ChatSession(model, tiny_tokenizer, "plain", Sampling(20, temperature=2.0, top_p=0.9)), "falcon").text

    assert drawn(1) == drawn(1) != drawn(2)


def test_stop_tokens_are_the_tokenizers_and_the_generation_configs(model, tiny_tokenizer):
    model = deepcopy(model)
    first = ask(session(model, tiny_tokenizer), "falcon")
    assert first.tokens == 12
    stop = tiny_tokenizer(first.text, add_special_tokens=False).input_ids[0]
    model.generation_config.eos_token_id = [stop, 9]
    assert ask(session(model, tiny_tokenizer), "falcon").tokens == 1
    assert Sampling().generation_config(model, tiny_tokenizer).eos_token_id == sorted({1, 9, stop})


@pytest.mark.parametrize("architecture", ["llama", "mistral_window", "gemma3_mixed"])
def test_reusing_what_was_read_changes_no_answer(architecture, tiny_tokenizer):
    """Models with sliding windows keep no cache; the others compute new tokens only."""
    model = tiny_model(architecture, vocab_size=1024)
    chat = session(model, tiny_tokenizer, document="the old road turns past tall grass at dawn. " * 20)
    for number, question in enumerate(("falcon", "badger", "otter")):
        fresh = session(model, tiny_tokenizer, document=chat.document, turns=list(chat.turns))
        answer = ask(chat, question)
        assert answer.text == ask(fresh, question).text
        assert (answer.reused_tokens > 200) == (number > 0 and architecture == "llama")
    other = ask(chat, "falcon")
    chat.turns = []
    assert ask(chat, "falcon").prompt_tokens < other.prompt_tokens
    assert chat.turns[0][1] == ask(session(model, tiny_tokenizer, document=chat.document), "falcon").text


def test_the_document_stays_before_the_first_question_that_is_remembered(model, tiny_tokenizer):
    chat = session(model, tiny_tokenizer, document="DOC", system="SYS", turns=TURNS)
    expected = [("DOC\n\nfalcon", "otter"), TURNS[1]]
    assert chat.prepare("lynx").ids == prompt_ids("longalign", tiny_tokenizer, expected, "lynx", "SYS")
    chat.turns = []
    assert chat.prepare("lynx").ids == prompt_ids("longalign", tiny_tokenizer, [], "DOC\n\nlynx", "SYS")


def test_the_oldest_turns_leave_a_full_window(model, tiny_tokenizer):
    turns = [(f"question {number} " + "falcon " * 200, "otter") for number in range(6)]
    chat = session(model, tiny_tokenizer, document="DOC", max_new_tokens=100, turns=turns)
    prompt = chat.prepare("lynx")
    assert prompt.turns == turns[prompt.dropped_turns :]
    assert prompt.dropped_turns > 0
    assert len(prompt.ids) + 100 <= 1024 < len(chat._ids(turns[prompt.dropped_turns - 1 :], "lynx")) + 100
    assert tiny_tokenizer.decode(prompt.ids).startswith(f"<s>[INST]DOC\n\nquestion {prompt.dropped_turns} ")
    ask(chat, "lynx")
    assert len(chat.turns) == len(prompt.turns) + 1
    with pytest.raises(SettingsError, match="window is 1024: lower --max-new-tokens, shorten the question"):
        chat.prepare("falcon " * 1200)


def test_ctrl_c_ends_the_answer_and_not_the_conversation(model, tiny_tokenizer):
    chat = session(model, tiny_tokenizer, max_new_tokens=200)
    whole = ask(session(model, tiny_tokenizer, max_new_tokens=200), "falcon").text
    shown = []

    def press_after_five(text):
        shown.append(text)
        if len(shown) == 5:
            raise KeyboardInterrupt

    answer = chat.answer(chat.prepare("falcon"), press_after_five)
    assert answer.interrupted
    assert answer.tokens < 10
    assert whole.startswith(answer.text)
    assert chat.turns == [("falcon", answer.text)]
    assert not ask(chat, "badger").interrupted


def test_one_prompt_gives_the_answer_alone(tmp_path, model, tiny_tokenizer):
    (tmp_path / "question.txt").write_text("What does note falcon say?\n")
    (tmp_path / "document.txt").write_text("Note falcon balor kemin tasir.\n")
    arguments = ("--model", MODEL, "--format", "longalign", "--max-new-tokens", 12, "--system", "Be brief.")
    result = run_script(
        "chat", *arguments, "--prompt-file", tmp_path / "question.txt", "--context", tmp_path / "document.txt"
    )
    assert result.returncode == 0, result.stderr
    chat = session(model, tiny_tokenizer, system="Be brief.", document="Note falcon balor kemin tasir.")
    assert result.stdout == ask(chat, "What does note falcon say?").text + "\n"


def test_a_conversation_from_a_pipe(model, tiny_tokenizer):
    lines = ["falcon", "badger", "", "/reset", "/nonsense", "falcon", "/system Be brief.", "falcon " * 1200]
    result = run_script(
        "chat", "--model", MODEL, "--format", "longalign", "--max-new-tokens", 12, input="\n".join(lines)
    )
    assert result.returncode == 0, result.stderr
    chat = session(model, tiny_tokenizer)
    first, second = ask(chat, "falcon").text, ask(chat, "badger").text
    assert result.stdout == f"{first}\n{second}\n{first}\n"
    for message in ("the conversation starts anew", "no command /nonsense", "system text set", "window is 1024"):
        assert message in result.stderr
    assert result.stderr.count("12 tokens, ") == 3


def test_a_long_conversation_says_what_is_left_out():
    result = run_script(
        "chat", "--model", MODEL, "--format", "longalign", "--max-new-tokens", 12,
        input="\n".join(["falcon " * 300] * 4 + ["/quit", "never asked"]),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "its oldest 1 of 3 turns are left out; /reset starts anew" in result.stderr
    assert result.stdout.count("\n") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "./nowhere", "--prompt", "x"), "./nowhere: no such model directory; give an existing one"),
        (("--model", "no/such-model", "--prompt", "x"), "no/such-model: cannot load the tokenizer"),
        (("--model", MODEL, "--prompt", " "), "the prompt is empty"),
        (("--model", MODEL, "--prompt-file", MODEL / "model.safetensors"), "not UTF-8 text"),
        (("--model", MODEL, "--prompt", "x", "--top-p", "0"), "--top-p above 0 and at most 1"),
    ],
)
def test_mistakes_say_what_to_do(arguments, message):
    result = run_script("chat", *arguments)
    assert result.returncode in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
