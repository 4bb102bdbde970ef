"""Says what to do about a server that a test needs and this machine lacks."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str, remedy: str) -> NoReturn:
    """Skip with an install hint, or fail where ``VIGIE_REQUIRE=all`` forbids skips for servers."""
    reason = f"{what} is not here: {remedy}"
    if os.environ.get("VIGIE_REQUIRE") == "all":
        pytest.fail(f"{reason} (VIGIE_REQUIRE=all forbids skipping)", pytrace=False)
    pytest.skip(reason)
