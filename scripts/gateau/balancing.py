"""Estimated work of a dense 7B decoder, where only proportions matter: balancing shards and batches.

Linear work per token, causal attention per squared token (12.95e9 · T + 262 144 · T² operations a forward). One shape
serves all models, so that nothing planned with it depends on a model's size.
"""

from __future__ import annotations

_LINEAR, _QUADRATIC = 12.95e9, 262144.0


def forward_cost(n_tokens: int) -> float:
    """Estimated floating point operations of one forward pass over a sequence of ``n_tokens`` tokens."""
    return _LINEAR * n_tokens + _QUADRATIC * n_tokens**2
