"""Scores to rows: one row for each scorer and protocol, with intervals bootstrapped by event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluate.bootstrap import PairCounts, event_draws, events_in, interval
from training.evaluate.metrics import auroc_within, average_precision, false_positive_rate
from training.evaluate.ood import Kind, Outcome, Subject
from training.evaluate.protocol import PROTOCOLS, Ground, Protocol, Sides, sides_of

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One scorer under one protocol. None is what cannot be said."""

    scorer: str
    kind: Kind
    protocol: Protocol
    auroc: float | None
    """Over all tiles (or pixels) together."""
    auroc_low: float | None
    """Interval of 95 %, by event."""
    auroc_high: float | None
    auroc_within: float | None
    """Mean over the images that have both kinds."""
    aupr: float | None
    """Average precision; it depends on n_pos / n_neg."""
    fpr95: float | None
    """False positive rate at a recall of 95 %."""
    nfe: int
    """Evaluations of the denoiser for each tile."""
    ms_per_tile: float | None
    """Measured, of one look (of one pair, if paired)."""
    n_pos: int
    n_neg: int


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """One scorer within one event."""

    event: str
    scorer: str
    protocol: Protocol
    auroc: float | None
    n_pos: int
    n_neg: int


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What an outcome says, by the same draws of events throughout."""

    subjects: Sequence[Subject]
    outcome: Outcome
    draws: Float64Array
    """How often each event is drawn.  (draws, E)"""

    @classmethod
    def of(cls, subjects: Sequence[Subject], outcome: Outcome, *, draws: int, seed: int) -> Tables:
        """Draw the events once for all figures."""
        ground = outcome.ground
        there = np.unique(ground.event)
        weights = np.zeros((draws, len(ground.events)))
        weights[:, there] = event_draws(np.random.default_rng((seed, 0xB00)), len(there), draws)
        return cls(subjects=subjects, outcome=outcome, draws=weights)

    def rows(self, *, common: bool = False) -> list[Row]:
        """All rows: of each scorer on every tile that it ran on, or of all on the tiles that all ran on."""
        return [
            self._row(subject, protocol, common)
            for protocol in PROTOCOLS
            for subject in self.subjects
            if protocol != "pixel" or subject.pixels
        ]

    def per_event(self) -> list[EventRow]:
        """The tile protocols within each event that has both kinds, on the tiles that all ran on."""
        ground = self.outcome.ground
        found: list[EventRow] = []
        for subject in self.subjects:
            for protocol in PROTOCOLS[:2]:
                if not is_judged(subject, protocol):
                    continue
                sides = self.sides(subject, protocol, self.usable(subject, protocol, common=True))
                counts = counts_of(sides, ground)
                p, n = (
                    np.bincount(codes, minlength=len(ground.events))
                    for codes in (sides.positive_event, sides.negative_event)
                )
                found += [
                    EventRow(
                        event=event,
                        scorer=subject.name,
                        protocol=protocol,
                        auroc=rounded(counts.of_event(i)),
                        n_pos=int(p[i]),
                        n_neg=int(n[i]),
                    )
                    for i, event in enumerate(ground.events)
                    if p[i] and n[i]
                ]
        return found

    def usable(self, subject: Subject, protocol: Protocol, *, common: bool = False) -> BoolArray:
        """The tiles on which a subject can be judged.  (T,)"""
        there = self.outcome.scores[subject.name].usable(protocol)
        return there & self.outcome.common if common else there

    def sides(self, subject: Subject, protocol: Protocol, rows: BoolArray) -> Sides:
        """A subject's positives and negatives among some tiles."""
        return sides_of(protocol, self.outcome.ground, self.outcome.scores[subject.name], rows)

    def _row(self, subject: Subject, protocol: Protocol, common: bool) -> Row:
        scores, ground = self.outcome.scores[subject.name], self.outcome.ground
        judged = is_judged(subject, protocol)
        # A symmetric score has no figure after-against-before, but the tiles that it would have had are told.
        rows = self.usable(subject, protocol if judged else "flooded-vs-dry", common=common)
        sides = self.sides(subject, protocol, rows)
        area = low = high = within = aupr = fpr95 = None
        if judged and sides.complete:
            counts = counts_of(sides, ground)
            area = counts.auroc()
            bounds = interval(counts.drawn(self.draws), events_in(counts))
            low, high = bounds.low, bounds.high
            within = auroc_within(sides.positive, sides.negative, sides.positive_image, sides.negative_image)
            aupr = average_precision(sides.positive, sides.negative)
            fpr95 = false_positive_rate(sides.positive, sides.negative)
        return Row(
            scorer=subject.name,
            kind=subject.kind,
            protocol=protocol,
            auroc=rounded(area),
            auroc_low=rounded(low),
            auroc_high=rounded(high),
            auroc_within=rounded(within),
            aupr=rounded(aupr),
            fpr95=rounded(fpr95),
            nfe=subject.nfe,
            ms_per_tile=rounded(scores.ms_per_tile),
            n_pos=len(sides.positive),
            n_neg=len(sides.negative),
        )


def is_judged(subject: Subject, protocol: Protocol) -> bool:
    """Whether a subject has a figure under a protocol at all."""
    if protocol == "pixel":
        return subject.pixels
    return protocol == "flooded-vs-dry" or not subject.symmetric


def counts_of(sides: Sides, ground: Ground) -> PairCounts:
    """Pairs won and lost, by event."""
    return PairCounts.of(sides.positive, sides.negative, sides.positive_event, sides.negative_event, len(ground.events))


def rounded(value: float | None) -> float | None:
    """For people and for JSON: five digits, None for what is no number."""
    return None if value is None or not np.isfinite(value) else round(float(value), 5)
