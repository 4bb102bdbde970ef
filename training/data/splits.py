"""Splits that depend on names alone: adding images moves none of the others to another side."""

from __future__ import annotations

import hashlib


def held_out(name: str, share: float) -> bool:
    """Whether a name is among the ``share`` (0..1) of all names that is kept from training.

    SHA-256 of the name, read as a fraction of its range, lies below ``share``; a larger share holds out the same names
    and more.
    """
    fraction = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return fraction < share
