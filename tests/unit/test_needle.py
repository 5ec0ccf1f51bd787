"""Needle in a haystack: budgets to the token, needles whole and where they should be, scores that say how sure."""

import contextlib
import json
import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gateau.errors import DataError, ModelError, SettingsError
from gateau.evaluation.benchmarks.needle.prompts import needle_prompts, read_haystack, sentence_ends
from gateau.evaluation.benchmarks.needle.scores import NeedleMean, needle_cells, needle_markdown, plot_needle
from gateau.evaluation.benchmarks.needle.settings import (
    DEPTHS,
    KEYS,
    NEEDLE,
    NeedleSettings,
    check_keys,
    contains_keys,
    needle_lengths,
)
from gateau.formats import encode_texts

from helpers import run_script, write_jsonl

WORDS = "the a river stone heron otter walks sees under near old 3.5 bright quiet and then , it".split()
CHINESE = "春天的河水很清，白鹭站在石头上。孩子们跑过小桥！谁在树下唱歌？老人说：“今晚会下雨。”风停了。"


def english(n_sentences, seed=0):
    draw = random.Random(seed)
    sentences = [" ".join(draw.choices(WORDS, k=draw.randint(4, 14))) + draw.choice(".!?") for _ in range(n_sentences)]
    return "".join(sentence + draw.choice([" ", " ", "\n\n"]) for sentence in sentences)


def word_tokenizer(unknown=""):
    """Whole words and single punctuation marks; decoding puts a space between all of them."""
    text = " ".join(
        [*WORDS, NEEDLE, NeedleSettings().system, "Read the document and answer: What is the best thing ? !"]
    )
    splitter = pre_tokenizers.Whitespace()
    words = sorted({piece for piece, _ in splitter.pre_tokenize_str(text)} - {unknown})
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def byte_tokenizer():
    """One token per UTF-8 byte."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(sorted(alphabet))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture(scope="module")
def bytes_tokenizer():
    return byte_tokenizer()


@pytest.fixture(params=["tiny_pair", "words", "bytes"], scope="module")
def tokenizer(request, tiny_tokenizer):
    return {"tiny_pair": lambda: tiny_tokenizer, "words": word_tokenizer, "bytes": byte_tokenizer}[request.param]()


def n_tokens(tokenizer, text):
    return len(encode_texts(tokenizer, [text])[0])


def letters(text):
    return "".join(text.split())


def test_the_default_grid_is_the_papers():
    assert needle_lengths() == (1000, 7556, 14111, 20667, 27222, 33778, 40333, 46889, 53444, 60000)
    assert NeedleSettings().depths == DEPTHS
    assert len(DEPTHS) == 10
    assert needle_lengths(500, 900, 1) == (500,)


def test_every_cell_fills_its_budget_and_holds_the_needle_where_it_should(tokenizer):
    """The budget is the context's: haystack and needle, without system line, question and chat format."""
    chosen = NeedleSettings(lengths=(1500, 4000), reserve=200)
    haystack = english(60)
    prompts = list(needle_prompts(chosen, tokenizer, [haystack]))
    assert [(p.length, p.depth) for p in prompts] == [(length, depth) for length in (1500, 4000) for depth in DEPTHS]
    assert len({p.id for p in prompts}) == len({p.context for p in prompts}) == 20
    for prompt in prompts:
        assert prompt.n_tokens == n_tokens(tokenizer, prompt.context) == prompt.length - 200
        assert prompt.context.count(NEEDLE) == 1
        assert letters(NEEDLE) in letters(tokenizer.decode(encode_texts(tokenizer, [prompt.context])[0]))
        system, user = prompt.messages()
        assert system == {"role": "system", "content": chosen.system}
        assert user["content"] == prompt.context + f"\n\nRead the document and answer: {chosen.question}"
        whole = n_tokens(tokenizer, user["content"]) + n_tokens(tokenizer, system["content"])
        assert whole <= prompt.length


def test_byte_and_subword_decoding_gives_back_the_exact_needle(tiny_tokenizer, bytes_tokenizer):
    for tokenizer in (tiny_tokenizer, bytes_tokenizer):
        for prompt in needle_prompts(NeedleSettings(lengths=(2000,)), tokenizer, [english(60)]):
            assert NEEDLE in tokenizer.decode(encode_texts(tokenizer, [prompt.context])[0])


def test_the_actual_depth_is_within_the_sentence_before_the_nominal_one(tokenizer):
    for prompt in needle_prompts(NeedleSettings(lengths=(1500, 4000)), tokenizer, [english(60, seed=3)]):
        before, after = prompt.context.split(f" {NEEDLE}")
        assert before.endswith((".", "!", "?"))
        total = len(before) + len(after)
        assert prompt.actual_depth == pytest.approx(100 * len(before) / total)
        next_end = min([end for end in sentence_ends(before + after) if end > len(before)], default=total)
        assert prompt.actual_depth <= prompt.depth < 100 * next_end / total + 1e-9


def test_a_short_haystack_is_repeated_and_a_long_one_is_cut(tokenizer):
    short = english(8)
    (prompt,) = needle_prompts(NeedleSettings(lengths=(3000,), depths=(50,)), tokenizer, [short])
    rest = prompt.context.replace(f" {NEEDLE}", "")
    assert "\n\n".join([short] * 40).startswith(rest)
    assert len(rest) > 2 * len(short)
    texts = [english(300), "Never reached."]
    (prompt,) = needle_prompts(NeedleSettings(lengths=(1000,), depths=(50,)), tokenizer, texts)
    assert texts[0].startswith(prompt.context.replace(f" {NEEDLE}", ""))


def test_chinese_sentences_end_without_a_space(tiny_tokenizer, bytes_tokenizer):
    assert [CHINESE[:end][-2:] for end in sentence_ends(CHINESE)] == ["上。", "桥！", "歌？", "。”", "了。"]
    for tokenizer in (tiny_tokenizer, bytes_tokenizer):
        prompts = list(needle_prompts(NeedleSettings(lengths=(3000,)), tokenizer, [CHINESE]))
        for prompt in prompts:
            before, after = prompt.context.split(f" {NEEDLE}")
            assert before.endswith(("。", "！", "？", "。”"))
            assert 0 <= prompt.depth - prompt.actual_depth < 100 * 19 / len(before + after)
            assert 2800 - 3 < prompt.n_tokens == n_tokens(tokenizer, prompt.context) <= 2800
            assert tokenizer.decode(encode_texts(tokenizer, [prompt.context])[0]) == prompt.context


def test_numbers_and_running_marks_do_not_end_sentences_but_abbreviations_do():
    text = 'It costs 3.5 or v1.2.3? Yes... "Really?" (No.) See a.b, e.g. this\nlast'
    assert [text[:end].split()[-1] for end in sentence_ends(text)] == [
        "v1.2.3?",
        "Yes...",
        '"Really?"',
        "(No.)",
        "e.g.",
    ]


def test_two_depths_in_one_sentence_are_refused(tiny_tokenizer):
    with pytest.raises(DataError, match=r"at 1000 tokens the depths 10 % and 19 % give the same prompt"):
        list(needle_prompts(NeedleSettings(lengths=(1000,)), tiny_tokenizer, ["no full stop at all " * 30]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (10, 10)}, "none of them twice"),
        ({"depths": (10, 101)}, "percents from 0 to 100"),
        ({"lengths": ()}, "one or more values"),
        ({"lengths": (200,)}, "less than the shortest length"),
    ],
)
def test_settings_that_test_nothing_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        NeedleSettings(**changes)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((), "one or more phrases"),
        (("eat a sandwich", "a picnic"), "'a picnic' is not in the needle"),
        (("San Francisco",), "the question contains every key"),
    ],
)
def test_keys_that_test_nothing_are_refused(keys, message):
    with pytest.raises(SettingsError, match=message):
        check_keys(NeedleSettings(), keys)


def test_what_has_no_room_or_is_spelt_wrong_is_refused(tiny_tokenizer):
    with pytest.raises(SettingsError, match=r"more than the reserve of 5; raise the reserve"):
        list(needle_prompts(NeedleSettings(reserve=5), tiny_tokenizer, [english(9)]))
    with pytest.raises(SettingsError, match="leave no haystack"):
        list(needle_prompts(NeedleSettings(lengths=(230,)), tiny_tokenizer, [english(9)]))
    with pytest.raises(ModelError, match="a needle that it can spell"):
        list(needle_prompts(NeedleSettings(), word_tokenizer(unknown="sandwich"), [english(9)]))
    with pytest.raises(DataError, match="holds the needle"):
        list(needle_prompts(NeedleSettings(), tiny_tokenizer, [english(9) + NEEDLE]))
    with pytest.raises(DataError, match="are empty"):
        list(needle_prompts(NeedleSettings(), tiny_tokenizer, [" \n"]))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_budget_needle_and_depth_hold_for_any_text_length_and_depths(data, tiny_tokenizer, bytes_tokenizer):
    tokenizer = data.draw(st.sampled_from([tiny_tokenizer, bytes_tokenizer]))
    pieces = st.sampled_from(["word ", "été ", "河水", "🦦", "3.5 ", "end. ", "why? ", "停了。", "\n", "e.g. "])
    text = "".join(data.draw(st.lists(pieces, min_size=1, max_size=60))) + "The last. "
    length = data.draw(st.integers(400, 1500))
    depths = data.draw(st.lists(st.floats(0, 100), min_size=1, max_size=3, unique=True))
    chosen = NeedleSettings(lengths=(length,), depths=depths)
    prompts = []
    with contextlib.suppress(DataError):  # two depths may fall into one sentence; those before them still count
        prompts.extend(needle_prompts(chosen, tokenizer, [text]))
    for prompt in prompts:
        assert prompt.n_tokens == n_tokens(tokenizer, prompt.context)
        assert length - 200 - 8 < prompt.n_tokens <= length - 200  # an emoji is 4 tokens, and parts others
        assert prompt.context.count(NEEDLE) == 1
        assert 0 <= prompt.actual_depth <= prompt.depth + 1e-9
    by_depth = sorted(prompts, key=lambda prompt: prompt.depth)
    assert all(a.actual_depth < b.actual_depth and a.context != b.context for a, b in pairwise(by_depth))


def test_texts_are_read_in_the_order_of_their_names(tmp_path):
    for name in ("b.txt", "a.txt", "B.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "notes.md").write_text("not this")
    assert read_haystack(tmp_path) == ["B.txt", "a.txt", "b.txt"]
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"c\.txt: not UTF-8"):
        read_haystack(tmp_path)
    with pytest.raises(DataError, match=r"no \*\.txt there"):
        read_haystack(tmp_path / "nowhere")


def test_all_key_phrases_must_occur():
    assert contains_keys("You should EAT a\nsandwich in dolores park!", KEYS)
    assert not contains_keys("Eat a sandwich in the park.", KEYS)
    assert not contains_keys("", KEYS)
    assert contains_keys("Die STRASSE", ["straße"])
    with pytest.raises(SettingsError):
        contains_keys("anything", ["a sandwich", " "])


def test_cells_count_their_answers_and_gaps_stay_gaps(tmp_path):
    cells = needle_cells([(2000, 50, 1.0), (1000, 50, 0.0), (1000, 50, 1.0), (1000, 10, 1.0)])
    assert [(c.length, c.depth, c.n, c.mean) for c in cells] == [
        (1000, 10, 1, 1.0), (1000, 50, 2, 0.5), (2000, 10, 0, None), (2000, 50, 1, 1.0),
    ]  # fmt: skip
    overall = NeedleMean(0.75, 4, 1, None, None)
    lines = re.sub(" +", " ", needle_markdown(cells, overall)).splitlines()
    assert lines[2:4] == ["| 10 | 1.00 (1) | – |", "| 50 | 0.50 (2) | 1.00 (1) |"]
    assert lines[-1].endswith("Overall: mean 0.750, n = 4, one needle: positions only.")
    plot_needle(cells, overall, "a model", tmp_path / "a.png")
    plot_needle(cells, overall, "a model", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert imread(tmp_path / "a.png").std() > 0.05


def answer(length, depth, pred, **fields):
    return {"length": length, "depth": depth, "pred": pred, **fields}


def test_predictions_are_scored_on_their_own(tmp_path):
    right = "Eat a sandwich and sit in Dolores Park."
    rows = [answer(1000, 10, right), answer(1000, 90.5, "No idea."), answer(2000, 10, right, id=7)]
    predictions = write_jsonl(tmp_path / "predictions.jsonl", rows)
    outputs = {name: tmp_path / "out" / name for name in ("scores.json", "table.md", "map.png")}
    result = run_script(
        "score_needle", "--predictions", predictions, "--output", outputs["scores.json"],
        "--table", outputs["table.md"], "--heatmap", outputs["map.png"],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "no answer for 1 of 4 cells: 2000 at 90.5 %" in result.stderr
    scores = json.loads(outputs["scores.json"].read_text())
    assert scores["needles"] == [{"needle": None, "keys": list(KEYS)}]
    assert [(one["id"], one["score"]) for one in scores["answers"]] == [
        ("needle-1000-10", 1.0), ("needle-1000-90.5", 0.0), ("7", 1.0),
    ]  # fmt: skip
    assert scores["overall"]["mean"] == pytest.approx(2 / 3)
    assert scores["measures"][0]["score"] == pytest.approx(200 / 3)
    assert {(one["low"], one["high"], one["note"]) for one in scores["measures"]} == {
        (None, None, "one needle: positions only")
    }
    assert "| 10 | 1.00 (1) | 1.00 (1) |" in re.sub(" +", " ", outputs["table.md"].read_text())
    assert imread(outputs["map.png"]).ndim == 3
    other = run_script("score_needle", "--predictions", predictions, "--key", "idea", "--output", tmp_path / "s.json")
    assert other.returncode == 0, other.stderr
    assert json.loads((tmp_path / "s.json").read_text())["overall"]["mean"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        (b"\xff", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        (answer("1000", 10, "x"), "line 2: length must be a whole number"),
        (answer(1000, None, "x"), "line 2: depth must be a number of percent"),
        ('{"length": 1000, "depth": NaN, "pred": "x"}', "line 2: depth must be a number of percent"),
        (answer(1000, 10, None), "line 2: pred must be a text"),
        (answer(1000, 10, "x", id=None), "line 2: id must be text or a whole number"),
        (answer(500, 50, "x"), "line 2: 'needle-500-50' is also in line 1"),
        (answer(500, 50.0, "x"), "line 2: 'needle-500-50' is also in line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    predictions = write_jsonl(tmp_path / "p.jsonl", [answer(500, 50, "x"), line])
    result = run_script("score_needle", "--predictions", predictions, "--output", tmp_path / "scores.json")
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "scores.json").exists()


@pytest.mark.parametrize(("content", "message"), [(b"", "no rows"), (None, "no such file")])
def test_missing_predictions_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "p.jsonl").write_bytes(content)
    result = run_script("score_needle", "--predictions", tmp_path / "p.jsonl", "--output", tmp_path / "scores.json")
    assert result.returncode == 1
    assert message in result.stderr
