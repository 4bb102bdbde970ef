"""What became of looks that were to be made anew, and how far a run has come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A scene that could not be read again."""

    area: str
    scene_id: str
    item_id: str
    sensing_time: datetime
    reason: str


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """What became of one area."""

    area: str
    wanted: int
    """Looks that had no successor when the run began."""
    stored: int
    """Looks stored."""
    left_out: tuple[LeftOut, ...]
    is_busy: bool = False
    """Another process renews this area; nothing was done."""

    @property
    def left(self) -> int:
        """Looks not come to, because the run was stopped or is another's."""
        return self.wanted - self.stored - len(self.left_out)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """How far a run has come; told at every change."""

    area: str
    doing: Literal["reading", "waiting", "done"]
    """``waiting``: fresh scenes go first."""
    at: int
    """Looks dealt with so far."""
    wanted: int
    item_id: str
