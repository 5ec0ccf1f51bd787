"""Chat in the terminal with a model that this project trained, or with any causal language model.

With ``--prompt`` or ``--prompt-file``, only the answer is written to standard output. Without them a conversation
starts; its questions may also come from a pipe. Ctrl-C stops the running answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateau.command import argument_parser, run
from gateau.conversations import CHAT_FORMATS
from gateau.errors import ModelError, SettingsError, UserError
from gateau.model_files import ModelSpec
from gateau.models import Runtime, load_config, load_model, load_tokenizer

if TYPE_CHECKING:
    from gateau.chatting import Answer, ChatSession

_HELP = (
    "/reset forgets the conversation, /system TEXT sets the system text, /quit or Ctrl-D leaves, Ctrl-C stops an answer"
)
_INTERRUPTED = 130  # exit code of a process that Ctrl-C ended, as in shells


def main() -> None:
    """Load the model, then answer one prompt or hold a conversation."""
    args = _arguments()

    from transformers import set_seed

    from gateau.chatting import ChatSession, Sampling, choose_format, read_text, recorded_template_options

    spec = ModelSpec(args.model, args.revision, args.trust_remote_code)
    if spec.is_local and not spec.directory.is_dir():
        raise ModelError(f"{args.model}: no such model directory; give an existing one, or a hub name, with --model")
    document = read_text(args.context).strip("\n") if args.context else None
    question = read_text(args.prompt_file).strip("\n") if args.prompt_file else args.prompt
    if question is not None and not question.strip():
        raise SettingsError("the prompt is empty; write a question after --prompt or into the file of --prompt-file")

    tokenizer = load_tokenizer(spec)
    format_name = choose_format(args.format, spec, tokenizer)
    runtime = Runtime(args.device, args.dtype, args.attention, setting="chat")
    session = ChatSession(
        load_model(spec, load_config(spec), runtime),
        tokenizer,
        format_name,
        Sampling(args.max_new_tokens, args.temperature, args.top_p),
        args.system,
        document,
        {**recorded_template_options(spec), **args.template_options},
    )
    set_seed(args.seed)
    if format_name == "plain" and args.format == "auto":
        _note("the model brings no chat format: it goes on with your text as it is (--format chooses another)")
    if question is None:
        _converse(session)
    elif _ask(session, question).interrupted:
        sys.exit(_INTERRUPTED)


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, epilog=f"In a conversation: {_HELP}.")
    parser.add_argument("--model", required=True, help="model directory, or name on the Hugging Face hub")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run modelling code that comes with the model; only for code you have read",
    )
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", help="answer this question and exit")
    prompt.add_argument("--prompt-file", help="answer the question in this text file and exit")
    parser.add_argument("--system", help="system message")
    parser.add_argument("--context", help="text file with a long document, which is put before the first question")
    parser.add_argument(
        "--format", choices=("auto", *CHAT_FORMATS), default="auto",
        help="chat format; auto takes the one recorded in gateau.json beside the weights, else the tokenizer's chat "
        "template, else plain",
    )  # fmt: skip
    parser.add_argument(
        "--template-options",
        type=json.loads,
        default={},
        help="variables that the chat template reads, as JSON, for example '{\"enable_thinking\": false}', over those "
        "of the model's training (default: {})",
    )
    parser.add_argument("--max-new-tokens", type=_positive, default=512, help="maximum number of tokens of an answer")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="sampling temperature; 0 always takes the most likely token"
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="sample from the most likely tokens whose probabilities add up to this"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling")
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, mps, cuda or cuda:1; auto takes CUDA if there is a device, else the CPU",
    )
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="type of weights and activations; auto is bfloat16 on CUDA, else float32",
    )  # fmt: skip
    parser.add_argument("--attention", default="auto", help="attention backend, one of those of scoring.attention")
    args = parser.parse_args()
    if args.temperature < 0 or not 0 < args.top_p <= 1:
        parser.error("--temperature must be 0 or more, and --top-p above 0 and at most 1")
    return args


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _converse(session: ChatSession) -> None:
    _note(_HELP)
    for line in _lines():
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            session.turns = []
            _note("the conversation starts anew")
        elif command == "/system":
            session.system = rest.strip() or None
            _note("system text set" if session.system else "no system text")
        elif re.fullmatch(r"/\w+", command):
            _note(f"no command {command}; {_HELP}")
        elif line.strip():
            try:
                answer = _ask(session, line)
            except UserError as error:
                _note(str(error))
            except KeyboardInterrupt:  # before the first token
                _note("stopped")
            else:
                _note(_figures(answer))


def _lines() -> Iterator[str]:
    """Yield what is typed or piped, line by line."""
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (line editing and history for input())
    while True:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
            _note(_HELP)
        else:
            yield line


def _ask(session: ChatSession, question: str) -> Answer:
    prompt = session.prepare(question)
    if prompt.dropped_turns:
        _note(
            f"the conversation exceeds the model's window: its oldest {prompt.dropped_turns} of {len(session.turns)} "
            "turns are left out; /reset starts anew, a smaller --max-new-tokens leaves more room"
        )
    answer = session.answer(prompt, lambda text: print(text, end="", flush=True))
    print(flush=True)
    return answer


def _figures(answer: Answer) -> str:
    rate = (answer.tokens - 1) / answer.seconds if answer.tokens > 1 and answer.seconds > 0 else 0.0
    reused = f", {answer.reused_tokens} of them from before," if answer.reused_tokens else ""
    return (
        f"{'stopped, ' if answer.interrupted else ''}{answer.tokens} tokens, {rate:.1f} tokens/s; prompt "
        f"{answer.prompt_tokens} tokens{reused} in {answer.prompt_seconds:.1f} s"
    )


def _note(text: str) -> None:
    """Print a faint line on standard error, apart from the answer."""
    faint = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    print(f"\033[2m{text}\033[0m" if faint else text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
