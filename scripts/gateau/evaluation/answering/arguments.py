"""Command-line options of the scripts that ask a model: generate and harness."""

from __future__ import annotations

import argparse
import json

from gateau.conversations import CHAT_FORMATS
from gateau.runtime_options import add_runtime_options


def add_asking_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a model is asked, in process or through a server."""
    parser.add_argument("--format", choices=("auto", *CHAT_FORMATS), default="auto", help="chat format")
    parser.add_argument(
        "--template-options",
        type=json.loads,
        default={},
        help="variables that the chat template reads, as JSON, over those of the model's training (default: {})",
    )
    parser.add_argument(
        "--reasoning",
        type=json.loads,
        default='"none"',
        help="evaluate.generate.reasoning of the configuration, as JSON: start, end and max_tokens of the part of an "
        'answer that is not scored, or "none" (default: "none")',
    )
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=16384,
        help="largest size of a batch in tokens, padding and new tokens included",
    )
    add_runtime_options(parser)
    parser.add_argument(
        "--server",
        type=json.loads,
        help="section of an OpenAI-compatible server that answers, or how this job starts one, as JSON (default: "
        "answer in process)",
    )
    parser.add_argument("--server-log", help="file for the output of a server that this job starts")
