"""Chat formats: the expected labels of example conversations, token by token."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateau.conversations import Turn, UnusableConversation, read_conversation
from gateau.errors import SettingsError
from gateau.formats import IGNORED, chat_format, encode_texts
from gateau.template_format import TemplatePrompts

from unit.tokenizers import prefixed_tokenizer, python_tokenizer

EOS = 1
CHATML = (
    "{% for m in messages %}<|s|>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|s|>assistant\n{% endif %}"
)


def chat(*contents, system=None):
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return ([{"role": "system", "content": system}] if system else []) + messages


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


class Encoded:
    """An encoded conversation with lists instead of arrays, for comparison."""

    def __init__(self, encoded):
        self.input_ids, self.labels = encoded.input_ids.tolist(), encoded.labels.tolist()
        self.changes, self.n_targets = encoded.changes, encoded.n_targets


def encoded(tokenizer, messages, name="longalign"):
    return Encoded(chat_format(name, tokenizer).encode(read_conversation(messages)))


def test_one_turn(tiny_tokenizer):
    got = encoded(tiny_tokenizer, chat("falcon badger", "otter."))
    prompt, response = ids(tiny_tokenizer, "[INST]falcon badger[/INST]"), ids(tiny_tokenizer, "otter.")
    assert got.input_ids == [0, *prompt, *response, EOS]
    assert got.labels == [IGNORED] * (1 + len(prompt)) + [*response, EOS]
    assert got.n_targets == len(response) + 1


def test_after_every_response_the_label_is_eos_whatever_the_input(tiny_tokenizer):
    got = encoded(tiny_tokenizer, chat("falcon", "otter", "badger", "heron"))
    parts = [ids(tiny_tokenizer, text) for text in ("[INST]falcon[/INST]", "otter", "[INST]badger[/INST]", "heron")]
    assert got.input_ids == [0, *parts[0], *parts[1], *parts[2], *parts[3], EOS]
    expected = [IGNORED] * (1 + len(parts[0])) + parts[1]
    expected += [EOS] + [IGNORED] * (len(parts[2]) - 1) + parts[3] + [EOS]
    assert got.labels == expected
    between = 1 + len(parts[0]) + len(parts[1])
    assert (got.input_ids[between], got.labels[between]) == (parts[2][0], EOS)


def test_no_eos_is_learnt_after_an_empty_response(tiny_tokenizer):
    got = encoded(tiny_tokenizer, chat("falcon", "", "badger", "heron"))
    first = ids(tiny_tokenizer, "[INST]falcon[/INST]")
    assert set(got.labels[: 1 + len(first) + 1]) == {IGNORED}
    assert got.labels[-1] == EOS
    last_empty = encoded(tiny_tokenizer, chat("falcon", "otter", "badger", ""))
    assert (last_empty.input_ids[-1], last_empty.labels[-1]) == (EOS, IGNORED)


def test_odd_turns_are_dropped_and_named(tiny_tokenizer):
    conversation = read_conversation(chat("falcon", "otter", "and now?"))
    assert conversation.changes == ("odd_turn_dropped",)
    assert (
        encoded(tiny_tokenizer, chat("falcon", "otter", "and now?")).labels
        == encoded(tiny_tokenizer, chat("falcon", "otter")).labels
    )


def test_reasoning_in_a_field_of_its_own_is_left_out_and_named():
    messages = chat("falcon", "otter")
    messages[1]["reasoning_content"] = "why"
    assert read_conversation(messages).changes == ("reasoning_field_left_out",)
    assert read_conversation(messages).turns == read_conversation(chat("falcon", "otter")).turns
    messages[1]["reasoning_content"] = ""
    assert read_conversation(messages).changes == ()


def test_zero_width_characters_leave_responses_only(tiny_tokenizer):
    got = encoded(tiny_tokenizer, chat("fal\u200bcon", "ot\u200bter\ufeff"))
    assert got.changes == ("zero_width_removed",)
    assert got.input_ids[-1 - len(ids(tiny_tokenizer, "otter")) : -1] == ids(tiny_tokenizer, "otter")
    assert (
        ids(tiny_tokenizer, "[INST]fal\u200bcon[/INST]")
        == got.input_ids[1 : 1 + len(ids(tiny_tokenizer, "[INST]fal\u200bcon[/INST]"))]
    )


@pytest.mark.parametrize("text", ["می\u200cخواهم", "क्\u200dष", "👩\u200d👩\u200d👧"])
def test_joiners_and_non_joiners_are_part_of_the_spelling(tiny_tokenizer, text):
    got = encoded(tiny_tokenizer, chat("falcon", text))
    assert got.changes == ()
    assert tiny_tokenizer.decode(got.input_ids).endswith(f"{text}</s>")


def test_system_turns_are_merged_and_named(tiny_tokenizer):
    got = encoded(tiny_tokenizer, chat("falcon", "otter", system="Be brief."))
    assert got.changes == ("system_merged",)
    assert got.input_ids == encoded(tiny_tokenizer, chat("Be brief.\n\nfalcon", "otter")).input_ids


def test_control_tokens_in_the_data_stay_text(tiny_tokenizer):
    got = encoded(tiny_tokenizer, chat("a </s> <s>", "<pad> </s> b"))
    assert got.input_ids.count(EOS) == 1
    assert got.input_ids[0] == 0
    assert not {0, 2} & set(got.input_ids[1:])


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (chat("falcon", ""), "no_target"),
        (chat("falcon", "\u200b \ufeff"), "no_target"),
        (chat("falcon"), "no_target"),
        ([], "no_target"),
        ([{"role": "assistant", "content": "x"}], "roles_out_of_order"),
        ([*chat("a", "b"), {"role": "system", "content": "x"}], "roles_out_of_order"),
        ([{"role": "user", "content": "a"}] * 2, "roles_out_of_order"),
    ],
)
def test_unusable_rows_say_why(messages, reason):
    with pytest.raises(UnusableConversation) as raised:
        read_conversation(messages)
    assert raised.value.reason == reason
    assert raised.value.advice


@pytest.fixture
def template_tokenizer(tiny_tokenizer):
    from copy import deepcopy

    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.chat_template = CHATML
    return tokenizer


def test_a_template_is_learnt_from_response_to_stop_token(template_tokenizer):
    messages = chat("falcon", "otter heron", "badger", "lynx", system="Be brief.")
    got = encoded(template_tokenizer, messages, "tokenizer_template")
    learnt = [label for label in got.labels if label != IGNORED]
    assert learnt == [*ids(template_tokenizer, "otter heron"), EOS, *ids(template_tokenizer, "lynx"), EOS]
    assert all(label in (IGNORED, token) for token, label in zip(got.input_ids, got.labels, strict=True))
    rendered = template_tokenizer.apply_chat_template(
        chat("falcon", "otter heron", "badger", "lynx", system="Be brief."), tokenize=False
    )
    assert got.input_ids == template_tokenizer(rendered, add_special_tokens=False).input_ids


def test_templates_that_teach_no_stop_are_refused(template_tokenizer):
    template_tokenizer.chat_template = CHATML.replace("</s>", "|end|")
    with pytest.raises(SettingsError, match="would never stop"):
        chat_format("tokenizer_template", template_tokenizer)
    template_tokenizer.chat_template = None
    with pytest.raises(SettingsError, match="no chat template"):
        chat_format("tokenizer_template", template_tokenizer)


def test_a_tokenizer_written_in_python_is_refused_where_places_of_tokens_are_needed():
    tokenizer = python_tokenizer(CHATML)
    with pytest.raises(SettingsError, match=r"set tokens\.format: longalign and tokens\.over_long: drop"):
        chat_format("tokenizer_template", tokenizer)
    with pytest.raises(SettingsError, match="choose --format longalign or plain"):
        TemplatePrompts(tokenizer)
    assert encoded(tokenizer, chat("falcon", "otter")).input_ids[-6:-1] == ids(tokenizer, "otter")


def test_a_template_row_with_control_tokens_in_its_text_is_rejected(template_tokenizer):
    from tokenizers import AddedToken

    template_tokenizer.add_tokens([AddedToken("<|role|>", special=True)])
    with pytest.raises(UnusableConversation, match="control_token_in_text"):
        encoded(template_tokenizer, chat("a <|role|> b", "c"), "tokenizer_template")
    with pytest.raises(UnusableConversation, match="control_token_in_text"):
        encoded(template_tokenizer, chat("a </s> b", "c"), "tokenizer_template")


@pytest.mark.parametrize("name", ["longalign", "tokenizer_template"])
def test_a_prompt_is_what_training_puts_before_the_answer(template_tokenizer, name):
    conversation = chat("falcon", "otter", "badger heron", "lynx", system="Be brief.")
    got = encoded(template_tokenizer, conversation, name)
    prompt = chat_format(name, template_tokenizer).prompt_ids([Turn("falcon", "otter")], "badger heron", "Be brief.")
    answer = ids(template_tokenizer, "lynx")
    assert got.input_ids[: len(prompt) + len(answer)] == prompt + answer


def test_the_exported_template_gives_one_turn_the_ids_of_training(tiny_tokenizer):
    from copy import deepcopy

    tokenizer = deepcopy(tiny_tokenizer)
    trained = chat_format("longalign", tokenizer)
    tokenizer.chat_template = trained.chat_template()
    messages = chat("falcon", system="Be brief.")
    rendered = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert rendered == trained.prompt_ids([], "falcon", "Be brief.")
    whole = tokenizer.apply_chat_template(chat("falcon", "otter"), tokenize=False)
    assert whole == "<s>[INST]falcon[/INST]otter</s>"


def test_the_tokenizers_own_prefix_starts_what_is_trained_and_exported():
    tokenizer, prefix = prefixed_tokenizer()
    trained = chat_format("longalign", tokenizer)
    assert encoded(tokenizer, chat("falcon", "otter")).input_ids[:2] == prefix
    tokenizer.chat_template = trained.chat_template()
    rendered = tokenizer.apply_chat_template(chat("falcon"), tokenize=True)["input_ids"]
    assert rendered == trained.prompt_ids([], "falcon")
    assert rendered[:2] == prefix


def test_a_batch_gives_what_each_row_gives_alone(template_tokenizer):
    rows = [read_conversation(chat(*texts)) for texts in (("a", "b"), ("falcon", "", "c", "d"), ("x </s>", "y"))]
    for name in ("longalign", "tokenizer_template"):
        encoder = chat_format(name, template_tokenizer)
        for row, together in zip(rows, encoder.encode_batch(rows), strict=True):
            if isinstance(together, UnusableConversation):
                with pytest.raises(UnusableConversation):
                    encoder.encode(row)
            else:
                alone = encoder.encode(row)
                assert together.input_ids.tolist() == alone.input_ids.tolist()
                assert together.labels.tolist() == alone.labels.tolist()


def test_the_direct_way_to_the_tokenizer_gives_the_same_ids(tiny_tokenizer):
    texts = ["", "a </s> <s> b", "Zwölf 长文本 falcon", " x\n\n"]
    assert encode_texts(tiny_tokenizer, texts) == [ids(tiny_tokenizer, text) for text in texts]
    assert tiny_tokenizer("a </s>").input_ids[-1] == EOS, "the tokenizer is left as it was"


words = st.text("falcon otter \n[/INST]é\u200b", min_size=0, max_size=12)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.sampled_from(["longalign", "tokenizer_template"]))
def test_every_target_starts_where_its_response_starts_and_ends_with_a_learnt_stop(template_tokenizer, turns, name):
    messages = chat(*[text for turn in turns for text in turn])
    try:
        conversation = read_conversation(messages)
        got = Encoded(chat_format(name, template_tokenizer).encode(conversation))
    except UnusableConversation:
        return
    learnt = [label for label in got.labels if label != IGNORED]
    expected = [ids(template_tokenizer, turn.assistant) for turn in conversation.turns if turn.assistant]
    if name == "longalign":
        assert learnt == [token for response in expected for token in [*response, EOS]]
        place = 1
        for turn in conversation.turns:
            place += len(ids(template_tokenizer, f"[INST]{turn.user}[/INST]"))
            response = ids(template_tokenizer, turn.assistant)
            assert got.labels[place : place + len(response)] == got.input_ids[place : place + len(response)] == response
            place += len(response)
    else:
        stops = [number for number, token in enumerate(learnt) if token == EOS]
        assert len(stops) == len(expected)
        assert stops[-1] == len(learnt) - 1
        texts = [turn.assistant for turn in conversation.turns if turn.assistant]
        assert template_tokenizer.decode(learnt).split("</s>")[:-1] == texts
