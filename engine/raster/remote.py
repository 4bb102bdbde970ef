"""One small request before GDAL is let loose on a URL.

GDAL follows redirects and cannot be told not to, so a redirect on an allowed host would lead anywhere; it also reports
"not a supported file" for many things that a plain answer tells apart. So the first bytes are asked for here.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any

from engine.errors import RasterRefused, RasterUnavailable


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def peek(url: str, timeout_s: float, *, count: int = 16) -> tuple[bytes, int | None]:
    """The first ``count`` bytes of a file on a server, and its size where the server says it.

    Raises:
        RasterRefused: the server redirects to another address.
        RasterUnavailable: it failed, throttled, timed out, denied, or does not have the file (yet).
    """
    request = urllib.request.Request(url, headers={"Range": f"bytes=0-{count - 1}", "User-Agent": "vigie"})
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return answer.read(count), _size(answer.status, answer.headers)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # A range cannot be had of an empty file.
            return b"", 0
        if 300 <= error.code < 400:
            target = error.headers.get("Location", "an unnamed address")
            raise RasterRefused(
                f"{_plain(url)} redirects to {_plain(target)}; redirects are never followed. "
                "If that host is to be trusted, have the catalog name it, and allow it"
            ) from error
        raise RasterUnavailable(http_failure(url, error.code)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise RasterUnavailable(f"the server of {_plain(url)} cannot be reached: {reason}") from error


def http_failure(url: str, code: int) -> str:
    """What an HTTP status means for the reading of a file."""
    if code in (404, 410):
        return f"{_plain(url)} is not there (HTTP {code}); a catalog may announce a file before it is written"
    if code in (401, 403):
        return f"{_plain(url)} was denied (HTTP {code}); its signature may have expired"
    return f"the server of {_plain(url)} answered HTTP {code}"


def _size(status: int, headers: Any) -> int | None:
    text = headers.get("Content-Range", "").rpartition("/")[2] if status == 206 else headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _plain(url: str) -> str:
    """A URL without its query: signatures do not belong in logs."""
    return url.partition("?")[0]
