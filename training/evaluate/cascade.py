"""A cheap score first: what the full decision still has to see, and what that saves.

A tile goes on to the full decision where its cheap score is at or above a limit. The limit is the highest at which a
share ``keep`` of the positives that the full decision finds would have gone on; chosen on all events but one, and
applied to that one. What the cheap score stops is never flagged, so false tiles can only become fewer. With the costs
of a tile,

    relative cost = (cheap + passed * full) / full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import InputMismatch

FloatArray = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

KEEP = 0.98


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of one tile, in any one unit."""

    cheap: float
    full: float
    """Above 0."""

    def __post_init__(self) -> None:
        if not (self.cheap >= 0 and self.full > 0):
            raise InputMismatch(f"costs of {self.cheap} and {self.full}; the full decision's must be above 0")

    def relative(self, passed: float) -> float:
        """Cost of the cascade over that of the full decision, where a share of the tiles goes on."""
        return (self.cheap + passed * self.full) / self.full


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """A cascade on some tiles. None is what cannot be said."""

    passed: float | None
    """Share of all tiles that go on."""
    passed_normal: float | None
    """Share of the tiles that are no positives: in service nearly all are such."""
    full_recall: float | None
    """Positives that the full decision flags."""
    recall: float | None
    """Positives that both let through."""
    kept: float | None
    """The latter over the former."""
    false_full: float | None
    """Normal tiles that the full decision flags."""
    false: float | None
    """Normal tiles that both let through."""
    cost: float | None
    """Relative to the full decision, on these tiles."""
    cost_normal: float | None
    """The same where all tiles are normal."""
    tiles: int
    positives: int


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A cascade whose limit was chosen on other events than it is told of."""

    pooled: Cascade
    by_event: dict[str, Cascade]
    limits: dict[str, float]
    """Of each event; −inf where the others have nothing to choose it by."""


def limit_of(cheap: FloatArray, found: BoolArray, keep: float = KEEP) -> float:
    """The highest limit at which a share ``keep`` of the tiles ``found`` goes on; −inf without any.  (n,) each

    Raises:
        InputMismatch: ``keep`` is not above 0 and at most 1.
    """
    if not 0 < keep <= 1:
        raise InputMismatch(f"a share of {keep} to keep; above 0 and at most 1 is expected")
    scores = np.sort(cheap[found])
    if not len(scores):
        return -math.inf
    # The guard keeps 0.98 * 50 from becoming 50 by rounding.
    needed = math.ceil(keep * len(scores) - 1e-9)
    return float(scores[len(scores) - needed])


def cascade(
    passes: BoolArray, flagged: BoolArray, positive: BoolArray, costs: Costs, normal: BoolArray | None = None
) -> Cascade:
    """What becomes of tiles that the cheap score passes and the full decision would flag.  (n,) each

    ``normal``: tiles on which nothing happened; None: all that are not positive.
    """
    quiet = ~positive if normal is None else normal
    hits = flagged & positive
    passed = _share(passes)
    passed_normal = _share(passes[quiet])
    return Cascade(
        passed=passed,
        passed_normal=passed_normal,
        full_recall=_share(flagged[positive]),
        recall=_share((flagged & passes)[positive]),
        kept=_share(passes[hits]),
        false_full=_share(flagged[quiet]),
        false=_share((flagged & passes)[quiet]),
        cost=None if passed is None else costs.relative(passed),
        cost_normal=None if passed_normal is None else costs.relative(passed_normal),
        tiles=len(passes),
        positives=int(positive.sum()),
    )


def left_out(
    cheap: FloatArray,
    full: FloatArray,
    positive: BoolArray,
    events: Sequence[str],
    *,
    threshold: float | FloatArray,
    costs: Costs,
    keep: float = KEEP,
    normal: BoolArray | None = None,
) -> LeftOut:
    """Choose the limit on all events but one, and apply it there; for each event in turn.

    Args:
        cheap: higher is likelier to go on.  (n,)
        full: scores of the full decision.  (n,)
        positive: the label.  (n,)
        events: name of each tile's event.  (n,)
        threshold: the full decision's working threshold, of all tiles or of each (n,); a tile above it is flagged.
        costs: of a tile.
        keep: share of the full decision's recall to keep on the events chosen by.
        normal: tiles on which nothing happened (n,); None: all that are not positive.

    Raises:
        InputMismatch: arrays of other lengths, or a cheap score that is not finite.
    """
    if not len(cheap) == len(full) == len(positive) == len(events):
        raise InputMismatch(
            f"{len(cheap)} cheap and {len(full)} full scores, {len(positive)} labels and {len(events)} events; one "
            "length is needed"
        )
    if not np.isfinite(cheap).all():
        raise InputMismatch("a cheap score is not finite; leave such tiles out")
    names = np.asarray(events, dtype=np.str_)
    flagged = np.asarray(full > threshold)
    quiet = ~positive if normal is None else normal
    passes = np.zeros(len(cheap), dtype=np.bool_)
    limits: dict[str, float] = {}
    parts: dict[str, Cascade] = {}
    for name in sorted(set(events)):
        own = names == name
        limits[name] = limit_of(cheap[~own], (flagged & positive)[~own], keep)
        passes[own] = cheap[own] >= limits[name]
        parts[name] = cascade(passes[own], flagged[own], positive[own], costs, quiet[own])
    return LeftOut(pooled=cascade(passes, flagged, positive, costs, quiet), by_event=parts, limits=limits)


def curve(
    cheap: FloatArray, flagged: BoolArray, positive: BoolArray, normal: BoolArray | None = None
) -> tuple[Float64Array, Float64Array]:
    """Share of the normal tiles that goes on, and kept share of the hits, at every limit; rising.

    It describes these tiles, and chooses nothing. ``normal`` as in :func:`left_out`.

    Raises:
        InputMismatch: there is no hit, or no normal tile.
    """
    hits, quiet = cheap[flagged & positive], cheap[~positive if normal is None else normal]
    if not len(hits) or not len(quiet):
        raise InputMismatch(f"{len(hits)} positives are found and {len(quiet)} tiles are normal; both are needed")
    limits = np.unique(cheap)[::-1]
    passed = 1 - np.searchsorted(np.sort(quiet), limits, side="left") / len(quiet)
    kept = 1 - np.searchsorted(np.sort(hits), limits, side="left") / len(hits)
    return passed, kept


def _share(values: BoolArray) -> float | None:
    return float(values.mean()) if len(values) else None
