"""Addresses of rasters, signed when they are read: a signature lives for minutes, a scene may wait for days."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from daemon.adapters.fetch import Fetcher
from daemon.errors import CatalogUnavailable
from daemon.scenes import Scene
from daemon.watch.stac_times import parse_time
from engine.errors import RasterUnavailable
from engine.read_plan import ReadPlan, ReadReport
from engine.tiles import TileBatch

_BLOB = re.compile(r"^https://(?P<account>[a-z0-9]{3,24})\.blob\.core\.windows\.net/(?P<container>[a-z0-9$-]+)/.")
# The reader tells of a refusal in words only: it may run in another process.
_DENIED = re.compile(r"HTTP (?:401|403)\)")


class Signer(Protocol):
    """Signs addresses. Thread-safe; may block on the network."""

    def sign(self, href: str) -> str:
        """``href`` as it may be read now; unchanged where it is not this signer's.

        Raises :class:`daemon.errors.CatalogUnavailable` or :class:`daemon.errors.CatalogInvalid`.
        """
        ...

    def forget(self, href: str) -> None:
        """Note that the signature of ``href`` (unsigned) was refused: the next one is made anew."""
        ...


class PlanetaryComputerSigner:
    """Shared access signatures of Planetary Computer's token service, one per storage container.

    A token is kept until shortly before it expires, and dropped when a read is refused. One that comes expired already
    (their clock or ours is wrong) is used, since only the store can tell, and not kept. A 429 holds back all requests
    for tokens for as long as it asks, by way of the fetcher's host gate.
    """

    def __init__(
        self, url: str, fetcher: Fetcher, *, now: Callable[[], datetime], margin: timedelta = timedelta(minutes=5)
    ) -> None:
        """``url``: root of the service. ``fetcher``: of its host; used under a lock, closed by :meth:`close`."""
        self._url = url.rstrip("/")
        self._fetcher = fetcher
        self._now = now
        self._margin = margin
        self._tokens: dict[tuple[str, str], tuple[str, datetime]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        self._fetcher.close()

    def sign(self, href: str) -> str:
        """As :meth:`Signer.sign`; addresses that carry a query are signed already, or are not blobs."""
        place = _place(href)
        return href if place is None else f"{href}?{self._token(place)}"

    def forget(self, href: str) -> None:
        """As :meth:`Signer.forget`."""
        if place := _place(href):
            with self._lock:
                self._tokens.pop(place, None)

    def _token(self, place: tuple[str, str]) -> str:
        with self._lock:
            kept = self._tokens.get(place)
            if kept is not None and self._now() < kept[1] - self._margin:
                return kept[0]
            address = f"{self._url}/token/{place[0]}/{place[1]}"
            answer = self._fetcher.fetch_json(address)
            token, expiry = answer.get("token"), answer.get("msft:expiry")
            if not isinstance(token, str) or not token or re.search(r"[\s#]", token):
                raise CatalogUnavailable(f"{address}: the answer holds no token")
            try:
                self._tokens[place] = (token.lstrip("?"), parse_time(expiry))
            except ValueError:
                self._tokens.pop(place, None)
            return token.lstrip("?")


def _place(href: str) -> tuple[str, str] | None:
    match = _BLOB.match(href)
    return None if match is None or urlsplit(href).query else (match["account"], match["container"])


@dataclass(frozen=True, kw_only=True)
class S3Key:
    """A key of S3."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"S3Key({self.access_key_id[:4]}…)"


class S3Signer:
    """Presigned addresses of S3 buckets, by AWS Signature Version 4 in query parameters."""

    def __init__(
        self,
        key: S3Key,
        buckets: Mapping[str, str],
        *,
        requester_pays: bool = False,
        lasts: timedelta = timedelta(hours=1),
        now: Callable[[], datetime],
    ) -> None:
        """``buckets``: name to region. ``lasts``: how long a signature is good; at most a week."""
        self._key = key
        self._hosts = {f"{bucket}.s3.{region}.amazonaws.com": region for bucket, region in buckets.items()}
        self._requester_pays = requester_pays
        self._lasts = lasts
        self._now = now

    def sign(self, href: str) -> str:
        """As :meth:`Signer.sign`."""
        parts = urlsplit(href)
        region = self._hosts.get(parts.netloc)
        if parts.scheme != "https" or region is None or parts.query:
            return href
        stamp = f"{self._now():%Y%m%dT%H%M%SZ}"
        scope = f"{stamp[:8]}/{region}/s3/aws4_request"
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self._key.access_key_id}/{scope}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(int(self._lasts.total_seconds())),
            "X-Amz-SignedHeaders": "host",
        }
        if self._key.session_token is not None:
            query["X-Amz-Security-Token"] = self._key.session_token
        if self._requester_pays:
            query["x-amz-request-payer"] = "requester"
        listed = "&".join(f"{quote(name, safe='-_.~')}={quote(query[name], safe='-_.~')}" for name in sorted(query))
        canonical = "\n".join(["GET", parts.path, listed, f"host:{parts.netloc}", "", "host", "UNSIGNED-PAYLOAD"])
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, digest])
        key = f"AWS4{self._key.secret_access_key}".encode()
        for part in (stamp[:8], region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
        return f"{href}?{listed}&X-Amz-Signature={signature}"

    def forget(self, href: str) -> None:
        """As :meth:`Signer.forget`; every signature is new."""


def with_https(scene: Scene, hosts: Mapping[str, str]) -> Scene:
    """The scene with ``s3://bucket/key`` addresses of known buckets as https ones; ``hosts``: bucket to its host."""
    assets = scene.item.get("assets")
    if not hosts or not isinstance(assets, Mapping):
        return scene

    def translated(asset: Any) -> Any:
        href = asset.get("href") if isinstance(asset, Mapping) else None
        if not isinstance(href, str) or not href.startswith("s3://"):
            return asset
        bucket, _, key = href.removeprefix("s3://").partition("/")
        return {**asset, "href": f"https://{hosts[bucket]}/{quote(key)}"} if bucket in hosts else asset

    return replace(scene, item={**scene.item, "assets": {key: translated(asset) for key, asset in assets.items()}})


class _Reading(Protocol):
    """What the raster reader hands out."""

    @property
    def report(self) -> ReadReport:
        """What became of each tile."""
        ...

    def __iter__(self) -> Iterator[TileBatch]:
        """Batches of tiles."""
        ...


class SignedReading:
    """A scene that is read by signed addresses.

    Where the store refuses one before a batch has come, all are signed anew and reading begins again, once. Later, and
    the second time, the signatures are dropped and the error goes to the worker, whose next attempt signs anew.
    """

    def __init__(self, plan: ReadPlan, signers: Sequence[Signer], read: Callable[[ReadPlan], _Reading]) -> None:
        """``read``: opens a plan whose addresses are signed. Raises as :meth:`Signer.sign`."""
        self._plan = plan
        self._signers = tuple(signers)
        self._read = read
        self._reading = read(self._signed())

    @property
    def report(self) -> ReadReport:
        """What became of each tile."""
        return self._reading.report

    def __iter__(self) -> Iterator[TileBatch]:
        """Batches of tiles, as the reader's."""
        begun = False
        try:
            for batch in self._reading:
                begun = True
                yield batch
            return
        except RasterUnavailable as error:
            if not self._denied(error) or begun:
                raise
        self._reading = self._read(self._signed())
        try:
            yield from self._reading
        except RasterUnavailable as error:
            self._denied(error)
            raise

    def _denied(self, error: RasterUnavailable) -> bool:
        if _DENIED.search(str(error)) is None:
            return False
        for href in self._hrefs():
            for signer in self._signers:
                signer.forget(href)
        return True

    def _hrefs(self) -> list[str]:
        return [each.href for each in self._plan.bands] + ([self._plan.mask.href] if self._plan.mask else [])

    def _signed(self) -> ReadPlan:
        def sign(href: str) -> str:
            for signer in self._signers:
                href = signer.sign(href)
            return href

        mask = self._plan.mask
        return replace(
            self._plan,
            bands=tuple(replace(band, href=sign(band.href)) for band in self._plan.bands),
            mask=None if mask is None else replace(mask, href=sign(mask.href)),
        )
