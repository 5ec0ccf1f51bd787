"""What some methods put in θ_S's place, by the name that methods know it by. Light: every cluster job imports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contrast:
    """``role`` is that of a model in section models, ``short_context`` how it sees long inputs.

    Where the context is cut (``truncate``), it is to the window of the model ``window_of``.
    """

    role: str
    short_context: str
    window_of: str


def contrasts(short_context: str) -> dict[str, Contrast]:
    """All contrasts. ``short_context`` is the configured one of θ_S."""
    return {
        "no_extended_window": Contrast("short", "truncate", "short"),
        "one_model": Contrast("long", "truncate", "short"),
        "non_homologous": Contrast("non_homologous", short_context, "non_homologous"),
    }
