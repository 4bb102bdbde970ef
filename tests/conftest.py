"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

pytest_plugins: list[str] = [
    "tests.servers.postgres",
    "tests.stores",
    "tests.servers.kafka",
    "tests.servers.pgstac",
    "tests.servers.bad_stac",
    "tests.servers.rustac",
]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The development imagery, which is no part of the project; a test that needs it skips without it."""
    path = Path(os.environ.get("VIGIE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (path / "ombria").is_dir():
        pytest.skip(f"development imagery is not at {path}; set VIGIE_DATA to its folder")
    return path
