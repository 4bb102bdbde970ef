"""Measured seconds, and what can honestly be said of a few of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Span:
    """One stage, measured several times on the same tiles."""

    stage: str
    """``read``, ``embed``, ``score``, ``detect`` or ``store``."""
    family: str
    """Sensor family."""
    runner: str | None
    """``torch`` or ``onnxruntime``; None for a stage that runs no network."""
    tiles: int
    """Tiles of one measurement."""
    seconds: tuple[float, ...]
    """One number a round."""

    @property
    def per_tile_s(self) -> float:
        """Median over the rounds, seconds a tile."""
        return statistics.median(self.seconds) / self.tiles

    @property
    def range_s(self) -> tuple[float, float]:
        """Fastest and slowest round, seconds a tile."""
        return min(self.seconds) / self.tiles, max(self.seconds) / self.tiles

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        low, high = self.range_s
        return {
            "stage": self.stage,
            "family": self.family,
            "runner": self.runner,
            "tiles": self.tiles,
            "rounds": len(self.seconds),
            "seconds_per_tile": self.per_tile_s,
            "fastest": low,
            "slowest": high,
        }


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times longer one runner takes than another, round by round: a busy machine slows both alike."""

    stage: str
    family: str
    slower: str
    faster: str
    ratios: tuple[float, ...]

    @classmethod
    def of(cls, one: Span, other: Span) -> Ratio:
        """``one`` over ``other``; the rounds of the two must have been interleaved."""
        pairs = zip(one.seconds, other.seconds, strict=True)
        return cls(
            stage=one.stage,
            family=one.family,
            slower=str(one.runner),
            faster=str(other.runner),
            ratios=tuple(a / b for a, b in pairs),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "stage": self.stage,
            "family": self.family,
            "of": f"{self.slower} : {self.faster}",
            "median": statistics.median(self.ratios),
            "lowest": min(self.ratios),
            "highest": max(self.ratios),
        }


def markdown(machine: dict[str, Any], spans: Sequence[Span], ratios: Sequence[Ratio]) -> str:
    """The report for people."""
    lines = ["# Seconds per tile", "", *(f"- {key}: {value}" for key, value in machine.items()), ""]
    lines += [
        "| stage | family | runner | tiles × rounds | ms a tile, median | fastest to slowest round |",
        "|" + "---|" * 6,
    ]
    for span in spans:
        low, high = span.range_s
        lines.append(
            f"| {span.stage} | {span.family} | {span.runner or '–'} | {span.tiles} × {len(span.seconds)} "
            f"| {_ms(span.per_tile_s)} | {_ms(low)} to {_ms(high)} |"
        )
    lines += ["", "Rounds of the two runners alternate, so that other work on the machine meets both:", ""]
    lines += ["| stage | family | ratio of seconds | median | lowest to highest round |", "|" + "---|" * 5]
    for ratio in ratios:
        told = ratio.to_dict()
        lines.append(
            f"| {ratio.stage} | {ratio.family} | {told['of']} | {told['median']:.2f} "
            f"| {told['lowest']:.2f} to {told['highest']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _ms(seconds: float) -> str:
    """Milliseconds to three digits, without an exponent."""
    value = float(f"{1000 * seconds:.3g}")
    return f"{value:.0f}" if value >= 100 else f"{value:g}"
