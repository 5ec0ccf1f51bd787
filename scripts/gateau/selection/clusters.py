"""Diversity: clusters of embeddings, and a ranking that takes the best of each cluster first.

After CaR (Ge et al. 2024): principal components that keep 95 % of the variance, k-means with √(n/2) clusters, and
beside the best samples of all the best of every cluster.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_VARIANCE = 0.95
_STARTS = 4


def cluster_count(samples: int) -> int:
    """√(n/2), rounded up."""
    return math.ceil(math.sqrt(samples / 2))


def clusters_of(embeddings: NDArray[np.float32], count: int, seed: int = 0) -> NDArray[np.int64]:
    """A cluster number for each row of float ``[n, d]``, by direction alone: length does not count.

    The same rows and seed give the same clusters; fewer than ``count`` if fewer rows differ.
    """
    # slow to import, and needed by experiments with clusters alone
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions = (embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float64)
    count = min(count, len(np.unique(directions, axis=0)))
    if count < 2:
        return np.zeros(len(embeddings), dtype=np.int64)
    with threadpool_limits(1):  # sums depend on the number of threads
        reduced = PCA(_VARIANCE, svd_solver="full").fit_transform(directions)
        found: NDArray[np.int32] = KMeans(count, n_init=_STARTS, random_state=seed).fit_predict(reduced)
    return found.astype(np.int64)


def clusters_by_id(embeddings: pd.Series, count: int | None = None) -> pd.Series:
    """The cluster of each id of ``embeddings``; None: √(n/2) clusters. The order of the rows does not matter."""
    ordered = embeddings.sort_index()
    found = clusters_of(np.stack(ordered.tolist()), count or cluster_count(len(ordered)))
    return pd.Series(found, index=ordered.index)


def best_of_each_first(ranking: pd.DataFrame, per_cluster: int) -> pd.DataFrame:
    """The ranking in the order in which samples are taken: the best ``per_cluster`` of every cluster, then the others.

    Both parts keep the order of scores, and ``rank`` is counted anew. Near duplicates take nobody's place.

    Args:
        ranking: best score first, with columns cluster and duplicate_of.
    """
    distinct = ranking["duplicate_of"].isna()
    place = ranking[distinct].groupby("cluster").cumcount().reindex(ranking.index)
    first = distinct & (place < per_cluster)
    ordered = pd.concat([ranking[first], ranking[~first]], ignore_index=True)
    return ordered.assign(rank=np.arange(1, len(ordered) + 1))
