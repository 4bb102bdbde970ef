"""Signed addresses: Planetary Computer's tokens, S3's presigned URLs, and what a refusal does."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon.adapters.fetch import Fetcher
from daemon.adapters.host_gate import HostGates
from daemon.adapters.signing import PlanetaryComputerSigner, S3Key, S3Signer, SignedReading, with_https
from daemon.clock import ManualClock
from daemon.errors import CatalogUnavailable, ConfigError
from daemon.settings import load_settings
from daemon.settings.credentials import HttpCredentials
from engine.errors import RasterUnavailable
from engine.read_plan import BandSource, ReadPlan, ReadReport
from engine.sensors import named_sensor
from tests.servers import bad_stac as bad
from tests.servers.bad_stac import BadStac, Request
from tests.stores import make_scene

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BLOB = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/31/T/B04.tif"
OTHER = "https://naipeuwest.blob.core.windows.net/naip/v002/x.tif"
Serve = Callable[[list[dict[str, Any]]], BadStac]


class Tokens:
    """A token service: numbered tokens of 45 minutes."""

    def __init__(self, server: BadStac, clock: ManualClock) -> None:
        self.asked: list[str] = []
        self.lasts = timedelta(minutes=45)
        self._clock = clock
        server.usual = self._answer
        self.url = f"{server.url}api/sas/v1"

    def _answer(self, request: Request) -> None:
        self.asked.append(request.path)
        expiry = f"{self._clock.now() + self.lasts:%Y-%m-%dT%H:%M:%SZ}"
        request.send_json({"msft:expiry": expiry, "token": f"sig={len(self.asked)}"})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def tokens(bad_stac: Serve, clock: ManualClock) -> Tokens:
    server = bad_stac([])
    made = Tokens(server, clock)
    made.server = server  # type: ignore[attr-defined]
    return made


@pytest.fixture
def signer(tokens: Tokens, clock: ManualClock) -> Iterator[PlanetaryComputerSigner]:
    fetcher = Fetcher(tokens.url, now=clock.now, gates=HostGates(clock, random.Random(1)))
    made = PlanetaryComputerSigner(tokens.url, fetcher, now=clock.now)
    yield made
    made.close()


def test_a_token_is_kept_until_shortly_before_it_expires(
    tokens: Tokens, signer: PlanetaryComputerSigner, clock: ManualClock
) -> None:
    """Complaint 12: short tokens, asked for too often, or used too long."""
    assert signer.sign(BLOB) == f"{BLOB}?sig=1"
    clock.advance(39 * 60)
    assert signer.sign(BLOB.replace("B04", "B08")) == f"{BLOB.replace('B04', 'B08')}?sig=1"
    assert signer.sign(OTHER) == f"{OTHER}?sig=2"
    clock.advance(2 * 60)
    assert signer.sign(BLOB) == f"{BLOB}?sig=3"
    assert tokens.asked == [
        "/api/sas/v1/token/sentinel2l2a01/sentinel2-l2",
        "/api/sas/v1/token/naipeuwest/naip",
        "/api/sas/v1/token/sentinel2l2a01/sentinel2-l2",
    ]


def test_a_token_that_comes_expired_is_not_kept(tokens: Tokens, signer: PlanetaryComputerSigner) -> None:
    tokens.lasts = timedelta(minutes=-10)
    assert [signer.sign(BLOB), signer.sign(BLOB)] == [f"{BLOB}?sig=1", f"{BLOB}?sig=2"]


def test_throttled_signing_is_held_back_for_as_long_as_it_asks(
    tokens: Tokens, signer: PlanetaryComputerSigner, clock: ManualClock
) -> None:
    tokens.server.script = [bad.status(429, Retry_After="120")]  # type: ignore[attr-defined]
    for _ in range(3):
        with pytest.raises(CatalogUnavailable) as caught:
            signer.sign(BLOB)
        assert caught.value.retry_after_s == 120.0
    assert tokens.asked == []
    clock.advance(120)
    assert signer.sign(BLOB) == f"{BLOB}?sig=1"


@pytest.mark.parametrize("answer", [{}, {"token": ""}, {"token": "a b", "msft:expiry": "2026-01-01T01:00:00Z"}])
def test_an_answer_without_a_token_is_refused(
    tokens: Tokens, signer: PlanetaryComputerSigner, answer: dict[str, Any]
) -> None:
    tokens.server.usual = lambda request: request.send_json(answer)  # type: ignore[attr-defined]
    with pytest.raises(CatalogUnavailable, match="holds no token"):
        signer.sign(BLOB)


@pytest.mark.parametrize(
    "href",
    [
        f"{BLOB}?sig=own",
        "https://example.test/a.tif",
        "/data/a.tif",
        "http://x.blob.core.windows.net/c/a.tif",
        "https://evil.test/a.blob.core.windows.net/c/a.tif",
    ],
)
def test_what_is_no_unsigned_blob_is_left_alone(signer: PlanetaryComputerSigner, tokens: Tokens, href: str) -> None:
    assert signer.sign(href) == href
    assert tokens.asked == []


def plan(href: str = BLOB) -> ReadPlan:
    source = BandSource(band="red", href=href, index=1, scale=1e-4, offset=0.0)
    return ReadPlan(sensor=named_sensor("sentinel-2-l2a"), bands=(source,))


class Reader:
    """Reads two batches, unless the signature is among those refused; ``refuse_after`` batches where set."""

    def __init__(self, *refused: str, refuse_after: int = 0) -> None:
        self.opened: list[str] = []
        self._refused = refused
        self._after = refuse_after

    def __call__(self, signed: ReadPlan) -> Any:
        href = signed.bands[0].href
        self.opened.append(href.partition("?")[2])

        class Reading:
            report = ReadReport()

            def __iter__(inner) -> Iterator[Any]:  # noqa: N805
                for index in range(2):
                    if href.partition("?")[2] in self._refused and index >= self._after:
                        raise RasterUnavailable(f"{BLOB} was denied (HTTP 403); its signature may have expired")
                    yield index

        return Reading()


def test_an_address_that_is_refused_is_signed_anew(signer: PlanetaryComputerSigner) -> None:
    reader = Reader("sig=1")
    assert list(SignedReading(plan(), [signer], reader)) == [0, 1]
    assert reader.opened == ["sig=1", "sig=2"]


def test_a_refusal_in_the_middle_of_a_read_makes_the_next_attempt_sign_anew(signer: PlanetaryComputerSigner) -> None:
    reader = Reader("sig=1", refuse_after=1)
    reading = iter(SignedReading(plan(), [signer], reader))
    assert next(reading) == 0  # type: ignore[comparison-overlap]
    with pytest.raises(RasterUnavailable, match="HTTP 403"):
        next(reading)
    assert list(SignedReading(plan(), [signer], reader)) == [0, 1]
    assert reader.opened == ["sig=1", "sig=2"]


def test_what_stays_refused_is_told(signer: PlanetaryComputerSigner) -> None:
    with pytest.raises(RasterUnavailable, match="HTTP 403"):
        list(SignedReading(plan(), [signer], Reader("sig=1", "sig=2")))


def test_the_example_of_the_specification_is_signed_as_printed_there() -> None:
    """AWS, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)", the GET Object example."""
    key = S3Key(access_key_id="AKIAIOSFODNN7EXAMPLE", secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    signer = S3Signer(
        key,
        {"examplebucket": "us-east-1"},
        lasts=timedelta(days=1),
        now=lambda: datetime(2013, 5, 24, tzinfo=UTC),
    )
    # The example's host has no region in it; its signature covers the host, so the example's host is put in place.
    signer._hosts = {"examplebucket.s3.amazonaws.com": "us-east-1"}
    signed = signer.sign("https://examplebucket.s3.amazonaws.com/test.txt")
    assert signed == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )
    assert "wJalr" not in repr(key)


def test_who_pays_is_part_of_what_is_signed() -> None:
    key = S3Key(access_key_id="AK", secret_access_key="s", session_token="t/=")
    made = [S3Signer(key, {"b": "eu-central-1"}, requester_pays=pays, now=lambda: NOW) for pays in (True, False)]
    paid, free = (signer.sign("https://b.s3.eu-central-1.amazonaws.com/k.tif") for signer in made)
    assert "&x-amz-request-payer=requester&X-Amz-Signature=" in paid
    assert "X-Amz-Security-Token=t%2F%3D" in paid
    assert paid.rpartition("=")[2] != free.rpartition("=")[2]
    assert made[0].sign("https://elsewhere.test/k.tif") == "https://elsewhere.test/k.tif"


def test_s3_addresses_of_known_buckets_become_https() -> None:
    assets = {
        "red": {"href": "s3://b/a/é 1.tif"},
        "nir": {"href": "s3://unknown/a.tif"},
        "x": {"href": "https://e.test/"},
    }
    scene = make_scene("a", item={"assets": assets})
    found = with_https(scene, {"b": "b.s3.eu-central-1.amazonaws.com"}).item["assets"]
    assert {key: asset["href"] for key, asset in found.items()} == {
        "red": "https://b.s3.eu-central-1.amazonaws.com/a/%C3%A9%201.tif",
        "nir": "s3://unknown/a.tif",
        "x": "https://e.test/",
    }
    assert with_https(scene, {}) is scene


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"type": "bearer"}, {"Authorization": "Bearer s3cret"}),
        ({"type": "basic", "username": "u"}, {"Authorization": "Basic dTpzM2NyZXQ="}),
        ({"type": "header", "header": "X-Key"}, {"X-Key": "s3cret"}),
    ],
)
def test_credentials_come_from_files_and_are_never_shown(
    tmp_path: Path, fields: dict[str, str], headers: dict[str, str]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    path = tmp_path / "vigie.yaml"
    catalog = {"name": "c", "url": "https://c.test", "collections": ["a"]}
    path.write_text(yaml.safe_dump({"catalogs": [{**catalog, "credentials": {**fields, "secret_file": "secret"}}]}))
    settings = load_settings(path, {})
    credentials = settings.catalogs[0].credentials
    assert isinstance(credentials, HttpCredentials)
    assert credentials.headers() == headers
    assert "s3cret" not in str(settings.redacted()) + repr(settings)
    secret.unlink()
    with pytest.raises(ConfigError, match=r"catalogs.*there is no file .*secret|there is no file"):
        load_settings(path, {})
