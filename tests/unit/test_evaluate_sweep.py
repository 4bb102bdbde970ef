from __future__ import annotations

import numpy as np
import pytest

from tests.unit.test_training_flood import tiles
from training.evaluate.flood_study import LIGHTS, study
from training.evaluate.sweep import SweepGrid, SweepPoint, evaluations, knee
from training.evaluate.sweep_report import ranked, sweep_png
from training.flood.fit import FloodFit


def point(run: str, solver: str, steps: int, ratio: float, worth: float, distance: str = "mse") -> SweepPoint:
    return SweepPoint(
        run=run,
        events=(run,),
        solver=solver,  # type: ignore[arg-type]
        steps=steps,
        ratio=ratio,
        distance=distance,
        nfe=evaluations(solver, steps),  # type: ignore[arg-type]
        flooded_vs_dry=worth - 0.1,
        after_vs_before=worth + 0.1,
        energy_correlation=0.5,
        n_pos=4,
        n_neg=4,
    )


def test_settings_come_cheapest_first_and_heun_costs_twice() -> None:
    grid = SweepGrid(euler_steps=(2, 8), heun_steps=(2,), ratios=(10.0, 40.0))
    assert [(solver, steps) for solver, steps, _ in grid.settings()] == [
        ("euler", 2),
        ("euler", 2),
        ("heun", 2),
        ("heun", 2),
        ("euler", 8),
        ("euler", 8),
    ]
    assert (evaluations("euler", 5), evaluations("heun", 5)) == (10, 20)


def test_the_default_is_the_cheapest_setting_near_the_best_affordable_one() -> None:
    points = [
        point("a", "euler", 2, 40, 0.70),
        point("a", "euler", 5, 40, 0.795),
        point("a", "euler", 8, 40, 0.80),
        point("a", "heun", 6, 40, 0.95),  # 24 evaluations: too many.
        point("a", "euler", 3, 40, 0.99, distance="xstars"),
    ]
    assert (knee(points).solver, knee(points).steps) == ("euler", 5)
    # Another network that does badly with it moves the choice: what counts is the mean.
    others = [point("b", "euler", 2, 40, 0.70), point("b", "euler", 5, 40, 0.5), point("b", "euler", 8, 40, 0.80)]
    assert knee([*points, *others]).steps == 8


def test_settings_are_ranked_by_their_mean_over_networks() -> None:
    rows = ranked([point("a", "euler", 2, 40, 0.6), point("b", "euler", 2, 40, 0.8), point("a", "euler", 3, 40, 0.65)])
    assert [row["steps"] for row in rows] == [2, 3]
    assert rows[0]["worth"] == pytest.approx(0.7)
    assert rows[0]["flooded_vs_dry"] == pytest.approx(0.6)


def test_the_figure_is_a_png() -> None:
    points = [point("a", "euler", n, r, 0.6 + n / 100) for n in (2, 3) for r in (10.0, 40.0)]
    assert sweep_png(points, points[0]).startswith(b"\x89PNG")


def test_the_study_judges_each_event_by_a_model_that_did_not_see_it() -> None:
    said: list[str] = []
    floods = tiles(240)
    events = np.asarray(floods.events)
    # Both events need both kinds: the sea is in B, and every other flooded tile too.
    flooded = np.flatnonzero(floods.flooded == 1)
    events[flooded[::2]] = "B"
    whole = type(floods)(**{**floods.__dict__, "events": tuple(events)})
    rows = study(whole, ("swir16", "nir", "red"), FloodFit(draws=1), draws=20, seed=0, say=said.append)
    assert [line for line in said if "fitted" in line] == ["fitted without event A", "fitted without event B"]
    paired = {row.light: row for row in rows if "shipped-paired" in row.variant}
    assert set(paired) == set(LIGHTS)
    assert paired["as it is"].flooded_vs_dry > 0.99
    assert paired["as it is"].after_vs_before > 0.99
    # One look cannot tell the sea of event B from its floods.
    (single,) = [row for row in rows if row.variant == "one look (shipped)" and row.light == "as it is"]
    assert single.flooded_vs_dry < paired["as it is"].flooded_vs_dry
