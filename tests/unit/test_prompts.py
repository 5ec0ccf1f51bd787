"""Prompts as token ids: the frame, the boundaries of its parts, and truncation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateau.errors import SettingsError
from gateau.prompts import DEFAULT_TEMPLATE, EncodedSample, PromptEncoder, PromptTemplate, prefix_ids

from unit.tokenizers import prefixed_tokenizer, python_tokenizer


def test_parts_are_encoded_separately_and_concatenated(tiny_tokenizer):
    sample = PromptEncoder(tiny_tokenizer, DEFAULT_TEMPLATE).encode(["a context"], ["a question"], ["an answer"])[0]

    def ids(text):
        return tiny_tokenizer(text, add_special_tokens=False).input_ids

    assert sample.head == [0, *ids("### Input:")]
    assert sample.context == ids("a context")
    assert sample.question == ids("\n\n ### Instruction: a question\n\n ### Response: ")
    assert sample.response == ids("an answer")
    assert sample.sequence() == sample.head + sample.context + sample.question + sample.response
    assert sample.sequence([]) == sample.head + sample.question + sample.response


def test_text_that_looks_like_a_control_token_is_text(tiny_tokenizer):
    encoder = PromptEncoder(tiny_tokenizer, DEFAULT_TEMPLATE)
    sample = encoder.encode(["x </s> <pad>"], ["<s>"], ["</s>"])[0]
    assert not {0, 1, 2} & set(sample.context + sample.question + sample.response)
    assert tiny_tokenizer.decode(sample.response) == "</s>"


def test_braces_in_the_data_are_harmless(tiny_tokenizer):
    sample = PromptEncoder(tiny_tokenizer, DEFAULT_TEMPLATE).encode(["{response}"], ["{context}"], ["{x}"])[0]
    assert tiny_tokenizer.decode(sample.question) == "\n\n ### Instruction: {context}\n\n ### Response: "
    assert tiny_tokenizer.decode(sample.response) == "{x}"


@pytest.mark.parametrize(
    "template",
    [
        "{context}{instruction}",
        "{instruction}{context}{response}",
        "{context}{instruction}{response}!",
        "{context}" * 2,
    ],
)
def test_bad_templates_are_refused(template):
    with pytest.raises(SettingsError, match=r"scoring\.prompt"):
        PromptTemplate.parse(template)


def test_a_tokenizer_without_bos_starts_nothing(tiny_tokenizer):
    from copy import deepcopy

    from tokenizers import processors

    plain = deepcopy(tiny_tokenizer)
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    assert prefix_ids(tiny_tokenizer) == [0]
    assert prefix_ids(plain) == prefix_ids(python_tokenizer()) == []  # the latter puts EOS behind a text
    encoder = PromptEncoder(plain, DEFAULT_TEMPLATE)
    assert encoder.encode(["c"], ["i"], ["r"])[0].head[0] != 0
    assert encoder.start() == [1]  # the document separator replaces BOS


def test_tokens_of_the_tokenizers_own_start_every_text():
    tokenizer, prefix = prefixed_tokenizer()
    assert prefix_ids(tokenizer) == prefix
    encoder = PromptEncoder(tokenizer, DEFAULT_TEMPLATE)
    assert encoder.encode(["c"], ["i"], ["r"])[0].head == tokenizer("### Input:").input_ids
    assert encoder.start() == prefix


counts = st.integers(0, 40)


@settings(deadline=None)
@given(counts, counts, counts, st.integers(1, 40), st.integers(1, 160))
def test_truncation_cuts_only_context_and_only_from_the_left(head, context, question, response, max_length):
    sample = EncodedSample([1] * head, list(range(100, 100 + context)), [2] * question, [3] * response)
    if not sample.fits(max_length):
        with pytest.raises(ValueError, match="do not fit"):
            sample.truncated(max_length)
        return
    cut = sample.truncated(max_length)
    assert (cut.head, cut.question, cut.response) == (sample.head, sample.question, sample.response)
    assert cut.context == sample.context[cut.truncated_tokens :]
    assert cut.n_tokens == min(sample.n_tokens, max_length)
    assert cut.truncated(max_length) == cut


@settings(deadline=None)
@given(counts, st.integers(1, 50))
def test_segments_are_the_context_without_padding(n_context, length):
    sample = EncodedSample([0], list(range(n_context)), [1], [2])
    segments = sample.segments(length)
    assert [token for segment in segments for token in segment] == sample.context
    assert all(len(segment) == length for segment in segments[:-1])
    assert all(segments)
