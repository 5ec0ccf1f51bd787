"""Answers in process, in the ways that transformers offers, all in one run whose ways alternate.

``python tests/benchmark/answering.py [--model FOLDER] [--context TOKENS]`` asks a model questions about one context. It
prints seconds and tokens per second of each way, and whether the answers are those of the naive loop. Without
``--model``, the tiny model of this project answers. The ratios hold for other machines of the same kind.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from gateau.chatting import choose_format
from gateau.evaluation.answering.generation import Generator, plan_batches
from gateau.evaluation.answering.prompting import Prompter
from gateau.evaluation.answering.questions import Question
from gateau.model_files import ModelSpec
from gateau.models import Runtime, config_window, load_config, load_model, load_tokenizer
from gateau.places import RESOURCES
from gateau.planted import SUBJECTS, filler_sentence

ALL_AT_ONCE = 1 << 20


class StaticCache(Generator):
    """The naive loop with a cache of a fixed size."""

    def _decoding(self, question, max_new_tokens):
        config = super()._decoding(question, max_new_tokens)
        config.cache_implementation = "static"
        return config


class PagedCache(Generator):
    """All prompts at once in the paged cache of transformers (continuous batching)."""

    def _decode(self, prompts, prefix, question, max_new_tokens):
        config = self._decoding(question, max_new_tokens)
        done = self._model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
        return [done[name].generated_tokens for name in sorted(done, key=lambda name: int(name.rpartition("_")[2]))]


WAYS = {  # the class, batch_tokens, and whether beginnings are shared
    "naive loop": (Generator, 1, False),
    "static cache": (StaticCache, 1, False),
    "paged cache": (PagedCache, ALL_AT_ONCE, False),
    "padded batch": (Generator, ALL_AT_ONCE, False),
    "shared context, one by one": (Generator, 1, True),
    "shared context, in one batch": (Generator, ALL_AT_ONCE, True),
}


def asked(tokenizer, n_tokens, n_questions, n_new):
    """Questions about one context of about so many tokens."""
    rng = random.Random(0)
    context = ""
    while len(tokenizer(context).input_ids) < n_tokens:
        context += "".join(filler_sentence(rng) + "\n" for _ in range(8))
    # questions of different lengths, as in a benchmark
    texts = [
        f"{context}\n\n" + " ".join(filler_sentence(rng) for _ in range(number % 4)) + f" What does note {name} say?"
        for number, name in enumerate(SUBJECTS[:n_questions])
    ]
    return [Question("b", str(n), (text,), max_new_tokens=n_new) for n, text in enumerate(texts)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(RESOURCES / "tiny_pair/long"))
    parser.add_argument("--context", type=int, default=800)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    spec = ModelSpec.from_config(args.model)
    tokenizer, config = load_tokenizer(spec), load_config(spec)
    model = load_model(spec, config, Runtime())
    prompter = Prompter(tokenizer, choose_format("auto", spec, tokenizer), 64000, config_window(config))
    questions = asked(tokenizer, args.context, args.questions, args.new_tokens)
    lengths = [len(prompter.prompt(question).ids) for question in questions]
    seconds = {way: [] for way in args.ways}
    answers = {}
    for _ in range(args.repeats):
        for way in args.ways:
            kind, batch_tokens, share = WAYS[way]
            generator = kind(model, prompter, batch_tokens, share=share)
            started = time.perf_counter()
            found = {}
            for batch in plan_batches(questions, prompter, batch_tokens, share=share):
                found.update(zip(batch, generator.answer([questions[n] for n in batch]), strict=True))
            seconds[way].append(time.perf_counter() - started)
            print(f"{way}: {seconds[way][-1]:.1f} s", file=sys.stderr, flush=True)
            answers[way] = [found[n].turns[0] for n in range(len(questions))]
    print(
        f"{args.questions} questions about one context of {args.context} tokens, prompts of {min(lengths)} to "
        f"{max(lengths)}, up to {args.new_tokens} new tokens, {model.device}, {torch.get_num_threads()} threads, "
        f"{model.dtype}, median of {args.repeats}\n"
    )
    print("| way | seconds | tokens/s | times the naive loop | answers |\n|---|---:|---:|---:|---|")
    first = args.ways[0]
    for way in args.ways:
        spent, tokens = statistics.median(seconds[way]), sum(lengths) + sum(turn.new_tokens for turn in answers[way])
        same = sum(one.text == other.text for one, other in zip(answers[way], answers[first], strict=True))
        print(
            f"| {way} | {spent:.2f} | {tokens / spent:.0f} | {statistics.median(seconds[first]) / spent:.2f} | "
            f"{same} of {args.questions} equal |"
        )


if __name__ == "__main__":
    main()
