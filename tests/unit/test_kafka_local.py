"""What the local broker says where it cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.errors import SinkUnavailable
from daemon.kafka_local import LocalBroker, fetch_jars, why_not


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_without_java_it_says_what_to_install(path: Path, tmp_path: Path) -> None:
    assert "no `java`" in str(why_not(tmp_path))
    with pytest.raises(SinkUnavailable, match="apt-get install openjdk"):
        LocalBroker(tmp_path / "broker", cache=tmp_path).start()


def test_an_old_java_is_named(path: Path, tmp_path: Path) -> None:
    program(path, "java", """echo 'openjdk version "11.0.20" 2023-07-18' >&2""")
    assert "11.0.20" in str(why_not(tmp_path))


def test_without_jars_and_maven_it_says_so_and_with_jars_maven_is_not_needed(path: Path, tmp_path: Path) -> None:
    program(path, "java", """echo 'openjdk version "21" 2023-09-19' >&2""")
    absent = tmp_path / "jars"
    assert "no `mvn`" in str(why_not(absent))
    with pytest.raises(SinkUnavailable, match="no `mvn`"):
        fetch_jars(absent)
    absent.mkdir()
    assert why_not(absent) is None
    assert fetch_jars(absent) == absent


def test_a_failing_maven_is_quoted_and_leaves_nothing_behind(path: Path, tmp_path: Path) -> None:
    program(path, "mvn", "echo '[ERROR] no such host'; exit 1")
    cache = tmp_path / "cache"
    with pytest.raises(SinkUnavailable, match=r"no such host.*mirror"):
        fetch_jars(cache / "kafka")
    assert list(cache.iterdir()) == []


def test_a_broker_that_dies_at_once_points_to_its_log(path: Path, tmp_path: Path) -> None:
    program(path, "java", "echo 'Address already in use'; exit 1")
    jars = tmp_path / "jars"
    jars.mkdir()
    (tmp_path / "broker" / "data").mkdir(parents=True)
    (tmp_path / "broker" / "data" / "meta.properties").touch()
    broker = LocalBroker(tmp_path / "broker", cache=jars)
    with pytest.raises(SinkUnavailable, match=r"broker\.log"):
        broker.start()
    assert "Address already in use" in (tmp_path / "broker" / "broker.log").read_text()
    assert not broker.running
