"""Scorers against controls: who is better, and what a score knows that a control does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from training.evaluate.bootstrap import PairCounts, events_in, interval
from training.evaluate.metrics import joint_strata, z_sum
from training.evaluate.ood import Subject
from training.evaluate.protocol import PROTOCOLS, TILE_PROTOCOLS, Protocol, Sides, sides_of
from training.evaluate.table import Tables, counts_of, is_judged, rounded

STRATA = 10
"""Quantile strata of a control, within which a score is judged."""

JOINT_STRATA = 3
"""The same of each control where several are held level together: finer strata would hold hardly a pair."""

Against = Literal["one look", "any"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A scorer less the best control on the same tiles, by the same draws of events.

    The control is the one that turned out best on these very tiles, so the comparison leans to its side.
    """

    scorer: str
    control: str
    against: Against
    """``one look``: controls that see the image alone; ``any``: those that see the earlier look too."""
    protocol: Protocol
    auroc: float | None
    control_auroc: float | None
    difference: float | None
    low: float | None
    high: float | None
    excludes_zero: bool | None
    n_pos: int
    n_neg: int
    events: int


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What a scorer knows beyond a reference control, or beyond all of them together."""

    scorer: str
    beyond: str
    """The control's name, or all names with a plus between."""
    protocol: Protocol
    within_strata: float | None
    """AUROC over the pairs that lie in one tenth of the reference's values, or in one third of each of several: 0.5
    is nothing."""
    within_share: float
    """Share of all pairs that lie so, 0..1."""
    within_low: float | None
    within_high: float | None
    reference_auroc: float | None
    fused_auroc: float | None
    """Of the sum of both z-scores."""
    added: float | None
    """Fused less the reference."""
    added_low: float | None
    added_high: float | None
    n_pos: int
    n_neg: int


def differences(tables: Tables) -> list[Difference]:
    """Every scorer that is no control against the best control, on all tiles that it and the controls ran on."""
    controls = [subject for subject in tables.subjects if subject.kind == "control"]
    kinds: tuple[tuple[Against, list[Subject]], ...] = (
        ("one look", [subject for subject in controls if subject.unpaired is not None]),
        ("any", controls),
    )
    found: list[Difference] = []
    for protocol in PROTOCOLS:
        for subject in tables.subjects:
            if subject.kind == "control" or not is_judged(subject, protocol):
                continue
            for against, allowed in kinds:
                rivals = [control for control in allowed if is_judged(control, protocol)]
                each = _against_best(tables, subject, rivals, against, protocol)
                found += [each] if each else []
    return found


def knowledge(tables: Tables) -> list[Knowledge]:
    """Every scorer that is no control, beside each reference control and all of them, on the tiles that all ran on."""
    found: list[Knowledge | None] = []
    for protocol in TILE_PROTOCOLS:
        references = [each for each in tables.subjects if each.reference and is_judged(each, protocol)]
        together = [references] if len(references) > 1 else []
        for subject in tables.subjects:
            if subject.kind != "control" and is_judged(subject, protocol):
                held = [[reference] for reference in references] + together
                found += [_beyond(tables, subject, those, protocol) for those in held]
    return [each for each in found if each is not None]


def _against_best(
    tables: Tables, subject: Subject, rivals: Sequence[Subject], against: Against, protocol: Protocol
) -> Difference | None:
    ground = tables.outcome.ground
    rows = tables.usable(subject, protocol)
    for rival in rivals:
        rows = rows & tables.usable(rival, protocol)
    own = tables.sides(subject, protocol, rows)
    if not rivals or not own.complete:
        return None
    counts = counts_of(own, ground)
    theirs = {rival.name: counts_of(tables.sides(rival, protocol, rows), ground) for rival in rivals}
    best = max(theirs, key=lambda name: theirs[name].auroc() or 0.0)
    mine, other = counts.auroc(), theirs[best].auroc()
    assert mine is not None
    assert other is not None
    events = events_in(counts)
    bounds = interval(counts.drawn(tables.draws) - theirs[best].drawn(tables.draws), events)
    return Difference(
        scorer=subject.name,
        control=best,
        against=against,
        protocol=protocol,
        auroc=rounded(mine),
        control_auroc=rounded(other),
        difference=rounded(mine - other),
        low=rounded(bounds.low),
        high=rounded(bounds.high),
        excludes_zero=bounds.excludes_zero,
        n_pos=len(own.positive),
        n_neg=len(own.negative),
        events=events,
    )


def _beyond(tables: Tables, subject: Subject, references: Sequence[Subject], protocol: Protocol) -> Knowledge | None:
    ground, scores = tables.outcome.ground, tables.outcome.scores
    rows = tables.usable(subject, protocol)
    for reference in references:
        rows = rows & tables.usable(reference, protocol)
    own, *others = (
        sides_of(protocol, ground, scores[each.name].log() if each.logarithmic else scores[each.name], rows)
        for each in (subject, *references)
    )
    if not own.complete:
        return None
    stratified = _within(own, others, len(ground.events))
    known = [other.both for other in others]
    fused = counts_of(own.with_scores(z_sum(own.both, *known)), ground)
    alone = counts_of(own.with_scores(z_sum(*known)) if len(known) > 1 else others[0], ground)
    events = events_in(alone)
    inside = interval(stratified.drawn(tables.draws), events)
    gain = interval(fused.drawn(tables.draws) - alone.drawn(tables.draws), events)
    together, reference_auroc = fused.auroc(), alone.auroc()
    assert together is not None
    assert reference_auroc is not None
    return Knowledge(
        scorer=subject.name,
        beyond=" + ".join(reference.name for reference in references),
        protocol=protocol,
        within_strata=rounded(stratified.auroc()),
        within_share=round(float(stratified.pairs.sum() / alone.pairs.sum()), 4),
        within_low=rounded(inside.low),
        within_high=rounded(inside.high),
        reference_auroc=rounded(reference_auroc),
        fused_auroc=rounded(together),
        added=rounded(together - reference_auroc),
        added_low=rounded(gain.low),
        added_high=rounded(gain.high),
        n_pos=len(own.positive),
        n_neg=len(own.negative),
    )


def _within(own: Sides, others: Sequence[Sides], events: int) -> PairCounts:
    strata = joint_strata([other.both for other in others], STRATA if len(others) == 1 else JOINT_STRATA)
    return PairCounts.within(
        own.positive,
        own.negative,
        own.positive_event,
        own.negative_event,
        events,
        strata[: len(own.positive)],
        strata[len(own.positive) :],
    )
