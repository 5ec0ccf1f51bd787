"""Readable previews of training rows: the text that the model reads, with the learnt parts marked."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gateau.training.tokenization import target_runs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PreviewRow = tuple[str, Sequence[int], Sequence[int]]  # id, input_ids, labels
_SHOWN = 600  # characters shown at each end of a shortened part

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
    """Render rows as plain text: learnt parts are in ⟦ ⟧, other long parts are shortened in the middle."""
    blocks = []
    for row_id, input_ids, labels in rows:
        parts = [f"⟦{text}⟧" if learnt else _shortened(text) for learnt, text in _decoded(input_ids, labels, tokenizer)]
        blocks.append(f"=== {row_id}: {_counts(labels)}\n{''.join(parts)}\n")
    return "\n".join(blocks)


def preview_html(rows: Iterable[PreviewRow], tokenizer: PreTrainedTokenizerBase, title: str) -> str:
    """Render rows as an HTML page: learnt parts are marked, other long parts are shortened in the middle."""
    blocks = []
    for row_id, input_ids, labels in rows:
        parts = [
            f"<mark>{html.escape(text)}</mark>" if learnt else html.escape(_shortened(text))
            for learnt, text in _decoded(input_ids, labels, tokenizer)
        ]
        blocks.append(f"<h2>{html.escape(row_id)}</h2><p><i>{_counts(labels)}</i></p><pre>{''.join(parts)}</pre>")
    return _PAGE.format(title=html.escape(title), rows="\n".join(blocks))


def _decoded(
    input_ids: Sequence[int], labels: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> Iterable[tuple[bool, str]]:
    """Yield the text of each run of tokens and whether it is learnt."""
    for learnt, run in target_runs(input_ids, labels):
        yield learnt, str(tokenizer.decode(run))


def _counts(labels: Sequence[int]) -> str:
    return f"{len(labels)} tokens, {sum(label >= 0 for label in labels)} learnt"


def _shortened(text: str) -> str:
    if len(text) <= 2 * _SHOWN:
        return text
    return f"{text[:_SHOWN]} … ({len(text) - 2 * _SHOWN} characters) … {text[-_SHOWN:]}"
