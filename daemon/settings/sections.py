"""The sections of the configuration file: frozen values, one class a section.

Relative paths resolve against the folder of the file (validation context ``folder``), so that a configuration means
the same thing wherever the daemon is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator
from pydantic import field_validator as check

from daemon.settings.base import Section as Section
from daemon.settings.base import SettingPath as SettingPath
from daemon.settings.base import resolve_path
from daemon.settings.credentials import HttpCredentials, S3Settings, SigningSettings


def _one_is_a_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_one_is_a_list)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]*$", max_length=100)]


class StoreSettings(Section):
    """The database of scenes, detections and outgoing alerts."""

    url: str = "sqlite:///vigie.db"
    """SQLAlchemy URL: ``sqlite:///file`` or ``postgresql+psycopg://user@host/database``."""
    password_file: SettingPath | None = None
    """File that holds the database password, which is put into ``url``."""

    @check("url")
    @classmethod
    def _known_database(cls, url: str, info: ValidationInfo) -> str:
        prefix = "sqlite:///"
        if url.startswith(prefix):
            name = url.removeprefix(prefix)
            return url if name in ("", ":memory:") else f"{prefix}{resolve_path(name, info)}"
        if not url.startswith(("postgresql+psycopg://", "postgresql://")):
            scheme = url.split(":", 1)[0]
            raise ValueError(f"no database of kind {scheme!r}: write sqlite:///file.db or postgresql://user@host/db")
        return url.replace("postgresql://", "postgresql+psycopg://", 1)

    def url_with_password(self) -> str:
        """The URL to connect with.

        Raises:
            OSError: the password file cannot be read.
        """
        if self.password_file is None:
            return self.url
        password = quote(self.password_file.read_text(encoding="utf-8").strip(), safe="")
        parts = urlsplit(self.url)
        user, host = parts.username or "", parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))


class CatalogSettings(Section):
    """A catalog that is watched."""

    name: Name
    """Unique name, used in logs, metrics and ``areas[].catalogs``."""
    type: Literal["stac-api", "static"] = "stac-api"
    url: str
    """Root of the catalog; for ``static`` a URL or a folder (or its ``catalog.json``)."""
    collections: Mapping[str, str] = {}
    """Collection id to sensor name; ``auto`` lets the Item tell its sensor. Empty: all (static catalogs only)."""
    poll_every_s: float = Field(default=300.0, ge=1)
    """Seconds between two looks for new scenes."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds that one request may take."""
    page_size: int = Field(default=100, ge=1, le=10_000)
    """Items asked for in one page."""
    most_items: int = Field(default=10_000, ge=1)
    """Items that the API lists for one search at most; wider searches are cut."""
    requests_per_minute: float = Field(default=120.0, gt=0)
    """Requests to the catalog's host, over all catalogs that share it."""
    overlap_days: float = Field(default=2.0, ge=0)
    """How far each poll reaches back before its cursor: catalogs publish late."""
    sweep_every_s: float = Field(default=86_400.0, ge=1)
    """Seconds between two long sweeps."""
    sweep_days: float = Field(default=30.0, ge=0)
    """How far a long sweep reaches back, days."""
    silent_after_h: float | None = Field(default=None, gt=0)
    """Hours without a newer Item after which a collection is called silent; none: three times its usual gap."""
    credentials: HttpCredentials | None = None
    """Sent with each request to the catalog, never to the hosts of its rasters."""
    signing: SigningSettings | None = None
    """Who signs the addresses of its rasters."""

    @check("collections", mode="before")
    @classmethod
    def _ids_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        return dict.fromkeys(value, "auto") if isinstance(value, list | tuple) else value

    @check("url")
    @classmethod
    def _url_or_folder(cls, url: str, info: ValidationInfo) -> str:
        kind = info.data.get("type")
        if url.startswith(("https://", "http://")):
            return url
        if "://" in url:
            raise ValueError(f"found {url!r}; a catalog is reached by https:// (or is a folder, if static)")
        if kind == "stac-api":
            raise ValueError(f"found {url!r}, but a STAC API needs an https:// URL: set `type: static` for a folder")
        return str(resolve_path(url, info))

    @model_validator(mode="after")
    def _api_names_collections(self) -> CatalogSettings:
        if self.type == "stac-api" and not self.collections:
            raise ValueError("a STAC API needs `collections:`, else it would send every data set that it holds")
        return self

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return "://" not in self.url


class AccessSettings(Section):
    """What may be read, and how much of it."""

    hosts: Names = ()
    """Hosts that rasters may be read from by https; ``*.blob.core.windows.net`` is a pattern."""
    http_hosts: Names = ()
    """Hosts, with port, that plain http is allowed to: ``127.0.0.1:8123``."""
    local_roots: tuple[SettingPath, ...] = ()
    """Folders below which local rasters may be read."""
    s3: S3Settings | None = None
    """Buckets that are read with a key."""
    max_pixels: int = Field(default=400_000_000, ge=1)
    """Largest raster by its header, pixels."""
    max_bands: int = Field(default=32, ge=1)
    max_bytes: int = Field(default=2_000_000_000, ge=1)
    """Most bytes that one scene may take, decoded."""
    read_timeout_s: float = Field(default=120.0, gt=0)
    """Longest time that one scene may be read for."""


class EngineSettings(Section):
    """The model and what it runs on."""

    bundle: str = "base"
    """Name of a bundle that ships with Vigie, or the path of a bundle folder."""
    runner: Literal["auto", "torch", "onnxruntime", "tensorrt"] = "auto"
    """``auto``: TensorRT or torch on a GPU, ONNX Runtime or torch on a CPU, whichever is there and agrees with the
    bundle's golden batch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Of TensorRT's plans; ``auto``: the first of fp16, bf16, fp32 that agrees with the golden batch."""
    compile: bool = False
    """Whether the torch runner compiles its networks (torch.compile)."""
    batch_size: int = Field(default=32, ge=1)
    """Tiles per call of the model."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per worker; none: all cores shared between the workers."""

    @check("bundle")
    @classmethod
    def _name_or_path(cls, bundle: str, info: ValidationInfo) -> str:
        return str(resolve_path(bundle, info)) if "/" in bundle else bundle


class ScoringSettings(Section):
    """How tiles are judged."""

    tile_px: int = Field(default=64, ge=16, le=512, multiple_of=16)
    """Side of a tile, pixels of the cell grid."""
    min_valid_ratio: float = Field(default=0.7, ge=0, le=1)
    """A tile with a smaller share of clear ground is not scored."""
    flood_water_share: float = Field(default=0.15, gt=0, le=1)
    """An anomalous tile of which at least this share is new water is a flood."""


class WorkerSettings(Section):
    """Who scores, and how failures are retried."""

    count: int = Field(default=1, ge=1)
    lease_s: float = Field(default=300.0, gt=0)
    """A claimed scene whose worker is silent for this long is claimed by another."""
    max_attempts: int = Field(default=5, ge=1)
    retry_base_s: float = Field(default=30.0, gt=0)
    """Wait before the second attempt; it doubles with each."""
    retry_cap_s: float = Field(default=3600.0, gt=0)
    drain_s: float = Field(default=60.0, ge=0)
    """Time that work in hand is given at SIGTERM."""


class HttpSettings(Section):
    """Metrics and health for operators."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=9477, ge=0, le=65535)
    """0: any free port."""


class LogSettings(Section):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"
