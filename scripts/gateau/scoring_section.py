"""Checks of the configuration's section ``scoring`` before anything runs. Planning imports them, so they stay light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateau.errors import SettingsError
from gateau.methods import METHODS


def check_scoring(scoring: Mapping[str, Any], cam: Mapping[str, Any], ranked: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the section ``scoring``.

    Args:
        scoring: the section.
        cam: the section ``cam``.
        ranked: the options of each experiment that ranks, by its name.

    Raises:
        SettingsError: settings contradict each other.
    """
    check_gpus("scoring", scoring)
    if cam["segment_length"] % scoring["attention_block"]:
        raise SettingsError(
            f"cam.segment_length must be a multiple of scoring.attention_block, which is {scoring['attention_block']}"
        )
    screen, segments = scoring["screen"], scoring["segments"]
    if segments is not None:
        if screen is None:
            raise SettingsError(
                "scoring.segments is for samples beyond scoring.screen, which is null; set it, for example to 0.3"
            )
        if segments["attended"] + segments["drawn"] > 1:
            raise SettingsError("scoring.segments: attended and drawn are more than 1 together; lower one of them")
        return
    if screen is None:
        return
    if screen == 0:
        raise SettingsError("scoring.screen is 0, so that no sample is scored; raise it, or set scoring.segments")
    for name, options in ranked.items():
        share = options["n_long"].get("share", 0) if isinstance(options["n_long"], Mapping) else 0
        if METHODS[options["method"]].segments and share > screen:
            raise SettingsError(
                f"experiment {name}: n_long selects a share of {share:g}, but scoring.screen is {screen:g}, "
                f"and method {options['method']} has no score for the other samples; raise scoring.screen or lower the "
                "share"
            )


def check_gpus(key: str, section: Mapping[str, Any]) -> None:
    """Raise SettingsError if a section asks for several GPUs per job, and its device is not all GPUs of the job."""
    gpus, device = section["gpus_per_job"], section["device"]
    if gpus > 1 and device not in ("auto", "cuda"):
        raise SettingsError(
            f"{key}.gpus_per_job is {gpus}, but {key}.device is {device}; set {key}.device to auto or cuda, or "
            "gpus_per_job to 1"
        )
