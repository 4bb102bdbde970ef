"""Logs that machines can read and that keep secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest
import structlog

from daemon.errors import CatalogUnavailable
from daemon.operate.logs import configure_logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_json_carries_sentence_action_level_and_utc_time(stream: io.StringIO) -> None:
    configure_logs("json", "info", stream)
    structlog.get_logger("daemon.score.worker").info("a scene was scored", action="mark done", scene="S2A é", tiles=12)
    (line,) = lines(stream)
    assert datetime.fromisoformat(line.pop("time")).utcoffset() == datetime.fromisoformat("2026-01-01T00Z").utcoffset()
    assert line == {
        "message": "a scene was scored",
        "action": "mark done",
        "scene": "S2A é",
        "tiles": 12,
        "level": "info",
    }


def test_a_logger_made_before_the_set_up_obeys_it(stream: io.StringIO) -> None:
    log = structlog.get_logger("daemon.early")
    configure_logs("json", "warning", stream)
    log.info("not this")
    log.warning("but this")
    assert [line["message"] for line in lines(stream)] == ["but this"]


def test_lines_of_libraries_are_structured_too_and_chatty_ones_are_quiet(stream: io.StringIO) -> None:
    configure_logs("json", "info", stream)
    logging.getLogger("some.library").warning("disk %s is full", "a")
    logging.getLogger("kafka.client").error("Bootstrap failed: nobody")
    assert [(line["message"], line["level"]) for line in lines(stream)] == [("disk a is full", "warning")]


def test_an_exception_is_one_line_with_its_traceback(stream: io.StringIO) -> None:
    configure_logs("json", "info", stream)
    try:
        raise CatalogUnavailable("earth-search answered 503; it is tried again")
    except CatalogUnavailable:
        structlog.get_logger().exception("a poll failed", action="try again")
    (line,) = lines(stream)
    assert "earth-search answered 503" in line["exception"]
    assert line["level"] == "error"


@pytest.mark.parametrize("style", ["json", "console"])
def test_secrets_are_not_written(stream: io.StringIO, style: str) -> None:
    configure_logs(style, "info", stream)  # type: ignore[arg-type]
    log = structlog.get_logger()
    log.info("read", href="https://a.blob.core.windows.net/x.tif?sv=2024&sig=SECRET%2Bone&se=2026")
    log.info("open postgresql://vigie:SECRET-two@db.example/vigie")
    try:
        raise OSError("cannot read https://bucket/x.tif?X-Amz-Signature=SECRETthree")
    except OSError:
        log.exception("failed")
    written = stream.getvalue()
    assert "SECRET" not in written
    assert "a.blob.core.windows.net/x.tif?sv=2024&sig=***&se=2026" in written
    assert "db.example/vigie" in written


def test_people_get_plain_lines_without_colours_in_a_pipe(stream: io.StringIO) -> None:
    configure_logs("console", "info", stream)
    structlog.get_logger().info("a scene was scored", action="mark done")
    assert "a scene was scored" in stream.getvalue()
    assert "action=" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
