"""Train the committed pair of tiny homologous models, and the tiny model that the demo fine-tunes.

Run ``python scripts/train_tiny_pair.py workflow/resources/tiny_pair`` to write them again.

All are Llama models of 0.8 M parameters that share a byte-level BPE tokenizer (``--width`` and ``--layers`` give other
sizes). They are trained on the language of :mod:`gateau.planted`. The training is seeded and takes about eleven
minutes on two cores:

1. Copying: random token sequences that repeat, until induction heads emerge.
2. ``short``: recall of notes within a window of 256 tokens. The rotary base varies from batch to batch. Otherwise, a
   model this small would lose even nearby notes when dynamic NTK raises its base; a large model does not.
3. ``long``: training of the same model continues with a larger rotary base on sequences of up to 1024 tokens.
4. ``short_chat``: training of the short model continues on the same kind of rows in the chat format of training
   (``longalign``), still within 256 tokens. ``--chat-only`` repeats only this step, from the folder's short model.

The short model has never seen a note that is more than 256 tokens away. Therefore the perplexities of the two models
differ on such notes. The same holds for ``short_chat``: it answers in the chat format, but has not learnt long recall.
"""

import argparse
import copy
import logging
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gateau.command import argument_parser, progress, run
from gateau.conversations import Conversation, Turn
from gateau.errors import SettingsError
from gateau.formats import IGNORED, ChatFormat, chat_format
from gateau.planted import CODES, SUBJECTS, PlantedShape, planted_row
from gateau.prompts import DEFAULT_TEMPLATE, PromptEncoder

VOCABULARY, SHORT_WINDOW, LONG_WINDOW = 1024, 256, 1024
HEAD_WIDTH = 32
SHORT_BASE, LONG_BASE = 10_000.0, 80_000.0
SHORT_LINES, LONG_LINES = PlantedShape(6, 20), PlantedShape(24, 90)
# without the kind wrong, from which nothing can be learnt
TRAINED_KINDS = ("far", "near", "distractor", "parametric", "far", "near")
TOKENIZED_KINDS = ("far", "near", "parametric", "wrong", "distractor")
CONTEXT_WEIGHT = 0.1

Batch = tuple[torch.Tensor, torch.Tensor]
# from context, instruction and response to token ids, and whether each token belongs to the response or ends it
Encode = Callable[[str, str, str], tuple[list[int], list[bool]]]

# the scoring prompt as a chat template, so that chats have the format that the pair was trained on
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] }}"
    "{{ eos_token }}{% else %}{% set parts = message['content'].rsplit('\\n\\n', 1) %}"
    "### Input:{{ parts[0] if parts|length > 1 else '' }}\n\n ### Instruction: {{ parts[-1] }}\n\n ### Response: "
    "{% endif %}{% endfor %}"
)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("output", type=Path, help="output: folder for the models short/, long/ and short_chat/")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data")
    parser.add_argument(
        "--width", type=int, default=128, help="hidden size, a multiple of 32, the width of an attention head"
    )
    parser.add_argument("--layers", type=int, default=4, help="number of layers")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="factor on the number of training steps; use a small one for a quick try",
    )
    parser.add_argument("--chat-only", action="store_true", help="write short_chat/ alone, from short/ in the folder")
    args = parser.parse_args()
    if args.width % HEAD_WIDTH:
        raise SettingsError(f"--width is {args.width}; choose a multiple of {HEAD_WIDTH}")
    torch.manual_seed(args.seed)
    if not args.chat_only:
        train_pair(args)
    train_chat(args)


def train_pair(args: argparse.Namespace) -> None:
    """Train and save the models ``short`` and ``long``."""
    rng = random.Random(args.seed)
    tokenizer = train_tokenizer()
    encode = in_scoring_prompt(tokenizer)
    model = LlamaForCausalLM(tiny_config(SHORT_WINDOW, SHORT_BASE, args.width, args.layers))
    train(model, round(700 * args.scale), 2e-3, lambda: copy_batch(32, 128), "copying")
    train(model, round(1000 * args.scale), 1.5e-3, lambda: short_batch(model, encode, rng), "short")
    set_rotary_base(model, SHORT_BASE)
    tokenizer.chat_template = CHAT_TEMPLATE
    save(model, tokenizer, args.output / "short")

    long_model = LlamaForCausalLM(tiny_config(LONG_WINDOW, LONG_BASE, args.width, args.layers))
    long_model.load_state_dict(model.state_dict())
    train(
        long_model,
        round(500 * args.scale),
        1e-3,
        lambda: recall_batch(encode, rng, 4, LONG_WINDOW, LONG_LINES),
        "long",
    )
    save(long_model, tokenizer, args.output / "long")


def train_chat(args: argparse.Namespace) -> None:
    """Continue the saved model ``short`` in the chat format, and save it as ``short_chat``."""
    tokenizer = AutoTokenizer.from_pretrained(args.output / "short")
    model = LlamaForCausalLM.from_pretrained(args.output / "short", dtype=torch.float32)
    longalign, rng = chat_format("longalign", tokenizer), random.Random(f"chat {args.seed}")
    encode = in_chat_format(longalign)
    train(model, round(200 * args.scale), 7e-4, lambda: short_batch(model, encode, rng), "short_chat")
    set_rotary_base(model, SHORT_BASE)
    tokenizer.chat_template = longalign.chat_template()
    save(model, tokenizer, args.output / "short_chat")


def tiny_config(window: int, rotary_base: float, width: int, layers: int) -> LlamaConfig:
    """Return the config of a Llama model with tied embeddings and an MLP of twice the width.

    Args:
        window: context window in tokens.
        rotary_base: base of the rotary embedding.
        width: hidden size.
        layers: number of layers.
    """
    heads = width // HEAD_WIDTH
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=window, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": rotary_base},
    )  # fmt: skip


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer in which every subject and every code is one token."""

    def corpus() -> Iterator[str]:
        rng = random.Random(1)
        for _ in range(2000):
            context, instruction, response = planted_row(rng.choice(TOKENIZED_KINDS), rng, PlantedShape(8, 16))
            yield DEFAULT_TEMPLATE.format(context=context, instruction=instruction, response=response)
        for word in SUBJECTS:
            yield from [f"Note {word} x note {word}"] * 200
        for word in CODES:
            yield from [f" {word}"] * 50

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<s>", "</s>", "<pad>"],
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def copy_batch(size: int, length: int) -> Batch:
    """Return ``size`` sequences of ``length`` tokens that repeat random tokens, with the same period in all of them.

    The loss has weight 0 before the first repetition.
    """
    period = int(torch.randint(8, length // 2, ()))
    ids = torch.randint(3, VOCABULARY, (size, period)).repeat(1, math.ceil(length / period))[:, :length]
    weights = torch.ones(ids.shape)
    weights[:, :period] = 0
    return ids, weights


def in_scoring_prompt(tokenizer: PreTrainedTokenizerFast) -> Encode:
    """Return a function that encodes rows in the scoring prompt, with EOS at the end."""
    encoder = PromptEncoder(tokenizer, DEFAULT_TEMPLATE)

    def encode(context: str, instruction: str, response: str) -> tuple[list[int], list[bool]]:
        sample = encoder.encode([context], [instruction], [response])[0]
        before = sample.n_tokens - len(sample.response)
        return [*sample.sequence(), 1], [False] * before + [True] * (len(sample.response) + 1)

    return encode


def in_chat_format(chat: ChatFormat) -> Encode:
    """Return a function that encodes rows as conversations of one turn."""

    def encode(context: str, instruction: str, response: str) -> tuple[list[int], list[bool]]:
        encoded = chat.encode(Conversation((Turn(f"{context}\n\n{instruction}", response),)))
        return encoded.input_ids.tolist(), (encoded.labels != IGNORED).tolist()

    return encode


def short_batch(model: LlamaForCausalLM, encode: Encode, rng: random.Random) -> Batch:
    """Return recall rows for the short window, after setting the rotary base as dynamic NTK does for longer inputs."""
    set_rotary_base(model, SHORT_BASE * rng.choice((1, 1, 2, 4, 8)))
    return recall_batch(encode, rng, 16, SHORT_WINDOW, SHORT_LINES)


def recall_batch(encode: Encode, rng: random.Random, size: int, length: int, shape: PlantedShape) -> Batch:
    """Return ``size`` planted rows of at most ``length`` tokens.

    The loss has weight 1 on the response and EOS, and :data:`CONTEXT_WEIGHT` on the tokens before it.
    """
    ids, weights = torch.full((size, length), 2), torch.zeros(size, length)
    row = 0
    while row < size:
        tokens, is_response = encode(*planted_row(rng.choice(TRAINED_KINDS), rng, shape))
        n_tokens = len(tokens)
        if n_tokens <= length:
            ids[row, :n_tokens] = torch.tensor(tokens)
            weights[row, :n_tokens] = torch.where(torch.tensor(is_response), 1.0, CONTEXT_WEIGHT)
            row += 1
    return ids, weights


def set_rotary_base(model: LlamaForCausalLM, base: float) -> None:
    """Set the rotary frequencies of a model to those of another base."""
    rotary = model.model.rotary_emb
    n = 2 * len(rotary.inv_freq)
    rotary.inv_freq = 1.0 / base ** (torch.arange(0, n, 2, dtype=torch.float) / n)


def train(model: LlamaForCausalLM, steps: int, rate: float, batch: Callable[[], Batch], name: str) -> None:
    """Train with AdamW on weighted token cross-entropy.

    The learning rate rises for 50 steps and then falls to a tenth along a cosine.

    Args:
        model: the model to train.
        steps: number of steps.
        rate: peak learning rate.
        batch: returns token ids and loss weights of the next batch, both ``[sequences, tokens]``.
        name: name of the phase, for the log.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / 50, 1) * (0.1 + 0.45 * (1 + math.cos(math.pi * min(step / max(steps, 1), 1)))),
    )
    model.train()
    total = 0.0
    for step in progress(range(1, steps + 1), name, "step"):
        ids, weights = batch()
        losses = F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 100 == 0:
            logging.info("%s: step %d, loss %.3f", name, step, total / 100)
            total = 0.0


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save model and tokenizer. Weights are float16, so that each model takes less than 2 MB."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    run(main)
