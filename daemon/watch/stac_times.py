"""Times as STAC writes them (RFC 3339), to aware UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_RFC3339 = re.compile(
    r"^(?P<day>\d{4}-\d{2}-\d{2})[Tt ](?P<clock>\d{2}:\d{2}):(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?"
    r"(?P<zone>[Zz]|[+-]\d{2}:?\d{2})?$"
)


def parse_time(text: object) -> datetime:
    """A STAC time as aware UTC; fractions are cut to microseconds.

    STAC fixes UTC, so a time without a zone is taken as UTC, never as the machine's local time; one with an offset is
    converted. Raises :class:`ValueError` on anything else: a bare date, a number, an impossible day.
    """
    match = _RFC3339.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time such as 2025-07-31T13:19:22.930Z")
    second = int(match["second"])
    leap = timedelta(seconds=1) if second == 60 else timedelta()  # RFC 3339 allows 23:59:60; datetime does not
    micros = (match["fraction"] or "").ljust(6, "0")[:6]
    zone = (match["zone"] or "Z").upper().replace("Z", "+00:00")
    try:
        at = datetime.fromisoformat(
            f"{match['day']}T{match['clock']}:{min(second, 59) if leap else second:02d}.{micros}{zone}"
        )
        return at.astimezone(UTC) + leap
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is not a time: {error}") from error


def format_time(at: datetime) -> str:
    """Aware UTC as STAC writes it, with microseconds only where there are any."""
    text = at.astimezone(UTC).isoformat(timespec="microseconds" if at.microsecond else "seconds")
    return text.replace("+00:00", "Z")
