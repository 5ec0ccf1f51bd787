"""Near duplicates in a ranking, found by MinHash: signatures of texts, and which sample repeats a better ranked one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

PERMUTATIONS = 128  # the standard error of an estimated similarity is at most 0.044
_SCHEME = "affine32"
_SHINGLE = 5
# in scripts without spaces, each character counts as a word
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


def shingles(text: str) -> set[str]:
    """Return all runs of five words in lower case. A shorter text is one run."""
    words = _WORD.findall(text.lower())
    return {" ".join(words[start : start + _SHINGLE]) for start in range(max(len(words) - _SHINGLE + 1, 1))}


def signature(text: str) -> NDArray[np.uint32]:
    """Return the MinHash signature of a text's shingles, uint32 ``[128]``. It is the same on every machine."""
    hashed = MinHash(num_perm=PERMUTATIONS, seed=1, scheme=_SCHEME)
    hashed.update_batch([shingle.encode() for shingle in shingles(text)])
    values: NDArray[np.uint32] = hashed.hashvalues.astype(np.uint32)
    return values


def duplicates_of(ids: Sequence[str], signatures: Iterable[NDArray[np.uint32]], similarity: float) -> dict[str, str]:
    """Return the ids that nearly repeat a better ranked one that is kept, each with the kept id most like it.

    Args:
        ids: best ranked first.
        signatures: of the same texts in the same order, uint32 ``[128]`` each.
        similarity: two texts count as the same from this estimated Jaccard index of their shingles on.
    """
    # the index only proposes candidates, so a lower threshold makes sure that it misses none
    index = MinHashLSH(threshold=0.9 * similarity, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    permutations = MinHash(num_perm=PERMUTATIONS, seed=1, scheme=_SCHEME).permutations  # else each makes its own
    kept: dict[str, MinHash] = {}
    found: dict[str, str] = {}
    for row_id, values in zip(ids, signatures, strict=True):
        hashed = MinHash(seed=1, scheme=_SCHEME, hashvalues=np.asarray(values), permutations=permutations)
        alike = {other: kept[other].jaccard(hashed) for other in index.query(hashed)}
        best = max(sorted(alike), key=alike.__getitem__, default=None)
        if best is not None and alike[best] >= similarity:
            found[row_id] = best
        else:
            kept[row_id] = hashed
            index.insert(row_id, hashed)
    return found
