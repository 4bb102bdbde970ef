"""Where alerts are sent: one class a kind of sink."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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


SinkSettings = Annotated[KafkaSinkSettings | JsonLinesSinkSettings, Field(discriminator="type")]
