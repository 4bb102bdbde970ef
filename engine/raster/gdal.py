"""GDAL's settings, and its failures in our own words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from engine.errors import RasterCorrupt, RasterRefused, RasterUnavailable, VigieError
from engine.raster.remote import http_failure, peek
from engine.read_plan import ReadLimits

_TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_HTTP_CODE = re.compile(r"(?:HTTP response code(?: on \S+)?:|response_code=|HTTP error code ?:)\s*(\d{3})")


def is_remote(href: str) -> bool:
    """Whether an href is read over HTTP."""
    return href.startswith(("https://", "http://"))


def shown(href: str) -> str:
    """An href for messages: without its query, since signatures do not belong in logs."""
    return href.partition("?")[0] if is_remote(href) else href


@contextmanager
def gdal(limits: ReadLimits, remaining_s: float) -> Iterator[None]:
    """GDAL's configuration for one opening or one read; nothing of it outlives the block."""
    request_s = max(1, int(min(limits.request_timeout_s, remaining_s)))
    with rasterio.Env(
        # Bounded caches: long-lived GDAL processes grow otherwise (rasterio issues 1291, 2485).
        GDAL_CACHEMAX=128,
        CPL_VSIL_CURL_CACHE_SIZE=32 * 2**20,
        # A transient 503 must not be remembered as "no such file", nor a replaced file as the old one (rasterio 2119).
        CPL_VSIL_CURL_NON_CACHED="/vsicurl/",
        # No directory listings, no sidecar files: a TIFF alone says what it is.
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
        GDAL_PAM_ENABLED=False,
        GDAL_GEOREF_SOURCES="INTERNAL",
        # A damaged block is an error, never zeros.
        GTIFF_IGNORE_READ_ERRORS=False,
        # Fewer, larger requests.
        GDAL_INGESTED_BYTES_AT_OPEN=32768,
        GDAL_HTTP_MERGE_CONSECUTIVE_RANGES=True,
        GDAL_HTTP_MULTIPLEX=True,
        # Every wait has an end.
        GDAL_HTTP_TIMEOUT=request_s,
        GDAL_HTTP_CONNECTTIMEOUT=min(10, request_s),
        GDAL_HTTP_LOW_SPEED_TIME=min(15, request_s),
        GDAL_HTTP_LOW_SPEED_LIMIT=1000,
        GDAL_HTTP_MAX_RETRY=limits.retries,
        GDAL_HTTP_RETRY_DELAY=0.5,
        GDAL_HTTP_NETRC=False,
    ):
        yield


def gdal_name(href: str, limits: ReadLimits, remaining_s: float) -> tuple[str, int | None]:
    """The name under which GDAL opens an approved href, and the file's size, after what can be known without GDAL.

    Raises:
        RasterRefused: neither a plain local file nor an http(s) URL, redirected, XML, or too large.
        RasterCorrupt: empty, or not a TIFF.
        RasterUnavailable: it is not there (yet), may not be read, or its server failed.
    """
    if is_remote(href):
        head, size = peek(href, min(limits.request_timeout_s, remaining_s))
        name = f"/vsicurl/{href}"
    else:
        head, size = _local_head(href)
        name = href
    if size == 0 or not head:
        raise RasterCorrupt(f"file {shown(href)} is empty")
    if size is not None and size > limits.max_bytes:
        raise RasterRefused(f"file {shown(href)} has {size} bytes; the limit is {limits.max_bytes}")
    if head.lstrip().startswith(b"<"):
        raise RasterRefused(f"file {shown(href)} is XML or HTML, not a GeoTIFF; virtual rasters (VRT) are never opened")
    if not head.startswith(_TIFF_MAGIC):
        raise RasterCorrupt(f"file {shown(href)} is not a GeoTIFF: it begins with {head[:4]!r}")
    return name, size


def _local_head(href: str) -> tuple[bytes, int]:
    path = Path(href)
    if not path.is_absolute() or href.startswith("/vsi"):
        raise RasterRefused(f"{href} is neither an absolute local path nor an http(s) URL; nothing else is opened")
    try:
        if not path.is_file():
            raise RasterUnavailable(
                f"file {shown(href)} is not there; a catalog may announce a file before it is written"
            )
        with path.open("rb") as stream:
            return stream.read(16), path.stat().st_size
    except OSError as error:
        raise RasterUnavailable(f"file {shown(href)} cannot be read: {error}; check its permissions") from error


@contextmanager
def translated(href: str, doing: str) -> Iterator[None]:
    """Turn rasterio's and GDAL's errors into ours.

    Raises:
        RasterUnavailable: the server failed, throttled, timed out, or does not have the file (yet).
        RasterCorrupt: the file cannot be decoded.
    """
    try:
        yield
    except VigieError:
        raise
    except (RasterioError, CPLE_BaseError, OSError) as error:
        text = _whole_text(error).replace(href, shown(href))
        if not is_remote(href):
            raise RasterCorrupt(f"{doing} of {shown(href)} failed; the file is truncated or damaged: {text}") from error
        code = _HTTP_CODE.search(text)
        if code is not None:
            raise RasterUnavailable(http_failure(href, int(code[1]))) from error
        # Its head was sound, so the network cut it short: worth another try, and the caller counts tries.
        raise RasterUnavailable(f"{doing} of {shown(href)} failed: {text}") from error


def _whole_text(error: BaseException) -> str:
    """The messages of an error and of its causes: GDAL's reason is usually the innermost."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None:
        text = str(current).strip()
        if text and text not in parts:
            parts.append(text)
        current = current.__cause__ or current.__context__
    return "; ".join(parts)
