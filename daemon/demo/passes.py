"""The timetable of the demo: which passes the simulated place sees, and what the weather was."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

PassKind = Literal["clear", "cloudy", "flood", "aerial-before", "aerial-after"]

FLOOD_TIME = datetime(2026, 5, 26, 10, 10, 21, tzinfo=UTC)
"""When the satellite sees the flood, unless another time is asked for."""


@dataclass(frozen=True, kw_only=True)
class PassPlan:
    """One pass before it is rendered."""

    kind: PassKind
    days: float
    """Time against the flood pass, days; negative: before it."""
    stage_m: float
    """Water level above normal, metres."""
    moisture: float
    """How wet bare soil is, 0..1."""
    turbidity: float
    """Suspended sediment in the water, 0..1."""
    cloud_share: float = 0.0
    """Share of the place that is below clouds, 0..1."""
    haze: float = 0.005
    """Reflectance that the air left in the blue band."""
    swath_edge: bool = False
    """Whether a corner lies outside of the swath."""

    @property
    def aerial(self) -> bool:
        """Whether an aircraft flew it."""
        return self.kind.startswith("aerial")

    def time(self, flood_time: datetime) -> datetime:
        """Sensing time, aware UTC, whole seconds."""
        return (flood_time + timedelta(days=self.days)).replace(microsecond=0)


def _clear(days: float, stage_m: float, moisture: float, turbidity: float, cloud_share: float = 0.0) -> PassPlan:
    return PassPlan(
        kind="clear", days=days, stage_m=stage_m, moisture=moisture, turbidity=turbidity, cloud_share=cloud_share
    )


# Multiples of five days, the revisit of two Sentinel-2 satellites; levels and soil follow a usual year.
PASSES: tuple[PassPlan, ...] = (
    _clear(-365, 0.10, 0.35, 0.20),
    _clear(-330, -0.05, 0.15, 0.15, 0.02),
    _clear(-300, -0.15, 0.10, 0.10),
    _clear(-260, -0.20, 0.10, 0.10, 0.04),
    _clear(-225, 0.05, 0.45, 0.25),
    _clear(-190, 0.20, 0.65, 0.35),
    _clear(-150, 0.25, 0.70, 0.35, 0.03),
    _clear(-110, 0.30, 0.65, 0.40),
    _clear(-80, 0.35, 0.50, 0.40),
    _clear(-50, 0.20, 0.40, 0.30, 0.05),
    PassPlan(kind="cloudy", days=-40, stage_m=0.3, moisture=0.6, turbidity=0.4, cloud_share=0.94, haze=0.02),
    PassPlan(kind="clear", days=-25, stage_m=0.10, moisture=0.25, turbidity=0.20, haze=0.012, swath_edge=True),
    PassPlan(kind="aerial-before", days=-12.85, stage_m=0.05, moisture=0.25, turbidity=0.20),
    _clear(-10, 0.05, 0.30, 0.20),
    PassPlan(kind="flood", days=0, stage_m=2.40, moisture=0.80, turbidity=0.90, cloud_share=0.03, haze=0.010),
    PassPlan(kind="aerial-after", days=1.15, stage_m=2.15, moisture=0.75, turbidity=0.85),
)
