"""A readable preview of a few random rows: what was taken as context, as instruction and as response."""

from __future__ import annotations

import html
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateau.tables import Row

PARTS = ("context", "instruction", "response")
_ROWS = 10
_SHOWN = 400  # characters shown at each end of a shortened part

_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>What was taken as context, instruction and response</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; padding: .6rem 1rem; border-radius: 6px; margin: .3rem 0; }}
.context {{ background: #f1f1ee; }} .instruction {{ background: #ffe9ad; }} .response {{ background: #d3ebd3; }}
i {{ color: #777; }}
</style>
<h1>What was taken as context, instruction and response</h1>
<p>{n_rows} random rows of {n_seen}. Long parts are shortened in the middle. If a part is wrong, set
<code>data.split</code>, <code>data.system</code> or <code>data.columns</code>.</p>
{rows}
"""


@dataclass
class Preview:
    """A random draw of rows of samples.parquet, the same for the same rows. Only shortened texts are held."""

    rows: list[dict[str, str]] = field(default_factory=list)
    n_seen: int = 0
    _draw: random.Random = field(default_factory=lambda: random.Random(0))

    def watch(self, rows: Iterable[Row]) -> Iterable[Row]:
        """Yield all rows unchanged, and draw among them."""
        for row in rows:
            place = self.n_seen if self.n_seen < _ROWS else self._draw.randrange(self.n_seen + 1)
            self.n_seen += 1
            if place < _ROWS:
                shown = {"title": f"{row['id']} ({row['file']}, line {row['line']})"}
                self.rows[place : place + 1] = [shown | {part: _shortened(row[part]) for part in PARTS}]
            yield row

    def text(self) -> str:
        """Return the drawn rows as plain text."""
        blocks = [
            "\n".join([f"=== {row['title']}", *(f"--- {part}\n{row[part] or '(empty)'}" for part in PARTS)])
            for row in self.rows
        ]
        return "\n\n".join(blocks) + "\n"

    def page(self) -> str:
        """Return the drawn rows as an HTML page."""
        blocks = [
            f"<h2>{html.escape(row['title'])}</h2>"
            + "".join(f'<i>{part}</i><pre class="{part}">{html.escape(row[part]) or "(empty)"}</pre>' for part in PARTS)
            for row in self.rows
        ]
        return _PAGE.format(n_rows=len(self.rows), n_seen=self.n_seen, rows="\n".join(blocks))


def _shortened(text: str) -> str:
    if len(text) <= 2 * _SHOWN:
        return text
    return f"{text[:_SHOWN]} … ({len(text) - 2 * _SHOWN} characters) … {text[-_SHOWN:]}"
