"""Chat templates with habits of well-known ones, written here: what is learnt is each response and its stop token."""

import re
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from gateau.conversations import Turn, UnusableConversation, read_conversation
from gateau.errors import SettingsError
from gateau.formats import IGNORED, FormatSettings, chat_format
from gateau.templates import KNOWN_TEMPLATES, template_text
from gateau.training.previews import preview_html, preview_text

STOP = "<|im_end|>"
HEAD = "{{ '<|im_start|>' + message.role + '\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def loop(body, before="", prompt=PROMPT):
    return before + "{% for message in messages %}" + body + "{% endfor %}" + prompt


ANSWER = "message.content.split('</think>')[-1].lstrip('\n')"
TEMPLATES = {
    "chatml": loop(HEAD + "{{ message.content + '<|im_end|>\n' }}"),
    "ends without a newline": loop(HEAD + "{{ message.content + '<|im_end|>' }}"),
    "earlier reasoning dropped": loop(
        HEAD + "{% if message.role == 'assistant' and not loop.last %}{{ " + ANSWER + " }}"
        "{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>\n' }}"
    ),
    "system merged into the first user turn": loop(
        "{% if message.role == 'system' %}{% set ns.system = message.content + '\n\n' %}{% else %}" + HEAD + "{{"
        " ns.system + message.content + '<|im_end|>\n' }}{% set ns.system = '' %}{% endif %}",
        before="{% set ns = namespace(system='') %}",
    ),
    "date in the header": loop(
        HEAD + "{{ message.content + '<|im_end|>\n' }}",
        before="{{ '<|im_start|>system\nToday: ' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}",
    ),
    "marks with the stop token": KNOWN_TEMPLATES["chatml"],
    "marks before the stop token": loop(
        HEAD + "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}"
        "{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>\n' }}"
    ),
    "marks and earlier reasoning dropped": loop(
        HEAD + "{% if message.role == 'assistant' %}{% generation %}{% if loop.last %}{{ message.content }}"
        "{% else %}{{ " + ANSWER + " }}{% endif %}{{ '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    ),
    "stop token at the end of the conversation only": loop(
        "{% if message.role == 'user' %}{{ '<|im_start|>' + message.content + '<|im_start|>' }}"
        "{% elif loop.last %}{{ message.content + '<|im_end|>' }}{% else %}{{ message.content }}{% endif %}",
        prompt="",
    ),
    "refuses odd turns": loop(
        "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('odd turn') }}{% endif %}"
        + HEAD + "{{ message.content + '<|im_end|>\n' }}"
    ),
}  # fmt: skip
IN_PIECES = (
    "earlier reasoning dropped",
    "marks and earlier reasoning dropped",
    "stop token at the end of the conversation only",
)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", STOP, "<|eot_id|>")])
    return tokenizer


def chat(*contents, system=None):
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system else []) + messages


def trained(tokenizer, template, messages, **options):
    given = FormatSettings(**{"stop_token": STOP, "chat_template": template, **options})
    return chat_format("tokenizer_template", tokenizer, given).encode(read_conversation(messages))


def learnt(tokenizer, encoded):
    """Return, for each piece, the runs of learnt tokens as texts. Every label must be the token at its position."""
    places = np.flatnonzero(encoded.labels != IGNORED)
    assert (encoded.labels[places] == encoded.input_ids[places]).all()
    runs = []
    for ids, labels in zip(
        *(np.split(a, np.cumsum(encoded.pieces)[:-1]) for a in (encoded.input_ids, encoded.labels)), strict=True
    ):
        assert labels[0] == IGNORED, "the first token of a piece has no token before it"
        marked = np.flatnonzero(labels != IGNORED)
        runs.append(
            [str(tokenizer.decode(run)) for run in np.split(ids[marked], np.flatnonzero(np.diff(marked) > 1) + 1)]
        )
    return runs


REASONED = chat(
    "Falcon?", "<think>Note falcon badger otter heron lynx walrus falcon.</think>\n\notter",
    "Walrus walrus?", "<think>Heron.</think>\n\nlynx",
)  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_response_and_its_stop_token_are_learnt_and_nothing_else(tokenizer, name):
    first, second = (REASONED[place]["content"] + STOP for place in (1, 3))
    expected = [[first], [second]] if name in IN_PIECES else [[first, second]]
    assert learnt(tokenizer, trained(tokenizer, TEMPLATES[name], REASONED)) == expected
    assert learnt(tokenizer, trained(tokenizer, TEMPLATES[name], REASONED, turns="last")) == [[second]]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_piece_is_what_the_model_would_have_seen(tokenizer, name):
    given = FormatSettings(stop_token=STOP, chat_template=TEMPLATES[name])
    form = chat_format("tokenizer_template", tokenizer, given)
    encoded = form.encode(read_conversation(REASONED))
    prompts = [
        form.prompt_ids([], "Falcon?"), form.prompt_ids([Turn("Falcon?", REASONED[1]["content"])], "Walrus walrus?"),
    ]  # fmt: skip
    for prompt, piece in zip(
        prompts[-len(encoded.pieces) :], np.split(encoded.input_ids, np.cumsum(encoded.pieces)[:-1]), strict=True
    ):
        assert piece[: len(prompt)].tolist() == prompt


words = st.lists(st.sampled_from(["falcon", " otter", "\n", "\t", "é", "<think>", "</think>"]), max_size=6).map("".join)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(words, words), min_size=1, max_size=4),
    st.sampled_from(sorted(TEMPLATES)),
    st.sampled_from(["all", "last"]),
)
def test_whatever_the_texts_only_responses_are_learnt(tokenizer, turns, name, which):
    messages = chat(*[text for turn in turns for text in turn])
    try:
        conversation = read_conversation(messages)
    except UnusableConversation:
        return
    got = trained(tokenizer, TEMPLATES[name], messages, turns=which)
    expected = [turn.assistant + STOP for turn in conversation.turns if turn.assistant]
    if which == "last":
        expected = expected[-1:] if conversation.turns[-1].assistant else []
    found = [text for runs in learnt(tokenizer, got) for text in runs] if got.n_targets else []
    if len(got.pieces) == 1 and "dropped" in name:  # the template may have found nothing to drop
        assert len(found) == len(expected)
    assert found == expected


def test_a_template_without_a_system_role_refuses_the_row(tokenizer):
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + TEMPLATES["chatml"]
    )
    with pytest.raises(UnusableConversation, match="System role not supported") as raised:
        trained(tokenizer, template, chat("Falcon?", "otter", system="Be brief."))
    assert raised.value.reason == "refused_by_template"
    assert learnt(tokenizer, trained(tokenizer, template, chat("Falcon?", "otter"))) == [["otter" + STOP]]


def test_the_date_is_the_same_every_day(tokenizer):
    encoded = trained(tokenizer, TEMPLATES["date in the header"], chat("Falcon?", "otter"))
    assert "Today: 26 Jul 2024" in tokenizer.decode(encoded.input_ids)


def test_the_stop_token_must_be_the_one_that_the_template_writes(tokenizer):
    with pytest.raises(
        SettingsError, match=r"would never stop; it writes <\|im_end\|> there: set tokens.stop_token: '<\|im_end\|>'"
    ):
        trained(tokenizer, TEMPLATES["chatml"], REASONED, stop_token=None)
    with pytest.raises(SettingsError, match=r"does not end a response with <\|eot_id\|>"):
        trained(tokenizer, TEMPLATES["chatml"], REASONED, stop_token="<|eot_id|>")
    with pytest.raises(SettingsError, match="'<stop>' is not a token"):
        trained(tokenizer, TEMPLATES["chatml"], REASONED, stop_token="<stop>")
    both = TEMPLATES["ends without a newline"].replace("<|im_end|>", "<|im_end|></s>")
    assert learnt(tokenizer, trained(tokenizer, both, chat("Falcon?", "otter"))) == [["otter" + STOP]]
    assert learnt(tokenizer, trained(tokenizer, both, chat("Falcon?", "otter"), stop_token=None)) == [
        ["otter" + STOP + "</s>"]
    ]


def test_options_reach_the_template(tokenizer):
    prompt = PROMPT.replace("{% endif %}", "{% if not enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}")
    template = loop(
        HEAD + "{% if message.role == 'assistant' and not enable_thinking %}{{ '<think></think>' }}{% endif %}"
        "{{ message.content + '<|im_end|>\n' }}", prompt=prompt,
    )  # fmt: skip
    for thinking, whole in ((False, "assistant\n<think></think>otter"), (True, "assistant\notter")):
        encoded = trained(tokenizer, template, chat("Falcon?", "otter"), template_options={"enable_thinking": thinking})
        assert learnt(tokenizer, encoded) == [["otter" + STOP]]
        assert whole in tokenizer.decode(encoded.input_ids)


def test_a_response_elsewhere_than_after_the_prompt_is_refused(tokenizer):
    thinks = loop(
        HEAD + "{{ message.content + '<|im_end|>' }}", prompt=PROMPT.replace("assistant\n'", "assistant\n<think>'")
    )
    with pytest.raises(SettingsError, match="does not put the response right after the generation prompt"):
        trained(tokenizer, thinks, REASONED)
    unmarked = KNOWN_TEMPLATES["chatml"].replace("'assistant' %}{% gen", "'nobody' %}{% gen")
    with pytest.raises(SettingsError, match="marks 0 parts of the last response"):
        trained(tokenizer, unmarked, REASONED)


def test_the_last_pieces_are_kept_where_not_all_fit(tokenizer):
    encoded = trained(tokenizer, TEMPLATES["earlier reasoning dropped"], REASONED)
    assert encoded.last_pieces(encoded.n_tokens) is encoded
    for room in (encoded.n_tokens - 1, encoded.pieces[-1], 3):
        last = encoded.last_pieces(room)
        assert learnt(tokenizer, last) == [[REASONED[3]["content"] + STOP]]
        assert last.changes == ("earlier_turns_left_out",)


def test_previews_divide_the_pieces_of_a_row(tokenizer):
    encoded = trained(tokenizer, TEMPLATES["earlier reasoning dropped"], REASONED)
    row = ("r1", encoded.input_ids.tolist(), encoded.labels.tolist(), encoded.pieces)
    title, *pieces = re.split(r"\n(?:-----.*-----\n)?(?=<\|im_start\|>user\nFalcon)", preview_text([row], tokenizer))
    assert title.endswith("learnt, in 2 pieces")
    responses = [REASONED[place]["content"] + STOP for place in (1, 3)]
    assert [re.findall("⟦(.*?)⟧", piece, re.S) for piece in pieces] == [[one] for one in responses]
    assert preview_html([row], tokenizer, "t").count("<pre>") == 2
    whole = trained(tokenizer, TEMPLATES["chatml"], REASONED)
    row = ("r1", whole.input_ids.tolist(), whole.labels.tolist(), (whole.n_tokens,))
    assert "piece" not in preview_text([row], tokenizer)


def test_a_template_is_a_known_name_or_a_file(tmp_path):
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    assert template_text(str(tmp_path / "own.jinja")) == "{{ messages }}"
    assert template_text("llama3") == KNOWN_TEMPLATES["llama3"]
    with pytest.raises(SettingsError, match="neither one of chatml, llama3 nor a readable file"):
        template_text("no.jinja")


def test_a_template_that_writes_something_else_than_the_response_is_refused(tokenizer):
    parts = TEMPLATES["chatml"].replace("message.content", "(message.content | length | string)")
    with pytest.raises(SettingsError, match="does not write the response as it is"):
        trained(tokenizer, parts, REASONED)


def test_the_advice_names_the_token_after_the_answer(tokenizer):
    channels = TEMPLATES["chatml"].replace("{{ message.content", "{{ '<|eot_id|>final' + message.content")
    for wrong in (None, "<|eot_id|>"):
        with pytest.raises(SettingsError, match=r"set tokens.stop_token: '<\|im_end\|>'"):
            trained(tokenizer, channels, chat("Falcon?", "otter"), stop_token=wrong)
    assert learnt(tokenizer, trained(tokenizer, channels, chat("Falcon?", "otter"))) == [
        ["<|eot_id|>finalotter" + STOP]
    ]


def test_a_header_inside_the_marks_is_not_learnt(tokenizer):
    marked = loop(
        "{% if message.role == 'user' %}{{ message.content }}{% else %}{% generation %}"
        "{{ '<|im_start|>' + message.content + '<|im_end|>' }}{% endgeneration %}{% endif %}",
        prompt="{% if add_generation_prompt %}{{ '<|im_start|><think>' }}{% endif %}",
    )
    assert learnt(tokenizer, trained(tokenizer, marked, chat("Falcon?", "otter"))) == [["otter" + STOP]]
