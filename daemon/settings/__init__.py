"""The configuration: one YAML file, every key of which the environment may override, resolved once into frozen values.

``VIGIE__CATALOGS__0__URL=https://…`` overrides ``catalogs[0].url``; a value that looks like a JSON list, object or
string is read as JSON, so that ``VIGIE__SINKS='[{"type": "jsonl", "path": "alerts.jsonl"}]'`` replaces a section.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from daemon.errors import ConfigError
from daemon.scenes import Area
from daemon.settings.areas import AreaSettings
from daemon.settings.problems import did_you_mean, problems_of, without_password
from daemon.settings.sections import (
    AccessSettings,
    CatalogSettings,
    EngineSettings,
    HttpSettings,
    LogSettings,
    ScoringSettings,
    Section,
    SettingPath,
    StoreSettings,
    WorkerSettings,
)
from daemon.settings.sinks import SinkSettings
from daemon.settings.source import KeyPath, Problem, Source, raise_problems, read_source
from engine.sensors import SENSORS


class Settings(Section):
    """All that can be configured."""

    # Not `StoreSettings()`: its relative path is resolved by validation alone, which knows the folder of the file.
    store: StoreSettings = Field(default_factory=dict)  # type: ignore[assignment]
    cache_dir: SettingPath = Path("~/.cache/vigie")
    """Folder for what can be derived again, such as ONNX files."""
    catalogs: tuple[CatalogSettings, ...] = ()
    areas: tuple[AreaSettings, ...] = ()
    access: AccessSettings = AccessSettings()
    engine: EngineSettings = EngineSettings()
    scoring: ScoringSettings = ScoringSettings()
    worker: WorkerSettings = WorkerSettings()
    sinks: tuple[SinkSettings, ...] = ()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()

    def watched_areas(self) -> tuple[Area, ...]:
        """The areas as the daemon knows them; reads the files that they name.

        Raises:
            ConfigError: a file is missing, or holds no polygon.
        """
        try:
            return tuple(area.to_area() for area in self.areas)
        except ValueError as error:
            raise ConfigError(f"an area cannot be used: {error}") from error

    def require_watch(self) -> None:
        """Check that there is something to watch and somewhere to tell it: ``vigie run`` needs that.

        Raises:
            ConfigError: catalogs, areas or sinks are not configured.
        """
        missing = [key for key in ("catalogs", "areas", "sinks") if not getattr(self, key)]
        if missing:
            raise ConfigError(
                f"nothing to run: the configuration has no {', '.join(missing)}; see deploy/config/example.yaml"
            )

    def redacted(self) -> dict[str, Any]:
        """Plain values of every key, defaults included, without passwords: what ``vigie check-config`` prints."""
        return _redact(self.model_dump(mode="json"))  # type: ignore[no-any-return]


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of a file (none: defaults) with the environment laid over them.

    Raises:
        ConfigError: with every mistake, its ``file:line:column`` or variable, what was found and the remedy.
    """
    source = read_source(path, environ)
    problems = [*_duplicate_names(source), *_unknown_catalogs(source), *_unknown_sensors(source)]
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(source.tree, context={"folder": source.folder})
    except ValidationError as error:
        problems = [*problems_of(error, Settings, source), *problems]
    if settings is not None:
        problems += _unusable_files(settings, source)
    raise_problems(problems)
    if settings is None:
        raise ConfigError(f"{source.name}: the configuration is not usable")
    return settings


def _entries(source: Source, section: str) -> Sequence[Any]:
    entries = source.tree.get(section)
    return entries if isinstance(entries, list) else ()


def _names(source: Source, section: str) -> list[str | None]:
    """The name of each entry, where it has one; a sink without a name is called by its type."""
    found = [entry if isinstance(entry, dict) else {} for entry in _entries(source, section)]
    names = [entry.get("name", entry.get("type") if section == "sinks" else None) for entry in found]
    return [name if isinstance(name, str) else None for name in names]


def _duplicate_names(source: Source) -> list[Problem]:
    problems = []
    for section in ("catalogs", "areas", "sinks"):
        seen: Counter[str] = Counter()
        for index, name in enumerate(_names(source, section)):
            if name is None:
                continue
            if seen[name]:
                path: KeyPath = (section, index, "name")
                message = f"{name!r} names two entries: give each `name:` of its own"
                problems.append(Problem(where=source.where(path), path=path, message=message))
            seen[name] += 1
    return problems


def _unknown_catalogs(source: Source) -> list[Problem]:
    known = {name for name in _names(source, "catalogs") if name is not None}
    problems = []
    for index, area in enumerate(_entries(source, "areas")):
        wanted = area.get("catalogs") if isinstance(area, dict) else None
        for position, name in enumerate([wanted] if isinstance(wanted, str) else wanted or ()):
            if isinstance(name, str) and name != "all" and name not in known:
                path: KeyPath = ("areas", index, "catalogs", position)
                message = f"no catalog is named {name!r}; {did_you_mean(name, known | {'all'})}"
                problems.append(Problem(where=source.where(path), path=path, message=message))
    return problems


def _unknown_sensors(source: Source) -> list[Problem]:
    problems = []
    for index, catalog in enumerate(_entries(source, "catalogs")):
        collections = catalog.get("collections") if isinstance(catalog, dict) else None
        for collection, sensor in collections.items() if isinstance(collections, dict) else ():
            if isinstance(sensor, str) and sensor != "auto" and sensor not in SENSORS:
                path: KeyPath = ("catalogs", index, "collections", collection)
                message = f"no sensor is named {sensor!r}; {did_you_mean(sensor, {*SENSORS, 'auto'})}"
                problems.append(Problem(where=source.where(path), path=path, message=message))
    return problems


def _unusable_files(settings: Settings, source: Source) -> list[Problem]:
    """Files that the settings name and that are wanted at start; read now, while the line is known."""
    problems = []
    for index, area in enumerate(settings.areas):
        try:
            area.to_area()
        except ValueError as error:
            path: KeyPath = ("areas", index, "file")
            problems.append(Problem(where=source.where(path), path=path, message=str(error)))
    secrets: list[tuple[KeyPath, Path | None]] = [(("store", "password_file"), settings.store.password_file)]
    for index, catalog in enumerate(settings.catalogs):
        if catalog.credentials is not None:
            secrets.append((("catalogs", index, "credentials", "secret_file"), catalog.credentials.secret_file))
        if catalog.signing is not None:
            secrets.append((("catalogs", index, "signing", "key_file"), catalog.signing.key_file))
    if settings.access.s3 is not None:
        keys = ("access_key_id_file", "secret_access_key_file", "session_token_file")
        secrets += [(("access", "s3", key), getattr(settings.access.s3, key)) for key in keys]
    for index, sink in enumerate(settings.sinks):
        if sink.type == "kafka":
            files = ("password_file", "ca_file", "cert_file", "key_file")
            secrets += [(("sinks", index, "security", key), getattr(sink.security, key)) for key in files]
        if sink.type == "webhook":
            secrets.append((("sinks", index, "secret_file"), sink.secret_file))
    for path, file in secrets:
        if file is not None and not file.is_file():
            message = f"there is no file {file}: write it there, or correct the path"
            problems.append(Problem(where=source.where(path), path=path, message=message))
    return problems


def _redact(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redact(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_redact(below) for below in value]
    return without_password(value) if isinstance(value, str) else value
