"""Alerts by HTTPS POST: one CloudEvent in structured mode a request, signed.

The body is the CloudEvents JSON format 1.0 (``application/cloudevents+json``, HTTP binding section 3.2). The signature
is that of *Standard Webhooks* 1.0: ``webhook-signature: v1,base64(HMAC-SHA256(secret, id.timestamp.body))``, so
receivers check it with that project's libraries. ``webhook-id`` is the alert's id: the same for every repeat.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
import random
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests

from daemon.backoff import Backoff
from daemon.clock import Clock
from daemon.errors import SinkUnavailable
from daemon.publish.sinks import DeliveryResult, Message, structured_event

MEDIA_TYPE = "application/cloudevents+json; charset=UTF-8"
REFUSALS = frozenset({400, 413, 415, 422})
"""The receiver will not have this message. Other failures are about the receiver, and are tried again."""


@dataclass(frozen=True, kw_only=True)
class WebhookSettings:
    """Where to, and how long to try."""

    url: str
    secret_file: Path | None = None
    """File that holds the shared secret, ``whsec_`` and base64; read for each delivery, so that it can be rotated."""
    timeout_s: float = 10.0
    """Longest wait for a connection, and for each answer."""
    deadline_s: float = 60.0
    """Longest time that one call of ``send`` goes on trying."""
    backoff: Backoff = field(default_factory=lambda: Backoff(base_s=0.5, cap_s=10.0))


class WebhookSink:
    """Posts each message and believes a status of 2xx alone. Redirects are not followed."""

    def __init__(self, settings: WebhookSettings, *, name: str, clock: Clock, rng: random.Random) -> None:
        self._settings = settings
        self._name = name
        self._clock = clock
        self._rng = rng
        self._session: requests.Session | None = None
        self._last_error: SinkUnavailable | None = None

    @property
    def name(self) -> str:
        """Short name for logs and metrics."""
        return self._name

    def send(self, messages: Sequence[Message]) -> Sequence[DeliveryResult]:
        """Post in order; after a failure that outlasts the tries, the rest is not tried."""
        until = self._clock.monotonic() + self._settings.deadline_s
        results: list[DeliveryResult] = []
        broken: SinkUnavailable | None = None
        for message in messages:
            if broken is None:
                result = self._deliver(message, until)
                broken = result.error if not result.refused else None
            else:
                result = DeliveryResult(alert_id=message.alert_id, error=broken)
            results.append(result)
        if messages:
            self._last_error = broken
        return results

    def ping(self) -> None:
        """Raise SinkUnavailable where the host accepts no connection or the last delivery failed."""
        parts = urlsplit(self._settings.url)
        address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        try:
            socket.create_connection(address, timeout=self._settings.timeout_s).close()
        except OSError as error:
            raise self._unavailable(f"{error.strerror or error}", "check that the receiver runs") from error
        if self._last_error is not None:
            raise self._last_error

    def close(self) -> None:
        """Give back the connection; the next ``send`` opens a new one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _deliver(self, message: Message, until: float) -> DeliveryResult:
        """Try until it is there, refused, or out of time."""
        failures = 0
        while True:
            error, refused, asked_s = self._post(message)
            if error is None or refused:
                return DeliveryResult(alert_id=message.alert_id, error=error, refused=refused)
            failures += 1
            pause_s = self._settings.backoff.delay_s(failures, self._rng, asked_s=asked_s)
            if self._clock.monotonic() + pause_s >= until:
                return DeliveryResult(alert_id=message.alert_id, error=error)
            self._clock.wait(threading.Event(), pause_s)

    def _post(self, message: Message) -> tuple[SinkUnavailable | None, bool, float | None]:
        """One try: the error, whether it is final for this message, and how long the receiver asked to wait."""
        body = json.dumps(structured_event(message), separators=(",", ":"), ensure_ascii=False).encode()
        session = self._session = self._session or _new_session()
        try:
            headers = {"Content-Type": MEDIA_TYPE, "User-Agent": "vigie", **self._signature(message.alert_id, body)}
            with session.post(
                self._settings.url,
                data=body,
                headers=headers,
                timeout=self._settings.timeout_s,
                allow_redirects=False,
                stream=True,  # The answer's body is nothing to us, and may be of any size.
            ) as answer:
                status, retry_after = answer.status_code, answer.headers.get("Retry-After", "")
        except (requests.RequestException, OSError, ValueError) as failure:
            self.close()
            error = self._unavailable(str(failure), "check that the receiver runs; delivery is tried again")
            error.__cause__ = failure
            return error, False, None
        if 200 <= status < 300:
            return None, False, None
        if status in REFUSALS:
            return self._unavailable(f"it refused alert {message.alert_id} with {status}", "see its log"), True, None
        remedy = "check url and secret_file" if status in (401, 403, 404, 410) or 300 <= status < 400 else "see its log"
        asked_s = float(retry_after) if retry_after.isdigit() else None
        return self._unavailable(f"it answered {status}", f"{remedy}; delivery is tried again"), False, asked_s

    def _signature(self, alert_id: str, body: bytes) -> dict[str, str]:
        """Headers of Standard Webhooks; without a secret the id and the time alone."""
        stamp = str(math.floor(self._clock.now().timestamp()))
        headers = {"webhook-id": alert_id, "webhook-timestamp": stamp}
        if self._settings.secret_file is not None:
            secret = decode_secret(self._settings.secret_file.read_text(encoding="utf-8"))
            digest = hmac.new(secret, f"{alert_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
            headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        return headers

    def _unavailable(self, told: str, remedy: str) -> SinkUnavailable:
        parts = urlsplit(self._settings.url)
        # The path may hold a token: many receivers give each sender a secret address.
        return SinkUnavailable(f"webhook {self._name} at {parts.scheme}://{parts.netloc}: {told}; {remedy}")


def decode_secret(text: str) -> bytes:
    """The bytes of a secret as Standard Webhooks writes it: ``whsec_`` and base64.

    Raises:
        ValueError: it is not of that form, or shorter than 24 bytes.
    """
    encoded = text.strip()
    try:
        secret = base64.b64decode(encoded.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the webhook secret is not base64 after `whsec_`: {error}") from error
    if not encoded.startswith("whsec_") or len(secret) < 24:
        raise ValueError("the webhook secret must be `whsec_` and base64 of at least 24 random bytes")
    return secret


def _new_session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # No proxy and no .netrc but what the configuration says.
    return session
