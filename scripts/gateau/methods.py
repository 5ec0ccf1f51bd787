"""The catalogue of methods that select long samples: which options each reads, and which passes and models it needs.

The functions that compute the scores are in :mod:`gateau.selection.method_scores`, under the same names. This module
imports nothing, so that planning a workflow can read the catalogue in no time.
"""

from __future__ import annotations

from dataclasses import dataclass

# the options of GATEAU's formula
FORMULA = ("alpha", "hmp_norm", "score_norm", "importance", "layers", "orientation")


@dataclass(frozen=True)
class Method:
    """One way to score samples.

    ``reads`` are the options that change the score. With ``contrast``, the NLL of the contrast takes the place of
    θ_S's. With ``rewards``, the method reads the column ``reward``.
    """

    about: str
    reads: tuple[str, ...] = ()
    contrast: str | None = None
    rewards: bool = False


METHODS: dict[str, Method] = {
    "gateau": Method("GATEAU as in the paper, with all its options", FORMULA),
    "gateau_robust": Method("norms and importance settled by the planted study (config/methods.md)"),
    "hmg": Method("homologous models' guidance alone", ("hmp_norm",)),
    "cam": Method("contextual awareness alone", ("importance", "layers", "orientation")),
    "no_norm": Method("ablation: GATEAU without norms", ("alpha", "importance", "layers", "orientation")),
    "no_extended_window": Method(
        "ablation: GATEAU, the context cut to θ_S's window instead of a stretched window", FORMULA,
        contrast="no_extended_window",
    ),
    "non_homologous": Method(
        "ablation: GATEAU with models.non_homologous in θ_S's place", FORMULA, contrast="non_homologous"
    ),
    "one_model": Method(
        "GATEAU with θ_L itself, the context cut to θ_S's window, in θ_S's place", FORMULA, contrast="one_model"
    ),
    "perplexity": Method("perplexity under θ_L, high first"),
    "ifd": Method("instruction-following difficulty PPL(y | c, x) / PPL(y), high first"),
    "length": Method("longest first"),
    "reward": Method("reward of models.reward, high first; CaR with per_cluster", rewards=True),
    "dependency": Method("attention on far segments, in the manner of LADM"),
    "key_tokens": Method("gain on tokens that need long context, in the manner of LongPPL"),
}  # fmt: skip

# these methods take rows without a score, so no pass runs for them
UNRANKED = {"full": "the long samples as they are", "random": "a seeded draw"}


@dataclass(frozen=True)
class Contrast:
    """What some methods put in θ_S's place.

    ``role`` names a model of the section models. ``short_context`` says how it sees long inputs. Where the context is
    cut (``truncate``), it is cut to the window of the model ``window_of``.
    """

    role: str
    short_context: str
    window_of: str


def contrasts(short_context: str) -> dict[str, Contrast]:
    """Return all contrasts by name. ``short_context`` is the configured one of θ_S."""
    return {
        "no_extended_window": Contrast("short", "truncate", "short"),
        "one_model": Contrast("long", "truncate", "short"),
        "non_homologous": Contrast("non_homologous", short_context, "non_homologous"),
    }
