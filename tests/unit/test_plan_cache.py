"""Plans: built once, shared by processes, and never trusted because they lie in the right place."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from engine.errors import RunnerUnavailable
from engine.runners.plan_cache import DeviceIdentity, PlanCache, PlanKey

DEVICE = DeviceIdentity(name="GPU", compute_capability="9.0", driver="580.1", library="11.2")
KEY = PlanKey(onnx_sha256="ab" * 32, device=DEVICE, precision="fp16", profile="1,32,32")
ROOT = Path(__file__).resolve().parents[2]


class Builder:
    """Bytes in, bytes out; counts."""

    def __init__(self) -> None:
        self.builds = 0

    def __call__(self) -> bytes:
        self.builds += 1
        return b"plan %d" % self.builds


@pytest.fixture
def build() -> Builder:
    return Builder()


def plan_file(folder: Path) -> Path:
    return folder / "plans" / KEY.file_name


def test_a_plan_is_built_once_and_loaded_by_the_next_process(tmp_path: Path, build: Builder) -> None:
    first = PlanCache(tmp_path).get(KEY, build)
    assert (first.content, first.built) == (b"plan 1", True)
    again = PlanCache(tmp_path).get(KEY, build)
    assert (again.content, again.built) == (b"plan 1", False)
    assert build.builds == 1
    assert sorted(path.suffix for path in (tmp_path / "plans").iterdir()) == [".lock", ".plan"]


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, onnx_sha256="cd" * 32),
        replace(KEY, precision="fp32"),
        replace(KEY, profile="1,64,64"),
        replace(KEY, device=replace(DEVICE, compute_capability="8.0")),
        replace(KEY, device=replace(DEVICE, driver="580.2")),
        replace(KEY, device=replace(DEVICE, library="11.4")),
        replace(KEY, device=replace(DEVICE, name="another GPU")),
    ],
)
def test_a_change_of_anything_is_another_plan(tmp_path: Path, build: Builder, other: PlanKey) -> None:
    cache = PlanCache(tmp_path)
    cache.get(KEY, build)
    assert cache.get(other, build).content == b"plan 2"
    assert cache.get(KEY, build).content == b"plan 1"


def test_folder_and_key_are_the_users_alone(tmp_path: Path, build: Builder) -> None:
    old = os.umask(0)
    try:
        PlanCache(tmp_path).get(KEY, build)
    finally:
        os.umask(old)
    assert (tmp_path / "plans").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "plan.key").stat().st_mode & 0o777 == 0o600
    assert plan_file(tmp_path).stat().st_mode & 0o077 == 0


def spoil(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "empty":
        content = bytearray()
    elif how == "half":
        content = content[: len(content) // 2]
    elif how == "one byte short":
        content = content[:-1]
    elif how == "one byte more":
        content += b"x"
    elif how == "magic":
        content[0] ^= 1
    elif how == "signature":
        content[20] ^= 1
    elif how == "label":
        content[content.index(b"fp16")] ^= 1
    else:
        content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "how", ["empty", "half", "one byte short", "one byte more", "magic", "signature", "label", "content"]
)
def test_a_damaged_plan_is_refused_said_and_rebuilt(
    tmp_path: Path, build: Builder, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    PlanCache(tmp_path).get(KEY, build)
    spoil(plan_file(tmp_path), how)
    with caplog.at_level(logging.WARNING):
        again = PlanCache(tmp_path).get(KEY, build)
    assert (again.content, again.built) == (b"plan 2", True)
    assert "refused and built anew" in caplog.text
    assert PlanCache(tmp_path).get(KEY, build).content == b"plan 2"


def test_a_plan_that_another_key_signed_is_refused(tmp_path: Path, build: Builder) -> None:
    PlanCache(tmp_path / "theirs").get(KEY, build)
    mine = PlanCache(tmp_path / "mine")
    plan_file(tmp_path / "mine").write_bytes(plan_file(tmp_path / "theirs").read_bytes())
    assert mine.get(KEY, build).content == b"plan 2"


def test_a_plan_of_mine_under_anothers_name_is_refused(
    tmp_path: Path, build: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    cache, stale = PlanCache(tmp_path), replace(KEY, onnx_sha256="cd" * 32)
    cache.get(stale, build)
    (tmp_path / "plans" / stale.file_name).rename(plan_file(tmp_path))
    assert cache.get(KEY, build).content == b"plan 2"
    assert f"it is for {stale.label}" in caplog.text


def test_a_damaged_key_costs_a_build_and_no_more(tmp_path: Path, build: Builder) -> None:
    PlanCache(tmp_path).get(KEY, build)
    (tmp_path / "plan.key").write_bytes(b"short")
    assert PlanCache(tmp_path).get(KEY, build).content == b"plan 2"
    assert (tmp_path / "plan.key").stat().st_mode & 0o777 == 0o600
    assert PlanCache(tmp_path).get(KEY, build).content == b"plan 2"


@pytest.mark.parametrize("name", ["plans", "plan.key"])
def test_what_others_could_use_is_refused_with_a_remedy(tmp_path: Path, build: Builder, name: str) -> None:
    PlanCache(tmp_path).get(KEY, build)
    (tmp_path / name).chmod(0o755)
    with pytest.raises(RunnerUnavailable, match=r"could be used by others.*mode 755.*make it yours"):
        PlanCache(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["plans", "plan.key"])
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, build: Builder, name: str) -> None:
    PlanCache(tmp_path).get(KEY, build)
    os.chown(tmp_path / name, 12345, 12345)
    with pytest.raises(RunnerUnavailable, match="owner 12345"):
        PlanCache(tmp_path)


def test_links_are_not_followed(tmp_path: Path, build: Builder) -> None:
    PlanCache(tmp_path / "a").get(KEY, build)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "plans").symlink_to(tmp_path / "a" / "plans")
    with pytest.raises(RunnerUnavailable, match="could be used by others"):
        PlanCache(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "plan.key").symlink_to(tmp_path / "a" / "plan.key")
    with pytest.raises(RunnerUnavailable, match="cannot be kept"):
        PlanCache(tmp_path / "c")


def test_a_build_that_fails_leaves_nothing_and_frees_the_lock(tmp_path: Path, build: Builder) -> None:
    def fails() -> bytes:
        raise ValueError("no")

    cache = PlanCache(tmp_path)
    with pytest.raises(ValueError, match="no"):
        cache.get(KEY, fails)
    assert not plan_file(tmp_path).exists()
    assert cache.get(KEY, build).built


def test_a_plan_can_be_forgotten(tmp_path: Path, build: Builder) -> None:
    cache = PlanCache(tmp_path)
    cache.get(KEY, build)
    cache.remove(KEY)
    assert cache.get(KEY, build).content == b"plan 2"


def test_timings_are_kept_by_device_and_only_if_signed(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path)
    assert cache.timing(DEVICE) == b""
    cache.keep_timing(DEVICE, b"timings")
    assert cache.timing(DEVICE) == b"timings"
    assert cache.timing(replace(DEVICE, driver="other")) == b""
    (path,) = (tmp_path / "plans").glob("*.timing")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert cache.timing(DEVICE) == b""


CHILD = """
import json, os, sys, time
from pathlib import Path
from engine.runners.plan_cache import DeviceIdentity, PlanCache, PlanKey
folder, start, key = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
key = PlanKey(**(key | {"device": DeviceIdentity(**key["device"])}))
def build():
    with (folder / "builds").open("a") as file: file.write(f"{os.getpid()}\\n")
    if len(sys.argv) > 4: os.kill(os.getpid(), 9)
    time.sleep(0.3)
    return b"plan of %d" % os.getpid()
print("ready", flush=True)
while not start.exists(): time.sleep(0.005)
plan = PlanCache(folder).get(key, build)
print(json.dumps([plan.content.decode(), plan.built]), flush=True)
"""


def child(folder: Path, start: Path, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(start), json.dumps(asdict(KEY)), *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_that_build_at_once_agree(tmp_path: Path) -> None:
    start = tmp_path / "start"
    children = [child(tmp_path, start) for _ in range(3)]
    start.touch()
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in children]
    builders = (tmp_path / "builds").read_text().split()
    assert len(builders) == 1
    assert {content for content, _ in answers} == {f"plan of {builders[0]}"}
    assert sorted(built for _, built in answers) == [False, False, True]


def test_a_builder_that_is_killed_leaves_no_one_waiting(tmp_path: Path, build: Builder) -> None:
    start = tmp_path / "start"
    killed = child(tmp_path, start, "die")
    start.touch()
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    assert PlanCache(tmp_path).get(KEY, build).built


def test_a_wait_can_be_given_up(tmp_path: Path, build: Builder) -> None:
    class GivenUp(Exception):
        pass

    def give_up() -> None:
        raise GivenUp

    cache = PlanCache(tmp_path)

    def build_while_another_asks() -> bytes:
        with pytest.raises(GivenUp):
            PlanCache(tmp_path).get(KEY, build, wait=give_up)
        return b"mine"

    assert cache.get(KEY, build_while_another_asks).content == b"mine"
    assert build.builds == 0
