"""What a check finds: one line each, with the advice."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateau.errors import UserError

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        level: ``ok``, ``warning`` (the run may fail, or waste time) or ``error`` (the run will fail).
        subject: what was checked, a configuration key where there is one.
        text: what was found; for warnings and errors, also what to do.
    """

    level: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.subject}: {self.text}"


def error_of(subject: str, check: Callable[[], object]) -> list[Finding]:
    """Call ``check`` and return its user error as a finding; no finding if there is no error."""
    try:
        check()
    except UserError as error:
        return [Finding(ERROR, subject, str(error))]
    return []


def distinct(findings: Sequence[Finding], general: Sequence[str]) -> list[Finding]:
    """Return the findings without those of ``general`` subjects whose text another finding has, too."""
    texts = {one.text for one in findings if one.subject not in general}
    found = [one for one in findings if one.subject not in general or one.text not in texts]
    return list(dict.fromkeys(found))


def render(findings: Sequence[Finding], width: int) -> str:
    """Return the findings as a table of plain text, whose last column is wrapped at ``width`` characters."""
    subjects = max((len(one.subject) for one in findings), default=0)
    indent = len(WARNING) + subjects + 4
    lines = []
    for one in findings:
        start = f"{one.level:{len(WARNING)}}  {one.subject:{subjects}}  "
        lines.append(
            textwrap.fill(
                one.text, max(width, indent + 40), initial_indent=start, subsequent_indent=" " * indent,
                break_long_words=False, break_on_hyphens=False,
            )
        )  # fmt: skip
    counts = [sum(one.level == level for one in findings) for level in (ERROR, WARNING, OK)]
    summary = ", ".join(
        f"{count} {name}{'s' * (count != 1 and name != OK)}"
        for count, name in zip(counts, (ERROR, WARNING, OK), strict=True)
    )
    return "\n".join([*lines, "", summary])
