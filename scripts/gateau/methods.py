"""The catalogue of selection methods: which options each one reads, and which passes and models it needs.

The functions that compute the scores are in :mod:`gateau.selection.method_scores`, under the same names. This module
imports nothing heavy, so that planning the workflow is fast.
"""

from __future__ import annotations

from dataclasses import dataclass

# options of GATEAU's formula
FORMULA = ("alpha", "hmp_norm", "score_norm", "importance", "layers", "orientation")


@dataclass(frozen=True)
class Method:
    """One way to score samples.

    ``reads`` are the options that change the score. If ``contrast`` is set, the NLL of this contrast replaces that of
    θ_S. If ``rewards`` is true, the method reads the column ``reward``. If ``segments`` is true, it needs the segment
    pass, and has no score for samples that ``scoring.screen`` leaves out of it.
    """

    about: str
    reads: tuple[str, ...] = ()
    contrast: str | None = None
    rewards: bool = False
    segments: bool = False


METHODS: dict[str, Method] = {
    "gateau": Method("GATEAU as in the paper, with all its options", FORMULA, segments=True),
    "gateau_robust": Method("HMP and the distance of the helpful segments (docs/methods.md)", segments=True),
    "hmg": Method("homologous models' guidance alone", ("hmp_norm",)),
    "cam": Method("contextual awareness alone", ("importance", "layers", "orientation"), segments=True),
    "no_norm": Method(
        "ablation: GATEAU without norms", ("alpha", "importance", "layers", "orientation"), segments=True
    ),
    "no_extended_window": Method(
        "ablation: GATEAU, the context cut to θ_S's window instead of a stretched window", FORMULA,
        contrast="no_extended_window", segments=True,
    ),
    "non_homologous": Method(
        "ablation: GATEAU with models.non_homologous in θ_S's place", FORMULA, contrast="non_homologous", segments=True,
    ),
    "one_model": Method(
        "GATEAU with θ_L itself, the context cut to θ_S's window, in θ_S's place", FORMULA, contrast="one_model",
        segments=True,
    ),
    "perplexity": Method("perplexity under θ_L, high first"),
    "ifd": Method("instruction-following difficulty PPL(y | c, x) / PPL(y), high first", segments=True),
    "length": Method("longest first"),
    "reward": Method("reward of models.reward, high first; CaR with per_cluster", rewards=True),
    "dependency": Method("attention on far segments, in the manner of LADM"),
    "key_tokens": Method("gain on tokens that need long context, in the manner of LongPPL"),
}  # fmt: skip

# these methods select rows without scores, so no scoring pass runs for them
UNRANKED = {"full": "the long samples as they are", "random": "a seeded draw"}


@dataclass(frozen=True)
class Contrast:
    """A model with a short view of the text that some methods use in place of θ_S.

    ``role`` names a model of the section ``models``. ``short_context`` says how this model reads long inputs. If it is
    ``truncate``, the context is cut to the window of the model ``window_of``.
    """

    role: str
    short_context: str
    window_of: str


def contrasts(short_context: str) -> dict[str, Contrast]:
    """Return all contrasts by name. ``short_context`` is the value of ``scoring.short_context``."""
    return {
        "no_extended_window": Contrast("short", "truncate", "short"),
        "one_model": Contrast("long", "truncate", "short"),
        "non_homologous": Contrast("non_homologous", short_context, "non_homologous"),
    }
