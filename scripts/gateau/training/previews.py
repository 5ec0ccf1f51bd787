"""Readable previews of training rows: the text that the model reads, with the learnt parts marked."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from gateau.training.tokenization import target_runs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PreviewRow = tuple[str, Sequence[int], Sequence[int], Sequence[int]]  # id, input_ids, labels, tokens of each piece
_SHOWN = 600  # characters shown at each end of a shortened part
_LINE = "\n----- the next piece of this row, which the model reads by itself -----\n"

_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f4; padding: 1rem; border-radius: 6px; }}
mark {{ background: #ffd97a; border-radius: 3px; }}
i {{ color: #777; }}
</style>
<h1>{title}</h1>
<p>The model reads all of it and learns the <mark>marked</mark> tokens.</p>
{rows}
"""


def preview_text(rows: Iterable[PreviewRow], tokenizer: PreTrainedTokenizerBase) -> str:
    """Render rows as plain text: learnt parts are in ⟦ ⟧, other long parts are shortened in the middle.

    A line divides the pieces of a row.
    """
    blocks = []
    for row in rows:
        pieces = [
            "".join(f"⟦{text}⟧" if learnt else _shortened(text) for learnt, text in piece)
            for piece in _decoded(row, tokenizer)
        ]
        blocks.append(f"=== {row[0]}: {_counts(row)}\n{_LINE.join(pieces)}\n")
    return "\n".join(blocks)


def preview_html(rows: Iterable[PreviewRow], tokenizer: PreTrainedTokenizerBase, title: str) -> str:
    """Render rows as an HTML page: learnt parts are marked, other long parts are shortened in the middle.

    Each piece of a row is a block of its own.
    """
    blocks = []
    for row in rows:
        pieces = [
            "".join(
                f"<mark>{html.escape(text)}</mark>" if learnt else html.escape(_shortened(text))
                for learnt, text in piece
            )
            for piece in _decoded(row, tokenizer)
        ]
        shown = "\n".join(f"<pre>{piece}</pre>" for piece in pieces)
        blocks.append(f"<h2>{html.escape(row[0])}</h2><p><i>{_counts(row)}</i></p>{shown}")
    return _PAGE.format(title=html.escape(title), rows="\n".join(blocks))


def _decoded(row: PreviewRow, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[tuple[bool, str]]]:
    """Yield, for each piece of a row, the text of each run of tokens and whether it is learnt."""
    _, input_ids, labels, pieces = row
    for size, end in zip(pieces, accumulate(pieces), strict=True):
        runs = target_runs(input_ids[end - size : end], labels[end - size : end])
        yield [(learnt, str(tokenizer.decode(run))) for learnt, run in runs]


def _counts(row: PreviewRow) -> str:
    _, _, labels, pieces = row
    counts = f"{len(labels)} tokens, {sum(label >= 0 for label in labels)} learnt"
    return counts if len(pieces) == 1 else f"{counts}, in {len(pieces)} pieces"


def _shortened(text: str) -> str:
    if len(text) <= 2 * _SHOWN:
        return text
    return f"{text[:_SHOWN]} … ({len(text) - 2 * _SHOWN} characters) … {text[-_SHOWN:]}"
