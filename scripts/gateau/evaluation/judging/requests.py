"""Requests to a judge: messages, and the kind of rating that the answer should contain.

Benchmarks build their requests with this module. It imports nothing heavy, because the records of the benchmarks are
read whenever the workflow is planned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from gateau.errors import DataError

# the system message of LongBench's and LongBench-Chat's judge
EVALUATOR = "You're a good assistant at evaluating the quality of texts."


@dataclass(frozen=True)
class JudgeRequest:
    """One rating to ask for.

    Attributes:
        id: names the request among all of a run.
        messages: the conversation, each message with ``role`` and ``content``.
        rating: the kind of rating, a name in :func:`gateau.evaluation.benchmarks.ratings`.
    """

    id: str
    messages: tuple[dict[str, str], ...]
    rating: str


def request(item: str, rating: str, system: str, user: str) -> JudgeRequest:
    """Return a request that consists of a system message and a user message."""
    messages = ({"role": "system", "content": system}, {"role": "user", "content": user})
    return JudgeRequest(item, messages, rating=rating)


def one_line(prediction: str) -> str:
    """Return a prediction as LongBench shows it to its judges: stripped, with spaces in place of newlines."""
    return prediction.replace("\n", " ").strip()


def fill(template: str, path: str | Path, *values: object, **named: object) -> str:
    """Return ``template`` with its slots filled by ``str.format``.

    Args:
        template: the text of ``path``.
        path: where the template comes from, for error messages.
        values: values of the empty slots ``{}``; the template must have exactly as many.
        named: values of the named slots. Some may stay unused, because one set of names serves several templates.

    Raises:
        DataError: the template has other slots than ``values`` or ``named``.
    """
    try:
        slots = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
        if values and slots != [""] * len(values):
            raise DataError(f"{path}: {len(values)} empty slots {{}} are filled; found {slots}; fetch the file again")
        return template.format(*values, **named)
    except (LookupError, ValueError) as error:
        raise DataError(f"{path}: its slots cannot be filled ({error!r}); fetch the file again") from error
