"""Training by two real processes: the same as one, killed and resumed, and what the survivor of a kill says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-c", "from training.cli.train import train; train()")
TRAIN = (*PROGRAM, "denoiser")
STEPS = 40
WAIT_S = 120.0


@pytest.fixture
def data(tmp_path: Path) -> tuple[str, ...]:
    """Options that name five images and a preset that trains in a blink, with conditions."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "ombria"
    for part in ("before", "after", "mask"):
        (folder / part).mkdir(parents=True)
    for i in range(5):
        for part in ("before", "after"):
            coarse = rng.integers(60, 180, (8, 8, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC)
            image.save(folder / part / f"{i}.webp", lossless=True)
        Image.fromarray(np.zeros((48, 48), bool)).save(folder / "mask" / f"{i}.png")
    (folder / "index.csv").write_text("id,event\n" + "".join(f"{i},x_block_A\n" for i in range(5)))
    unet = {"width": 8, "mults": [1, 2], "attention": False}
    # A batch that two processes cannot share equally.
    (tmp_path / "small.json").write_text(
        json.dumps({"tile_px": 16, "crop_px": 8, "batch": 12, "warmup": 4, "unet": unet})
    )
    return ("--data", str(folder), "--preset-file", str(tmp_path / "small.json"), "--threads", "1", "--no-pictures")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def surroundings(**more: str) -> dict[str, str]:
    """The environment of a child: one thread, and talk over loopback only."""
    own = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**own, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **more}


def torchrun(*arguments: str, program: tuple[str, ...] = TRAIN) -> subprocess.CompletedProcess[str]:
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1")
    return subprocess.run(
        [sys.executable, *launcher, "--master-port", str(free_port()), "--no-python", *program, *arguments],
        cwd=ROOT,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def alone(*arguments: str, program: tuple[str, ...] = TRAIN) -> None:
    subprocess.run(
        [*program, *arguments], cwd=ROOT, env=surroundings(), check=True, capture_output=True, timeout=WAIT_S
    )


def start_two(*arguments: str) -> list[subprocess.Popen[str]]:
    """Two processes as torchrun would start them, without its watch over them."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [*TRAIN, *arguments],
            cwd=ROOT,
            env=surroundings(**shared, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def test_two_processes_equal_one_and_a_killed_run_of_two_goes_on_exactly(data: tuple[str, ...], tmp_path: Path) -> None:
    whole, single, killed = (tmp_path / name for name in ("whole", "single", "killed"))
    steps = ("--steps", str(STEPS))
    alone(*data, *steps, "--out", str(single))
    done = torchrun(*data, *steps, "--out", str(whole))
    assert done.returncode == 0, done.stderr
    # Only the first process shows and writes.
    assert done.stderr.count(f"{STEPS}/{STEPS}") == 1
    assert json.loads((whole / "config.json").read_text())["processes"] == 2
    one, two = load_file(single / "weights.safetensors"), load_file(whole / "weights.safetensors")
    assert set(one) == set(two)
    for name, values in one.items():
        # Sums in another order; Adam makes much of the last digits of small gradients.
        np.testing.assert_allclose(two[name], values, rtol=2e-3, atol=2e-3, err_msg=name)
    last = [json.loads((run / "progress.jsonl").read_text().splitlines()[-1]) for run in (single, whole)]
    assert last[1]["losses"]["loss"] == pytest.approx(last[0]["losses"]["loss"], rel=1e-3)

    leader, other = start_two(*data, *steps, "--out", str(killed), "--checkpoint-every", "0")
    try:
        deadline = time.monotonic() + WAIT_S
        while not (killed / "checkpoint.safetensors").is_file():
            assert time.monotonic() < deadline, "no checkpoint was written"
            assert leader.poll() is None, leader.stderr.read() if leader.stderr else ""
            time.sleep(0.002)
        other.send_signal(signal.SIGKILL)
        _, said = leader.communicate(timeout=WAIT_S)
    finally:
        for process in (leader, other):
            process.kill()
            process.communicate()
    assert leader.returncode == 1
    assert "ProcessLost: another process of this run ended or fell silent" in " ".join(said.split())
    assert "start the same command again" in " ".join(said.split())
    assert not (killed / "weights.safetensors").exists()

    resumed = torchrun(*data, *steps, "--out", str(killed))
    assert resumed.returncode == 0, resumed.stderr
    assert (killed / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("msad", ["position", "dense"])
def test_two_processes_train_one_encoder(msad: str, data: tuple[str, ...], tmp_path: Path) -> None:
    """MSAD's negatives are those of both, and DINO's centre is of both: losses and weights are one process's."""
    small = {
        "vit": {"img_size": 16, "patch_size": 8, "dim": 12, "depth": 2, "heads": 2, "drop_path": 0.0},
        "tile_px": 16,
        "source_px": 24,
        "local_px": 8,
        "head_hidden": 8,
        "bottleneck": 4,
        "prototypes": 10,
        # Neither can be shared equally; of the sampled tokens each has another number.
        "msad_dim": 6,
        "dense_tokens": 9,
        "batch": 5,
        "pairs": 7,
        "warmup": 2,
        "freeze_last": 1,
    }
    (tmp_path / "encoder.json").write_text(json.dumps(small))
    options = ("--ombria", data[1], "--preset-file", str(tmp_path / "encoder.json"), "--msad", msad, "--hold-out", "")
    options = (*options, "--steps", "6", "--threads", "1")
    encoder = (*PROGRAM, "xstars")
    alone(*options, "--out", str(tmp_path / "one"), program=encoder)
    done = torchrun(*options, "--out", str(tmp_path / "two"), program=encoder)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("one", "two"))
    assert set(one) == set(two)
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=2e-3, atol=1e-4, err_msg=name)
    last = [json.loads((tmp_path / run / "progress.jsonl").read_text().splitlines()[-1]) for run in ("one", "two")]
    assert last[1]["losses"] == pytest.approx(last[0]["losses"], rel=1e-4)
    assert last[1]["measures"] == last[0]["measures"]


def test_processes_that_fail_end_the_launch_with_the_reason(data: tuple[str, ...], tmp_path: Path) -> None:
    failed = torchrun(*data, "--steps", "2", "--batch", "1", "--out", str(tmp_path / "run"))
    assert failed.returncode != 0
    assert "cannot be shared by 2 processes" in " ".join(failed.stderr.split())
