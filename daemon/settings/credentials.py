"""How Vigie proves itself to catalogs and stores of rasters: secrets are files, never values."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from daemon.settings.base import Section, SettingPath


class HttpCredentials(Section):
    """What is sent with each request to a catalog."""

    type: Literal["bearer", "basic", "header"]
    secret_file: SettingPath
    """File that holds the token, the password or the header's value."""
    username: str | None = None
    """For ``basic``."""
    header: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]+$")
    """For ``header``: its name, such as ``Ocp-Apim-Subscription-Key``."""

    @model_validator(mode="after")
    def _complete(self) -> HttpCredentials:
        needed = {"basic": "username", "header": "header"}
        for kind, key in needed.items():
            if (self.type == kind) != (getattr(self, key) is not None):
                raise ValueError(f"`{key}` belongs to type {kind}; found type {self.type}")
        return self

    def headers(self) -> Mapping[str, str]:
        """The headers, the secret read from its file.

        Raises:
            OSError: the file cannot be read.
        """
        secret = read_secret(self.secret_file)
        if self.header is not None:
            return {self.header: secret}
        if self.username is not None:
            pair = base64.b64encode(f"{self.username}:{secret}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        return {"Authorization": f"Bearer {secret}"}


class SigningSettings(Section):
    """Who signs the addresses of a catalog's rasters."""

    type: Literal["planetary-computer"]
    url: str = Field(
        default="https://planetarycomputer.microsoft.com/api/sas/v1", pattern=r"^https?://[^/@]+(/[^@]*)?$"
    )
    """Root of the token service."""
    key_file: SettingPath | None = None
    """File that holds a subscription key, for a higher rate."""
    margin_s: float = Field(default=300.0, ge=0)
    """A token is renewed so long before it expires: reading takes time, and clocks differ."""


class S3Settings(Section):
    """Buckets that are read with a key: ``s3://`` addresses become signed https ones when they are read."""

    buckets: Mapping[str, str]
    """Name of each bucket to its region."""
    access_key_id_file: SettingPath
    secret_access_key_file: SettingPath
    session_token_file: SettingPath | None = None
    requester_pays: bool = False
    """Whether the account of the key pays for requests."""

    def host(self, bucket: str) -> str:
        """The host that serves a bucket."""
        return f"{bucket}.s3.{self.buckets[bucket]}.amazonaws.com"


def read_secret(path: Path) -> str:
    """The secret in a file, without the white space around it. Raises OSError."""
    return path.read_text(encoding="utf-8").strip()
