"""Numbers of an alert in words that a duty officer uses."""

from __future__ import annotations

import math
from datetime import datetime

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def time_in_words(time: datetime) -> str:
    """``26 May 2026, 10:10 UTC``; ``time`` is aware UTC."""
    # strftime's %b would follow the machine's language.
    return f"{time.day} {_MONTHS[time.month - 1]} {time.year}, {time:%H:%M} UTC"


def area_in_words(area_m2: float) -> str:
    """``41 hectares`` or ``4.5 square km``."""
    # No superscripts: Pillow's own font has none.
    return f"{area_m2 / 1e6:.1f} square km" if area_m2 >= 1e6 else f"{area_m2 / 1e4:.0f} hectares"


def odds_in_words(p_value: float) -> str:
    """What the p-value of a detection's strangest tile means, to two significant figures.

    Raises:
        ValueError: it is no p-value.
    """
    if not 0 < p_value <= 1:
        raise ValueError(f"a p-value is above 0 and at most 1; found {p_value}")
    if p_value > 0.2:
        return "Ordinary ground often looks this unusual"
    times = 1 / p_value
    digits = max(math.floor(math.log10(times)) - 1, 0)
    return f"Ordinary ground looks this unusual about once in {round(times, -digits):,.0f}"
