"""One STAC Item by its URL or path, outside any catalog."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from daemon.adapters.fetch import Fetcher
from daemon.errors import SceneInvalid
from daemon.watch.stac_items import with_absolute_hrefs

MAX_BYTES = 16 << 20


def read_item(where: str, *, now: Callable[[], datetime], timeout_s: float = 30.0) -> tuple[dict[str, Any], str]:
    """The Item's JSON with absolute hrefs, and the base that its hrefs were resolved against.

    Raises:
        SceneInvalid: there is no such file, or it is no JSON object.
        CatalogUnavailable: the server failed.
        CatalogInvalid: the server's answer can never be used.
    """
    if where.startswith(("https://", "http://")):
        with Fetcher(where, headers=None, timeout_s=timeout_s, max_bytes=MAX_BYTES, now=now) as fetcher:
            return with_absolute_hrefs(fetcher.fetch_json(where), where), where
    path = Path(where).resolve()
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SceneInvalid(f"{where} cannot be read ({error.strerror}); give the URL or path of a STAC Item") from error
    except ValueError as error:
        raise SceneInvalid(f"{where} is no JSON ({error}); give the URL or path of a STAC Item") from error
    if not isinstance(item, dict):
        raise SceneInvalid(f"{where} holds no JSON object; give the URL or path of a STAC Item")
    return with_absolute_hrefs(item, str(path)), str(path)
