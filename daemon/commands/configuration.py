"""``vigie check-config``, and how every command finds its settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
import yaml

from daemon.parts import bundle_path, runner_choice
from daemon.settings import Settings, load_settings
from engine.bundle import ModelBundle

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="VIGIE_CONFIG", help="YAML file; VIGIE__SECTION__KEY overrides a key."),
]


def settings_of(config: Path | None) -> Settings:
    """The settings of a file and the environment.

    Raises:
        ConfigError: every mistake, with its line and remedy.
    """
    return load_settings(config, os.environ)


def check_config(
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")] = False,
) -> None:
    """Check a configuration and print it with all defaults, without secrets. Nothing is contacted."""
    settings = settings_of(config)
    settings.require_watch()
    settings.watched_areas()
    runner_choice(settings)
    bundle = ModelBundle.load(bundle_path(settings.engine.bundle))
    plain = settings.redacted()
    typer.echo(json.dumps(plain, indent=2) if as_json else yaml.safe_dump(plain, sort_keys=False).rstrip())
    typer.echo(f"# usable; model {bundle.name} {bundle.model_hash[:16]}", err=True)
