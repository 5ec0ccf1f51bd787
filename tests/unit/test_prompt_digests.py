"""Every prompt of the benchmarks' small sets is the one that was asked before needles could be several.

The digests were recorded at commit b9d2614. Stored answers are found by them: another digest would ask a model again.
"""

import copy
import hashlib

import pytest

from gateau.config_files import with_defaults
from gateau.evaluation import benchmarks
from gateau.evaluation.answering.prompting import Prompter
from gateau.evaluation.configured import Evaluation
from gateau.experiments import Configuration

from helpers import ROOT

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NOTE = {
    "lengths": [250, 500, 750, 1000], "depths": [10, 30, 50, 70],
    "needle": "Note falcon balor detek mosar rigas tunut.", "question": "What does note falcon say?",
    "keys": ["balor detek mosar"], "system": "", "prefix": "", "reserve": 60, "max_new_tokens": 24,
}  # fmt: skip
RECORDED = {
    "longbench": (105, "d4275029b8feeac4", "543a9593f684e3ca"),
    "longbench, fixed": (24, "a57b9505e002f5a7", "d6d23ae14310c65b"),
    "longbench_chat, gateau": (12, "5c1274637965c012", "8152b9721eaafe90"),
    "longbench_chat, longalign": (12, "ba04e04d72f543b7", "76b452a2a95c89d5"),
    "needle": (20, "ebc0aa001291c616", "7fdf448fe9e21c9b"),
    "needle, a note": (16, "fe8aa6c74f4c658f", "931ca94172fec810"),
    "mt_bench": (8, "0bf7f1e437804a26", "288f90c1c112c614"),
    "recall": (20, "a04f596f0c28be7a", "5ff7f25bb847b9cc"),
}


def asked(benchmark, options, tokenizer):
    config = with_defaults({"evaluate": {"benchmarks": [benchmark], benchmark: options}})
    chosen = Evaluation(Configuration(config)).question_options(benchmark)
    folder = ROOT / "workflow/resources/small_benchmarks" / benchmark
    return benchmarks.load(benchmark).ask(folder, chosen, tokenizer)


def digests(questions, tokenizer):
    """Return the number of the questions, the digest of all their digests, and the digest of all prompts' token ids."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    whole, ids = hashlib.sha256(), hashlib.sha256()
    for question in questions:
        whole.update(question.digest.encode())
    for name in ("longalign", "tokenizer_template", "plain"):
        prompter = Prompter(tokenizer, name, 64000, None)
        for question in questions:
            turns = []
            for _ in question.users:
                prompt = prompter.prompt(question, turns)
                ids.update(repr(prompt.ids).encode())
                turns.append((prompt.user, "An answer."))
    return len(questions), whole.hexdigest()[:16], ids.hexdigest()[:16]


CASES = {
    "longbench": ("longbench", {}),
    "longbench, fixed": ("longbench", {"protocol": "fixed", "data_sets": ["qasper", "samsum", "lcc"]}),
    "longbench_chat, gateau": ("longbench_chat", {"protocol": "gateau"}),
    "longbench_chat, longalign": ("longbench_chat", {"protocol": "longalign"}),
    "needle": ("needle", {"lengths": [1000, 2500]}),
    "needle, a note": ("needle", NOTE),
    "mt_bench": ("mt_bench", {}),
    "recall": ("recall", {"questions": 20}),
}


@pytest.mark.parametrize("case", CASES)
def test_prompts_are_those_of_before(case, tiny_tokenizer):
    benchmark, options = CASES[case]
    assert digests(asked(benchmark, options, tiny_tokenizer), tiny_tokenizer) == RECORDED[case]
