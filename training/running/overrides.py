"""``--preset-file``: a TOML or JSON file whose fields replace those of a preset, by name."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.errors import InputMismatch
from training.errors import RunInvalid

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Preset = TypeVar("Preset", bound="DataclassInstance")


def read_overrides(path: Path) -> dict[str, Any]:
    """The fields that a file sets.

    Raises:
        RunInvalid: it is not there, neither ``.toml`` nor ``.json``, or cannot be parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix == ".json":
            found = json.loads(text)
            if isinstance(found, dict):
                return found
            raise RunInvalid(f"{path} holds a JSON {type(found).__name__}; an object of preset fields is expected")
    except (OSError, ValueError) as error:
        raise RunInvalid(f"preset file {path} cannot be read: {error}") from error
    raise RunInvalid(f"preset file {path} is neither .toml nor .json")


def overridden(preset: Preset, values: Mapping[str, Any]) -> Preset:
    """The preset with some fields replaced; tables such as ``unet`` replace only the fields that they name.

    Raises:
        RunInvalid: a field is unknown, or a value is of another type than the preset's.
    """
    changed: Preset = _changed(preset, values, "")
    return changed


def _changed(value: Any, changes: Mapping[str, Any], above: str) -> Any:
    names = [field.name for field in fields(value)]
    unknown = sorted(f"{above}{name}" for name in set(changes) - set(names))
    if unknown:
        raise RunInvalid(f"the preset has no field {', '.join(unknown)}; there are {', '.join(names)}")
    new = {name: _fitting(getattr(value, name), change, f"{above}{name}") for name, change in changes.items()}
    try:
        return replace(value, **new)
    except InputMismatch as error:
        raise RunInvalid(f"the preset cannot be changed so: {error}") from error


def _fitting(old: Any, new: Any, name: str) -> Any:
    if is_dataclass(old):
        if not isinstance(new, dict):
            raise RunInvalid(f"preset field {name} is a table of fields; {new!r} is not")
        return _changed(old, new, f"{name}.")
    if isinstance(old, Mapping):
        if not isinstance(new, dict):
            raise RunInvalid(f"preset field {name} is a table; {new!r} is not")
        like = next(iter(old.values()))
        return {**old, **{key: _fitting(old.get(key, like), value, f"{name}.{key}") for key, value in new.items()}}
    if isinstance(old, tuple) and isinstance(new, list):
        return tuple(_fitting(old[0], each, name) if old else each for each in new)
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        return float(new)
    # A field that is None unless it is set holds a whole number.
    wanted = int if old is None else type(old)
    if type(new) is not wanted:
        raise RunInvalid(f"preset field {name} takes {wanted.__name__}; {new!r} is {type(new).__name__}")
    return new
