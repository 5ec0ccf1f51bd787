"""Arguments of the commands that need the chat format of the training."""

from __future__ import annotations

import argparse
import json


def add_format_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--format`` and ``--format-settings`` to a parser."""
    parser.add_argument("--format", required=True, help="chat format of the training, as in tokens.format")
    parser.add_argument(
        "--format-settings",
        type=json.loads,
        default={},
        help="settings of the chat format, as JSON: turns, stop_token, chat_template (a text), template_options "
        "(default: {})",
    )
