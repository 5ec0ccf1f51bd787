"""The bytes of the raw rows of a run, for lengths before any table exists."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateau.costs.lengths import SourceBytes
from gateau.data.chats import CHAT_ROWS
from gateau.data.intake import Intake
from gateau.data.readers import Rejection, read_records
from gateau.data.samples import LONG_ROWS
from gateau.experiments import Configuration
from gateau.prompts import PromptTemplate

Texts = Iterator[tuple[str, str, str]]  # context, frame without the response, response


def read_bytes(configuration: Configuration, source: str) -> SourceBytes:
    """Return the bytes of the rows of ``long`` or ``short`` that the run would keep. All files must exist.

    Raises:
        DataError: a file cannot be read as rows.
    """
    data, paths = configuration.config["data"], configuration.raw_files(source)
    logging.info("reading data.%s, %.3g GB", source, sum(Path(path).stat().st_size for path in paths) / 1e9)
    intake = Intake(LONG_ROWS if source == "long" else CHAT_ROWS, data["duplicate_content"] == "keep")
    rows = (row for row in intake.read(read_records(paths, f"data.{source}")) if not isinstance(row, Rejection))
    if source == "short":
        return SourceBytes.of(_chat_texts(rows))
    return SourceBytes.of(_long_texts(rows, configuration.config["scoring"]["prompt"]))


def _long_texts(rows: Iterator[Mapping[str, Any]], prompt: str) -> Texts:
    template = PromptTemplate.parse(prompt)
    frame = template.head + template.before_instruction + template.after_instruction
    for row in rows:
        yield row["context"], frame + row["instruction"], row["response"]


def _chat_texts(rows: Iterator[Mapping[str, Any]]) -> Texts:
    for row in rows:
        messages = json.loads(row["messages"])
        asked = [f"[INST]{one['content']}[/INST]" for one in messages if one["role"] != "assistant"]
        answers = [one["content"] for one in messages if one["role"] == "assistant"]
        yield "", "\n\n".join(asked), "\n\n".join(answers)
