"""Numbers of the page: rounded for JSON, and written for people."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def rounded(value: Any) -> float | int | None:
    """Return a number with six significant digits, an integer where it is one, and None for NaN, infinity and None."""
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        return None
    number = float(f"{number:.6g}") if abs(number) < 1e6 else round(number, 2)
    return int(number) if number.is_integer() else number


def rounded_list(values: Iterable[Any]) -> list[float | int | None]:
    """Return :func:`rounded` of each value."""
    return [rounded(value) for value in values]


def duration(seconds: float) -> str:
    """Return a duration in words, such as ``3 min 20 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def percent(share: float) -> str:
    """Return a share as a percentage, such as ``12 %`` or ``0.4 %``."""
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.2g} %"
