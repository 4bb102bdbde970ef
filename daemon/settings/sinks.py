"""Where alerts are sent: one class a kind of sink."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic import field_validator as check

from daemon.settings.sections import Names, Section, SettingPath


class KafkaSecurity(Section):
    """How the broker is trusted and how Vigie proves itself; secrets are files, never values."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password_file: SettingPath | None = None
    ca_file: SettingPath | None = None
    """Certificate authority of the broker, PEM; none: the system's."""
    cert_file: SettingPath | None = None
    """Client certificate, PEM."""
    key_file: SettingPath | None = None
    """Key of the client certificate, PEM."""

    @model_validator(mode="after")
    def _sasl_is_complete(self) -> KafkaSecurity:
        needed = ("mechanism", "username", "password_file")
        missing = [key for key in needed if getattr(self, key) is None]
        if self.protocol.startswith("SASL") and missing:
            raise ValueError(f"protocol {self.protocol} needs {', '.join(missing)}: add them")
        if not self.protocol.startswith("SASL") and len(missing) < len(needed):
            raise ValueError(f"a name and a password need protocol SASL_SSL; found {self.protocol}")
        return self

    def password(self) -> str | None:
        """The password, read from its file.

        Raises:
            OSError: the file cannot be read.
        """
        return None if self.password_file is None else self.password_file.read_text(encoding="utf-8").strip()


class KafkaSinkSettings(Section):
    """Alerts go to a Kafka topic."""

    type: Literal["kafka"]
    name: str = "kafka"
    """Unique among the sinks; delivery is remembered under it."""
    bootstrap_servers: Names = Field(min_length=1)
    """``host:port`` of at least one broker."""
    topic: str = Field(default="vigie.alerts.v1", pattern=r"^[A-Za-z0-9._-]{1,249}$")
    partitions: int = Field(default=6, ge=1)
    """Partitions of the topic where Vigie has to create it."""
    replication: int = Field(default=1, ge=1)
    """Copies of each partition where Vigie has to create the topic."""
    security: KafkaSecurity = KafkaSecurity()


class JsonLinesSinkSettings(Section):
    """Alerts are appended to a file, one JSON document a line."""

    type: Literal["jsonl"]
    name: str = "jsonl"
    """Unique among the sinks; delivery is remembered under it."""
    path: SettingPath


class GeoJsonSinkSettings(Section):
    """Alerts are written as GeoJSON files, with one map of all incidents."""

    type: Literal["geojson"]
    name: str = "geojson"
    """Unique among the sinks; delivery is remembered under it."""
    folder: SettingPath


class CapSinkSettings(Section):
    """Alerts are written as files of the Common Alerting Protocol 1.2."""

    type: Literal["cap"]
    name: str = "cap"
    """Unique among the sinks; delivery is remembered under it."""
    folder: SettingPath
    sender: str = Field(pattern=r"^[^\s,<&]+$", max_length=200)
    """Who speaks, globally unique: ``vigie@example.org``."""
    sender_name: str | None = None
    """The same for people."""
    status: Literal["Actual", "Exercise", "System", "Test", "Draft"] = "Test"
    """``Actual`` only where somebody answers for the messages."""
    restriction: str | None = None
    """Rule for a limited distribution; none: public."""
    valid_days: float = Field(default=7.0, gt=0, le=365)
    """Days after sensing that a message is to be believed."""


class WebhookSinkSettings(Section):
    """Alerts are posted to an HTTPS address, signed."""

    type: Literal["webhook"]
    name: str = "webhook"
    """Unique among the sinks; delivery is remembered under it."""
    url: str
    secret_file: SettingPath | None = None
    """File that holds the secret of the signature: ``whsec_`` and base64 of at least 24 random bytes."""
    timeout_s: float = Field(default=10.0, gt=0, le=60)
    """Seconds that one request may take."""

    @check("url")
    @classmethod
    def _encrypted_unless_local(cls, url: str) -> str:
        parts = urlsplit(url)
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not local):
            raise ValueError(
                f"found {parts.scheme}://{parts.hostname or ''}; use https:// (http:// on this machine only)"
            )
        return url


SinkSettings = Annotated[
    KafkaSinkSettings | JsonLinesSinkSettings | GeoJsonSinkSettings | CapSinkSettings | WebhookSinkSettings,
    Field(discriminator="type"),
]
