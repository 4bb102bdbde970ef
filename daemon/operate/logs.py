"""Structured logs: one sentence a line, with ``action=`` and what it was about. Set up by the CLI alone."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import structlog

LogStyle = Literal["console", "json"]

_SECRET = re.compile(
    r"(?i)\b(sig|signature|x-amz-signature|x-amz-security-token|token|api[-_]?key|password)=[^&\s\"']+"
)
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/@\s:]*:[^/@\s]*@")
_CHATTY = {"kafka": logging.CRITICAL, "rasterio": logging.ERROR, "urllib3": logging.ERROR, "alembic": logging.WARNING}
"""Libraries that log as errors what Vigie handles, and reports in its own words."""


def configure_logs(style: LogStyle = "console", level: str = "info", stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging to write to one stream.

    Args:
        style: ``console`` for people, ``json`` for machines (one object a line).
        level: the least severe level that is written: ``debug``, ``info``, ``warning`` or ``error``.
        stream: where to; None is standard error, so that standard output stays the command's own.
    """
    out = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[structlog.typing.Processor]
    if style == "json":
        # Secrets are hidden after the traceback has become text, for it may quote an address.
        render = [
            structlog.processors.format_exc_info,
            hide_secrets,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(sort_keys=True, ensure_ascii=False),
        ]
    else:
        render = [
            structlog.processors.format_exc_info,
            hide_secrets,
            structlog.dev.ConsoleRenderer(colors=out.isatty(), timestamp_key="time"),
        ]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(threshold)
    for name, least in _CHATTY.items():
        logging.getLogger(name).setLevel(max(least, threshold))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def hide_secrets(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank out signatures, tokens and passwords in every text of a log line (a structlog processor)."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _USERINFO.sub(r"\1***@", _SECRET.sub(r"\1=***", value))
    return event
