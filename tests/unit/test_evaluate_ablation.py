"""The ablation: its plan, its children, and verdicts that can be worked out by hand."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from training.errors import RunInvalid
from training.evaluate.encoders.ablation import KNN, LINEAR, Measure, aims, compared, sentence
from training.evaluate.encoders.ablation_plan import START, Ablation
from training.evaluate.encoders.children import Children, Job
from training.running.checkpoint import save_checkpoint

HIT, MISS = np.ones(4), np.zeros(4)
EVERY = np.ones((200, 4))


def plan(out: Path, **changes: object) -> Ablation:
    values = {"out": out, "ombria": Path("O"), "classes": Path("C"), "minutes": 8.0, **changes}
    return Ablation(**values)  # type: ignore[arg-type]


def test_the_plan_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    runs = plan(tmp_path).runs()
    assert [run.name for run in runs] == [
        "start",
        *(f"{mode}-{seed}" for seed in range(3) for mode in ("off", "position", "dense")),
        "compat-0",
        *(f"continual-{mode}-0" for mode in ("off", "position", "dense")),
    ]
    assert {run.after for run in runs if run.kind == "continual"} == {START}
    told = " ".join(plan(tmp_path).arguments(runs[-1]))
    assert f"--from {tmp_path}/start --adapt-to sentinel-2" in told
    assert "--preset ablation --msad dense --seed 0" in told
    assert told.endswith("--minutes 8")
    assert {run.kind for run in plan(tmp_path, continual_seeds=0).runs()} == {"scratch"}
    assert plan(tmp_path, minutes=None).arguments(runs[1])[-2:] == ["--threads", "1"]


def finished(folder: Path, **changes: object) -> None:
    folder.mkdir(parents=True)
    config = {"kind": "xstars", "preset": {"name": "ablation", "msad": "position"}, "seed": 1, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, folder / "weights.safetensors")


def test_finished_runs_are_known_and_others_of_their_name_refused(tmp_path: Path) -> None:
    by_name = {run.name: run for run in plan(tmp_path).runs()}
    assert plan(tmp_path).state(by_name["position-1"]) == "missing"
    finished(tmp_path / "position-1")
    assert plan(tmp_path).state(by_name["position-1"]) == "finished"
    finished(tmp_path / "dense-1")
    with pytest.raises(RunInvalid, match="is a run of preset ablation, MSAD position and seed 1; the ablation plans"):
        plan(tmp_path).state(by_name["dense-1"])


def test_a_started_run_keeps_its_number_of_steps(tmp_path: Path) -> None:
    run = plan(tmp_path).runs()[1]
    (tmp_path / run.name).mkdir()
    save_checkpoint(tmp_path / run.name, {"x": torch.zeros(1)}, {"step": 3, "steps": 77})
    assert plan(tmp_path).state(run) == "started"
    assert plan(tmp_path).arguments(run)[-2:] == ["--steps", "77"]


def job(tmp_path: Path, name: str, code: str, after: str | None = None) -> Job:
    return Job(name=name, command=[sys.executable, "-S", "-c", code], log=tmp_path / f"{name}.log", after=after)


def children(said: list[str], jobs: int = 2) -> Children:
    return Children(jobs=jobs, pause=lambda _: time.sleep(0.01), say=said.append, grace_s=5.0)


def test_children_wait_for_what_they_need(tmp_path: Path) -> None:
    said: list[str] = []
    seen = f"open({str(tmp_path / 'seen')!r}, 'a').write"
    children(said).run([job(tmp_path, "b", f"{seen}('b')", after="a"), job(tmp_path, "a", f"{seen}('a')")])
    assert (tmp_path / "seen").read_text() == "ab"
    assert [line for line in said if line.endswith("finished")] == ["a: finished", "b: finished"]


def test_a_failure_is_told_and_what_needs_it_is_not_begun(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "a", "print('no disk'); raise SystemExit(3)"),
        job(tmp_path, "b", "pass", after="a"),
        job(tmp_path, "c", "print('fine')"),
    ]
    with pytest.raises(RunInvalid, match="a: no disk; b: was not begun") as told:
        children([], jobs=1).run(jobs)
    assert "c:" not in str(told.value)
    assert (tmp_path / "c.log").read_text() == "fine\n"
    assert not (tmp_path / "b.log").exists()


def test_a_stop_ends_children_and_begins_no_other(tmp_path: Path) -> None:
    made = children([], jobs=1)
    waits = "import time; print('in', flush=True); time.sleep(60)"
    started = time.monotonic()

    def pause(seconds: float) -> None:
        time.sleep(0.01)
        if (tmp_path / "a.log").read_text():
            made.stop()

    made.pause = pause
    with pytest.raises(RunInvalid, match="goes on where the checkpoints stand"):
        made.run([job(tmp_path, "a", waits), job(tmp_path, "b", "pass")])
    assert time.monotonic() - started < 30
    assert not (tmp_path / "b.log").exists()


def test_a_sure_gain_has_no_interval_and_a_ratio() -> None:
    half = np.array([1.0, 1, 0, 0])
    row = compared(Measure(name="m", weights=EVERY, chance=0.25), [HIT, HIT], [half, half], 0)
    assert (row["difference"], row["low"], row["high"]) == (0.5, 0.5, 0.5)
    assert (row["ratio"], row["times_chance"], row["seeds"], row["n"]) == (2.0, 4.0, 2, 4)
    assert "helps" in sentence("position", row)


def test_seeds_are_drawn_in_pairs() -> None:
    # Seed 0 gains all, seed 1 loses all: only the draw of seeds can tell, and it tells nothing.
    row = compared(Measure(name="m", weights=EVERY, chance=0.25), [HIT, MISS], [MISS, HIT], 0)
    assert (row["difference"], row["low"], row["high"]) == (0.0, -1.0, 1.0)
    assert "neither" in sentence("dense", row)
    # Paired: both kinds vary by seed, their difference does not.
    steady = compared(Measure(name="m", weights=EVERY, chance=0.25), [HIT, MISS], [HIT, MISS], 0)
    assert (steady["low"], steady["high"]) == (0.0, 0.0)


def test_queries_are_drawn_in_pairs() -> None:
    weights = np.array([[4.0, 0, 0, 0], [0, 0, 0, 4.0]] * 50)
    first = np.array([1.0, 0, 0, 0])
    row = compared(Measure(name="m", weights=weights, chance=0.25), [first], [MISS], 0)
    assert (row["difference"], row["low"], row["high"]) == (0.25, 0.0, 1.0)
    assert row["ratio"] is None


def test_aims_are_held_to_their_numbers() -> None:
    def row(**values: float | None) -> dict[str, float | None]:
        return {"value": 0.1, "ratio": 3.5, "times_chance": 9.0, "difference": 0.0, **values}

    told = aims(
        {"position": {"S1→S2 recall@1 (cls)": row(), "kNN accuracy": row()}},
        [
            {"run": "continual-off-0", "measure": KNN, **row(difference=-0.03)},
            {"run": "continual-off-0", "measure": LINEAR, **row(difference=0.5)},
        ],
        {"position": row(difference=0.16)},
    )
    assert [each["reached"] for each in told] == [True, False, False, True]
    nothing = aims({"dense": {"S1→S2 recall@1 (cls)": row(ratio=None)}}, [], {})
    assert nothing[0]["reached"] is True
