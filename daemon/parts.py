"""Settings to the parts that the daemon is made of: catalogs, sinks, limits, runners."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from daemon.adapters.fetch import Fetcher
from daemon.adapters.files import JsonLinesSink
from daemon.adapters.folder_sink import FolderSink
from daemon.adapters.host_gate import HostGates
from daemon.adapters.kafka import KafkaSettings, KafkaSink
from daemon.adapters.signing import PlanetaryComputerSigner, S3Key, S3Signer, Signer
from daemon.adapters.stac import StacApiCatalog
from daemon.adapters.static_stac import StaticCatalog
from daemon.adapters.webhook import WebhookSettings, WebhookSink
from daemon.adapters.whole_file import write_whole
from daemon.clock import Clock
from daemon.errors import ConfigError
from daemon.publish.cap import CapIdentity, CapWriter
from daemon.publish.geojson import GeoJsonWriter
from daemon.publish.sinks import Sink
from daemon.scenes import Area
from daemon.score.access import AccessPolicy
from daemon.settings import Settings
from daemon.settings.credentials import read_secret
from daemon.settings.sections import CatalogSettings
from daemon.settings.sinks import (
    CapSinkSettings,
    GeoJsonSinkSettings,
    KafkaSinkSettings,
    SinkSettings,
    WebhookSinkSettings,
)
from daemon.watch.catalogs import Catalog
from daemon.watch.poll import CatalogWatch
from daemon.watch.windows import Pace
from engine.bundle import bundled
from engine.read_plan import ReadLimits
from engine.scoring import RunnerChoice

OPTIONAL_BANDS = ("nir",)
"""Read where a scene has them beside the models' own: near infrared gives aerial imagery a water index."""


def bundle_path(name: str) -> Path:
    """Where a bundle is: a shipped one by its name, or a folder by its path."""
    return Path(name) if "/" in name else bundled(name)


def runner_choice(settings: Settings) -> RunnerChoice:
    """What the networks run on, from the settings.

    Raises:
        ConfigError: the choices exclude one another.
    """
    engine = settings.engine
    if engine.runner == "tensorrt" and engine.device == "cpu":
        raise ConfigError("engine.runner is 'tensorrt', which has no device 'cpu'; set device: auto, or runner: auto")
    if engine.runner in ("torch", "onnxruntime") and engine.precision not in ("auto", "fp32"):
        raise ConfigError(
            f"engine.precision is {engine.precision!r}, but runner {engine.runner} computes in fp32 alone; "
            "set precision: auto, or runner: auto"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return RunnerChoice(
        runner=engine.runner,
        device=engine.device,
        precision=engine.precision,
        threads=engine.threads or max(1, cores // settings.worker.count),
        batch_size=engine.batch_size,
        compiled=engine.compile,
        cache_dir=settings.cache_dir,
    )


def access_policy(settings: Settings) -> AccessPolicy:
    """What an href may lead to, from the settings."""
    access = settings.access
    hosts = (*access.hosts, *s3_hosts(settings).values())
    return AccessPolicy(hosts=hosts, http_hosts=access.http_hosts, local_roots=access.local_roots)


def s3_hosts(settings: Settings) -> Mapping[str, str]:
    """Each bucket that is read with a key, and the host that serves it."""
    s3 = settings.access.s3
    return {} if s3 is None else {bucket: s3.host(bucket) for bucket in s3.buckets}


def signers_of(settings: Settings, clock: Clock, gates: HostGates) -> Mapping[str, tuple[Signer, ...]]:
    """Who signs the addresses of each catalog's rasters, by its name; ``""``: of any other's.

    Raises:
        OSError: a file with a key cannot be read.
    """
    s3 = settings.access.s3
    shared: tuple[Signer, ...] = ()
    if s3 is not None:
        key = S3Key(
            access_key_id=read_secret(s3.access_key_id_file),
            secret_access_key=read_secret(s3.secret_access_key_file),
            session_token=None if s3.session_token_file is None else read_secret(s3.session_token_file),
        )
        shared = (S3Signer(key, s3.buckets, requester_pays=s3.requester_pays, now=clock.now),)
    found: dict[str, tuple[Signer, ...]] = {"": shared}
    for each in settings.catalogs:
        found[each.name] = shared
        if each.signing is not None:
            key_file = each.signing.key_file
            headers = {} if key_file is None else {"Ocp-Apim-Subscription-Key": read_secret(key_file)}
            fetcher = Fetcher(
                each.signing.url,
                headers=headers,
                timeout_s=each.timeout_s,
                max_bytes=1 << 16,
                now=clock.now,
                gates=gates,
            )
            margin = timedelta(seconds=each.signing.margin_s)
            found[each.name] = (
                PlanetaryComputerSigner(each.signing.url, fetcher, now=clock.now, margin=margin),
                *shared,
            )
    return found


def read_limits(settings: Settings) -> ReadLimits:
    """What reading a scene may cost, from the settings."""
    access = settings.access
    return ReadLimits(
        max_pixels=access.max_pixels,
        max_bands=access.max_bands,
        max_bytes=access.max_bytes,
        timeout_s=access.read_timeout_s,
    )


def catalog_of(each: CatalogSettings, clock: Clock, gates: HostGates | None = None) -> Catalog:
    """The catalog that a section names; ``gates`` are shared by all catalogs of a process."""
    if gates is not None and not each.is_local:
        gates.limit(each.url, each.requests_per_minute)
    headers = {} if each.credentials is None else each.credentials.headers()
    if each.type == "static":
        return StaticCatalog(each.name, each.url, headers=headers, timeout_s=each.timeout_s, now=clock.now, gates=gates)
    return StacApiCatalog(
        each.name,
        each.url,
        headers=headers,
        timeout_s=each.timeout_s,
        most_items=each.most_items,
        now=clock.now,
        gates=gates,
    )


def catalog_watch(
    settings: Settings, each: CatalogSettings, catalog: Catalog, areas: Mapping[str, Area]
) -> CatalogWatch:
    """What is wanted of a catalog, and how it is polled; ``areas``: all that are configured, by name."""
    return CatalogWatch(
        catalog=catalog,
        areas=tuple(areas[area.name] for area in settings.areas if area.watches(each.name)),
        sensors=each.collections,
        poll_every_s=each.poll_every_s,
        page_size=each.page_size,
        silent_after=None if each.silent_after_h is None else timedelta(hours=each.silent_after_h),
        pace=Pace(
            look_back=timedelta(days=each.overlap_days),
            sweep_every=timedelta(seconds=each.sweep_every_s),
            sweep=timedelta(days=each.sweep_days),
        ),
    )


def sink_of(each: SinkSettings, clock: Clock, rng: random.Random) -> Sink:
    """The sink that a section names."""
    if isinstance(each, KafkaSinkSettings):
        return KafkaSink(
            KafkaSettings(
                bootstrap=each.bootstrap_servers,
                topic=each.topic,
                partitions=each.partitions,
                replication=each.replication,
                security_protocol=each.security.protocol,
                ca_file=each.security.ca_file,
                cert_file=each.security.cert_file,
                key_file=each.security.key_file,
                sasl_mechanism=each.security.mechanism,
                username=each.security.username,
                password_file=each.security.password_file,
            ),
            name=each.name,
        )
    if isinstance(each, GeoJsonSinkSettings):
        return FolderSink(each.folder, GeoJsonWriter(write_whole), name=each.name)
    if isinstance(each, CapSinkSettings):
        identity = CapIdentity(
            sender=each.sender,
            sender_name=each.sender_name,
            status=each.status,
            restriction=each.restriction,
            valid_for=timedelta(days=each.valid_days),
        )
        return FolderSink(each.folder, CapWriter(identity, now=clock.now, write_whole=write_whole), name=each.name)
    if isinstance(each, WebhookSinkSettings):
        webhook = WebhookSettings(url=each.url, secret_file=each.secret_file, timeout_s=each.timeout_s)
        return WebhookSink(webhook, name=each.name, clock=clock, rng=rng)
    return JsonLinesSink(each.path, name=each.name)
