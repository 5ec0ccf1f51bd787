"""Diversity: clusters of embeddings, and a ranking that takes the best samples of each cluster first.

The method follows CaR (Ge et al. 2024): keep the principal components that explain 95 % of the variance, run k-means
with √(n/2) clusters, and select the best samples of every cluster in addition to the best samples overall.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateau.selection.selected import is_selectable

_VARIANCE = 0.95
_STARTS = 4


def cluster_count(samples: int) -> int:
    """Return √(n/2), rounded up."""
    return math.ceil(math.sqrt(samples / 2))


def clusters_of(embeddings: NDArray[np.float32], count: int, seed: int = 0) -> NDArray[np.int64]:
    """Return a cluster number for each embedding, int ``[n]``. Only the direction of an embedding counts.

    The same rows and seed give the same clusters. If fewer than ``count`` rows differ, there are fewer clusters.

    Args:
        embeddings: float ``[n, d]``.
        count: number of clusters.
        seed: of the starting points of k-means.
    """
    # slow to import, and only experiments with clusters need them
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions = (embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float64)
    count = min(count, len(np.unique(directions, axis=0)))
    if count < 2:
        return np.zeros(len(embeddings), dtype=np.int64)
    with threadpool_limits(1):  # floating-point sums depend on the number of threads
        reduced = PCA(_VARIANCE, svd_solver="full").fit_transform(directions)
        found: NDArray[np.int32] = KMeans(count, n_init=_STARTS, random_state=seed).fit_predict(reduced)
    return found.astype(np.int64)


def clusters_by_id(embeddings: pd.Series, count: int | None = None) -> pd.Series:
    """Return the cluster number of each id. The order of the rows does not matter.

    Args:
        embeddings: an embedding, float ``[d]``, for each id.
        count: number of clusters; None stands for √(n/2).
    """
    ordered = embeddings.sort_index()
    found = clusters_of(np.stack(ordered.tolist()), count or cluster_count(len(ordered)))
    return pd.Series(found, index=ordered.index)


def best_of_each_first(ranking: pd.DataFrame, per_cluster: int) -> pd.DataFrame:
    """Return the ranking with the best ``per_cluster`` samples of every cluster first, then all others.

    Both parts are ordered by score, and ``rank`` is renumbered. Near duplicates and held-out samples never
    count among the best of a cluster, nor do samples without a score.

    Args:
        ranking: best score first, with columns score, cluster, duplicate_of and held_out.
        per_cluster: number of samples.
    """
    selectable = is_selectable(ranking) & ranking["score"].notna()
    place = ranking[selectable].groupby("cluster").cumcount().reindex(ranking.index)
    first = selectable & (place < per_cluster)
    ordered = pd.concat([ranking[first], ranking[~first]], ignore_index=True)
    return ordered.assign(rank=np.arange(1, len(ordered) + 1))
