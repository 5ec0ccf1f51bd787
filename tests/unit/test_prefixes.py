"""The common beginning of many prompts is read once, and the answers are those of the naive loop."""

from types import SimpleNamespace

import pytest
import torch

from gateau.errors import SettingsError
from gateau.evaluation.answering import prefixes
from gateau.evaluation.answering.generation import Generator, plan_batches
from gateau.evaluation.answering.prefixes import can_share, encoded, families, shared_length
from gateau.evaluation.answering.questions import Question

from unit.models import ARCHITECTURES, COMMON, tiny_model

EAGER_ONLY = ("gemma2_softcap", "gpt_oss")
CANNOT_SHARE = ("gemma4_images", "gemma4_shared", "llama4", "qwen3_next", "phi3_longrope")


class IdTokenizer:
    """A tokenizer whose texts are ids: "3 4 5"."""

    pad_token_id, eos_token_id = COMMON["pad_token_id"], COMMON["eos_token_id"]
    all_special_tokens, added_tokens_decoder, extra_special_tokens = (), {}, {}

    def __call__(self, text, **_):
        return SimpleNamespace(input_ids=[10])  # of a newline

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


class IdPrompter:
    """Prompts that are a question's own ids."""

    tokenizer = IdTokenizer()

    def prompt(self, question, said=()):
        text = " ".join(
            [
                question.users[0],
                *(f"{answer} {user}" for (_, answer), user in zip(said, question.users[1:], strict=False)),
            ]
        )
        return SimpleNamespace(
            ids=list(map(int, text.split())), user=text, max_new_tokens=question.max_new_tokens, truncated_tokens=0,
            control_tokens=0,
        )  # fmt: skip

    def max_new_tokens(self, question):
        return question.max_new_tokens

    def reasoning(self, question):
        return None


def ids(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, COMMON["vocab_size"], (count,), generator=generator).tolist()


def ask(tokens, item, *more, **options):
    return Question("b", item, (" ".join(map(str, tokens)), *more), **{"max_new_tokens": 6, **options})


def about_documents(length=180, sizes=(3, 40, 9)):
    """Questions of several lengths about two documents, in mixed order, and one of its own."""
    pairs = [(document, size) for size in sizes for document in range(2)]
    asked = [ask(ids(length, document) + ids(size, 100 + size), f"set/{document}-{size}") for document, size in pairs]
    return [*asked, ask(ids(length, 50), "set/other")]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(prefixes, "SHORTEST", 100)


def answers(model, questions, batch_tokens, *, share):
    generator = Generator(model, IdPrompter(), batch_tokens, share=share)
    batches = plan_batches(questions, IdPrompter(), batch_tokens, share=share and can_share(model.config))
    found = {}
    for batch in batches:
        found.update(zip(batch, generator.answer([questions[n] for n in batch]), strict=True))
    return [found[n] for n in range(len(questions))]


@pytest.mark.parametrize("architecture", ["llama", "mistral_window", "gemma2_softcap", "gemma3_images", "gpt_oss"])
def test_shared_beginnings_do_not_change_answers(architecture):
    """The documents are longer than the sliding windows."""
    model = tiny_model(architecture, "eager" if architecture in EAGER_ONLY else "sdpa")
    assert can_share(model.config)
    questions = about_documents()
    naive = [answers(model, [question], 1, share=False)[0] for question in questions]
    for batch_tokens in (1, 1 << 20):  # each row alone, all rows at once
        assert answers(model, questions, batch_tokens, share=True) == naive


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_which_caches_can_be_copied(architecture):
    model = tiny_model(architecture, "eager")
    assert can_share(model.config) == (architecture not in CANNOT_SHARE)


def test_a_model_whose_cache_cannot_be_copied_reads_each_prompt(monkeypatch):
    model = tiny_model("qwen3_next", "sdpa")
    monkeypatch.setattr("gateau.evaluation.answering.generation.Prefix", None)  # calling it would fail
    questions = about_documents()[:3:2]
    plain = [answers(model, [question], 1, share=False)[0] for question in questions]
    assert answers(model, questions, 1, share=True) == plain


def test_a_shared_beginning_is_read_once(monkeypatch):
    model = tiny_model("llama", "sdpa")
    read, forward = [], model.base_model.forward

    def counted(*arguments, **options):
        read.append((arguments[0] if arguments else options["input_ids"]).shape)
        return forward(*arguments, **options)

    monkeypatch.setattr(model.base_model, "forward", counted)
    questions = [ask(ids(180, 0) + ids(size, size), f"{size}", max_new_tokens=1) for size in (4, 9, 30)]
    answers(model, questions, 1 << 20, share=True)
    assert read == [(1, 180), (3, 30)]
    read.clear()
    answers(model, questions, 2 * 211, share=True)
    assert read == [(1, 180), (2, 30), (1, 4)]


def test_a_second_turn_shares_the_beginning_too():
    model = tiny_model("llama", "sdpa")
    questions = [ask(ids(180, 0) + ids(size, size), f"{size}", "7 8 9", max_new_tokens=5) for size in (4, 9)]
    naive = [answers(model, [question], 1, share=False)[0] for question in questions]
    assert answers(model, questions, 1 << 20, share=True) == naive


class Scarce:
    """Stands in for decoding on a device whose memory holds so many prompts at once."""

    def __init__(self, monkeypatch, most, error):
        self.tried, decode = [], Generator._decode

        def decoded(generator, prompts, prefix, *more):
            self.tried.append((len(prompts), prefix is not None))
            if len(prompts) + 0.5 * (prefix is not None) > most:
                raise error
            return decode(generator, prompts, prefix, *more)

        monkeypatch.setattr(Generator, "_decode", decoded)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")],
)  # fmt: skip
def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch, error):
    model = tiny_model("llama", "sdpa")
    questions = [ask(ids(60, size), f"{size}") for size in range(8)]
    expected = answers(model, questions, 1 << 20, share=False)
    scarce = Scarce(monkeypatch, 2, error)
    assert answers(model, questions, 1 << 20, share=False) == expected
    assert scarce.tried == [(size, False) for size in (8, 4, 2, 2, 2, 2)]


def test_out_of_memory_gives_up_a_shared_beginning_before_it_gives_up(monkeypatch):
    model = tiny_model("llama", "sdpa")
    questions = about_documents()[:5:2]
    expected = answers(model, questions, 1 << 20, share=True)
    error = torch.OutOfMemoryError("CUDA out of memory.")
    scarce = Scarce(monkeypatch, 1, error)
    assert answers(model, questions, 1 << 20, share=True) == expected
    assert scarce.tried == [(3, True), (1, True), (1, False), (1, False), (1, False)]
    Scarce(monkeypatch, 0, error)
    with pytest.raises(SettingsError, match=r"a prompt of 220 tokens exceeds .* lower evaluate\.generate\.max_length"):
        answers(model, questions, 1 << 20, share=True)
    Scarce(monkeypatch, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        answers(model, questions, 1 << 20, share=True)


def test_families_share_half_of_their_longest_prompt_and_have_a_largest_size():
    def found(*prompts):
        return families({number: encoded(ids) for number, ids in enumerate(prompts)})

    document, other = ids(300, 0), ids(300, 1)
    assert found([*document, 3], other, [*document, 4, 5]) == [[0, 2]]
    assert found([*document[:99], 3], [*document[:99], 4]) == []
    assert found([*document, 3], document + other + [4, 5]) == [], "less than half of the second prompt"
    assert found(document, document, document + other[:200]) == [[0, 1, 2]]
    many = found(*([*document, 3, number] for number in range(40)))
    assert sorted(map(len, many)) == [8, 16, 16]
    assert sorted(number for family in many for number in family) == list(range(40))
    assert shared_length([document, document]) == 299, "one token is left for the model to read"
    assert shared_length([[*document, 3], [*document, 4]]) == 300
    assert shared_length([document]) == 0


def test_plans_keep_questions_about_a_document_together():
    questions = about_documents()
    questions.append(ask([*ids(180, 0), 5], "set/drawn", temperature=0.7))
    questions.append(ask([*ids(180, 0), 5], "other/1"))
    for batch_tokens in (1, 1 << 20):
        batches = plan_batches(questions, IdPrompter(), batch_tokens, share=True)
        assert sorted(map(sorted, batches)) == [[0, 2, 4], [1, 3, 5], [6], [7], [8]]
