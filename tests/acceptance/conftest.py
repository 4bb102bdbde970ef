"""What the acceptance tests share: the simulated place, and graphs that are exported once."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.demo.scenes import DemoPlace, build_demo


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> DemoPlace:
    """A year of clear passes over the simulated valley, and its flood."""
    return build_demo(tmp_path_factory.mktemp("simulated"), only=("clear", "flood"))


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``cache_dir`` for all daemons of the session."""
    return tmp_path_factory.mktemp("graphs")
