"""Where each configured value comes from: a YAML file, then the environment on top of it.

A :class:`Source` is the merged tree of plain values together with the place of every key in it, so that whoever
judges a value can say which line, or which environment variable, to correct.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from daemon.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the root of the configuration to one value."""

ENV_PREFIX = "VIGIE__"
MAX_DEPTH = 64
MAX_NODES = 100_000
"""A configuration larger than this is a mistake or an alias bomb."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake in the configuration."""

    where: str
    """``file:line:column`` or the environment variable."""
    path: KeyPath
    """The key."""
    message: str
    """What was found and what to do."""

    def __str__(self) -> str:
        key = dotted(self.path)
        return f"{self.where}: {key}: {self.message}" if key else f"{self.where}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The merged tree of plain values, and where each of them was written."""

    name: str
    """The file as the user named it, or ``(no file)``."""
    folder: Path
    """Absolute folder against which relative paths are resolved: the file's, or the working folder without a file."""
    tree: dict[str, Any]
    places: Mapping[KeyPath, str]

    def where(self, path: KeyPath) -> str:
        """The place of a key, or of the nearest key above it that was written down."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.name


def dotted(path: KeyPath) -> str:
    """The path as people write it: ``catalogs[0].url``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def raise_problems(problems: list[Problem]) -> None:
    """Raise one :class:`ConfigError` that lists every problem, or return where there is none."""
    if not problems:
        return
    if len(problems) == 1:
        raise ConfigError(str(problems[0]))
    raise ConfigError(f"{len(problems)} mistakes in the configuration:\n" + "\n".join(f"  {p}" for p in problems))


def read_source(path: Path | None, environ: Mapping[str, str]) -> Source:
    """The file's values with the environment's ``VIGIE__SECTION__KEY`` values laid over them.

    Raises:
        ConfigError: the file is missing or unreadable, is not YAML, writes a key twice, or a variable names a list
            entry that cannot exist.
    """
    places: dict[KeyPath, str] = {}
    if path is None:
        name, folder, tree = "(no file)", Path.cwd(), {}
    else:
        name, folder = str(path), path.resolve().parent
        tree = _read_yaml(path, places)
    raise_problems(_overlay(tree, places, environ))
    return Source(name=name, folder=folder, tree=tree, places=places)


def _read_yaml(path: Path, places: dict[KeyPath, str]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        remedy = "copy deploy/config/example.yaml there, or name another file with --config"
        raise ConfigError(f"there is no configuration file at {path}: {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error}") from error
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}
        problems = _duplicates(node, str(path))
        raise_problems(problems)
        tree = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        remedy = "; indent with spaces, not tabs" if "'\\t'" in str(error.problem) else ""
        raise ConfigError(f"{place}: this is not YAML: {error.problem or error.context}{remedy}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: this is not YAML: {error}") from error
    finally:
        loader.dispose()
    if not isinstance(tree, dict):
        found = "a list" if isinstance(tree, list) else repr(tree)
        raise ConfigError(f"{path}:1:1: the file holds {found}; it must hold keys such as `catalogs:` and `areas:`")
    # Constructing has merged `<<:` into the nodes, so that merged keys have a place too.
    _mark(node, (), str(path), places)
    return tree


def _duplicates(root: yaml.Node, name: str) -> list[Problem]:
    problems: list[Problem] = []
    budget = [MAX_NODES]

    def walk(node: yaml.Node, path: KeyPath) -> None:
        budget[0] -= 1
        if budget[0] < 0 or len(path) > MAX_DEPTH:
            place = f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
            raise ConfigError(f"{place}: aliases make the file endless or huge: write the values out instead")
        if isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                mark = key.start_mark
                label = str(key.value)
                if label in first and label != "<<":
                    found = f"written twice, first on line {first[label]}: keep one of them"
                    place = f"{name}:{mark.line + 1}:{mark.column + 1}"
                    problems.append(Problem(where=place, path=(*path, label), message=found))
                first.setdefault(label, mark.line + 1)
                walk(value, (*path, label))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                walk(value, (*path, index))

    walk(root, ())
    return problems


def _mark(node: yaml.Node, path: KeyPath, name: str, places: dict[KeyPath, str]) -> None:
    places.setdefault(path, f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            places[below] = f"{name}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            _mark(value, below, name, places)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _mark(value, (*path, index), name, places)


def _overlay(tree: dict[str, Any], places: dict[KeyPath, str], environ: Mapping[str, str]) -> list[Problem]:
    """Lay the variables over the tree, whole sections before single keys; the tree and the places are changed."""
    problems: list[Problem] = []
    names = [name for name in environ if name.upper().startswith(ENV_PREFIX)]
    for name in sorted(names, key=_env_order):
        parts = name[len(ENV_PREFIX) :].split("__")
        where = f"environment variable {name}"
        at: Any = tree
        path: KeyPath = ()
        try:
            for part, following in pairwise([*parts, None]):
                key = _key(at, str(part))
                path = (*path, key)
                places.setdefault(path, where)
                if following is None:
                    _put(at, key, env_value(environ[name]))
                    places[path] = where
                else:
                    at = _put(at, key, _container(at, key, following))
        except IndexError as error:
            problems.append(Problem(where=where, path=path, message=str(error)))
    return problems


def _key(at: Any, part: str) -> str | int:
    if isinstance(at, dict):
        return _known_key(at, part)
    if not part.isdigit() or int(part) > len(at):
        raise IndexError(f"{part!r} is no entry of a list of {len(at)}: use an index from 0 to {len(at)}")
    return int(part)


def _container(at: Any, key: Any, following: str) -> Any:
    present = (key in at) if isinstance(at, dict) else (key < len(at))
    if present and isinstance(at[key], dict | list):
        return at[key]
    return [] if following.isdigit() else {}


def _put(at: Any, key: Any, value: Any) -> Any:
    if isinstance(at, list) and key == len(at):
        at.append(value)
    else:
        at[key] = value
    return value


def _env_order(name: str) -> tuple[list[tuple[int, str]], str]:
    # Whole sections come before their keys, and list entry 2 before entry 10.
    return [(int(part) if part.isdigit() else 0, part) for part in name.split("__")], name


def _known_key(at: Mapping[Any, Any], part: str) -> str:
    """The key that a variable's part means: variables have neither case nor hyphens, collection ids have both."""
    plain = re.sub(r"[^a-z0-9]", "_", part.lower())
    for key in at:
        if re.sub(r"[^a-z0-9]", "_", str(key).lower()) == plain:
            return str(key)
    return part.lower()


def env_value(text: str) -> Any:
    """A variable's value: JSON where it looks like a JSON list, object, string or null, else the text itself.

    Numbers and booleans stay text, which the key's own type reads: so ``VIGIE__AREAS__0__NAME=2026`` is a name.
    """
    stripped = text.strip()
    if stripped == "null" or stripped[:1] in ("[", "{", '"'):
        try:
            return json.loads(stripped)
        except json.JSONDecodeError:
            return text
    return text
