"""Near duplicates in a ranking, by MinHash: signatures of the texts, and which sample repeats a better ranked one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

PERMUTATIONS = 128  # the standard error of an estimated similarity is at most 0.044
_SCHEME = "affine32"
_SHINGLE = 5
# scripts written without spaces: each character counts as a word
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


def shingles(text: str) -> set[str]:
    """All runs of five words, in lower case; of a shorter text, the whole."""
    words = _WORD.findall(text.lower())
    return {" ".join(words[start : start + _SHINGLE]) for start in range(max(len(words) - _SHINGLE + 1, 1))}


def signature(text: str) -> NDArray[np.uint32]:
    """MinHash signature of a text's shingles: uint32 ``[128]``, the same on every machine."""
    hashed = MinHash(num_perm=PERMUTATIONS, seed=1, scheme=_SCHEME)
    hashed.update_batch([shingle.encode() for shingle in shingles(text)])
    values: NDArray[np.uint32] = hashed.hashvalues.astype(np.uint32)
    return values


def duplicates_of(ids: Sequence[str], signatures: Iterable[NDArray[np.uint32]], similarity: float) -> dict[str, str]:
    """Which ids, in order of rank, nearly repeat a better one that is kept: the id, and the kept one it is most like.

    Args:
        similarity: estimated Jaccard index of the shingles from which on two texts count as the same.
    """
    # it only proposes: better too many than to miss one
    index = MinHashLSH(threshold=0.9 * similarity, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    kept: dict[str, MinHash] = {}
    found: dict[str, str] = {}
    for row_id, values in zip(ids, signatures, strict=True):
        hashed = MinHash(num_perm=PERMUTATIONS, seed=1, scheme=_SCHEME, hashvalues=np.asarray(values))
        alike = {other: kept[other].jaccard(hashed) for other in index.query(hashed)}
        best = max(sorted(alike), key=alike.__getitem__, default=None)
        if best is not None and alike[best] >= similarity:
            found[row_id] = best
        else:
            kept[row_id] = hashed
            index.insert(row_id, hashed)
    return found
