"""What a wrong setting is told: the key, what was found, and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from daemon.settings.source import KeyPath, Problem, Source

_URL_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]*@")


def without_password(text: str) -> str:
    """The text with the password of any ``scheme://user:password@host`` in it replaced by stars."""
    return _URL_PASSWORD.sub(r"\1:***@", text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` where one is near, else the list of all that may stand there."""
    choices = sorted(known)
    close = difflib.get_close_matches(word.lower(), choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"it may be one of {', '.join(choices)}" if choices else "nothing may stand here"


def problems_of(error: ValidationError, model: type[BaseModel], source: Source) -> list[Problem]:
    """Every mistake that pydantic found, with its place in the source."""
    return [_problem(detail, model, source) for detail in error.errors(include_url=False)]


def _problem(detail: ErrorDetails, model: type[BaseModel], source: Source) -> Problem:
    path = _written_path(detail["loc"], source.tree)
    return Problem(where=source.where(path), path=path, message=_message(detail, model))


def _written_path(loc: Sequence[str | int], tree: Any) -> KeyPath:
    """The location without the tags that pydantic puts in for members of a union."""
    path: list[str | int] = []
    at = tree
    for position, part in enumerate(loc):
        inside = (isinstance(at, Mapping) and part in at) or (
            isinstance(at, list) and isinstance(part, int) and part < len(at)
        )
        if not inside and position < len(loc) - 1:
            continue
        path.append(part)
        at = at[part] if inside else None
    return tuple(path)


def _message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        # The value is not shown: a misplaced password would end up in a log.
        known = _keys_beside(detail["loc"], model)
        return f"unknown key; {did_you_mean(str(detail['loc'][-1]), known)}"
    if kind == "missing":
        return "this key is missing: add it"
    if kind == "union_tag_not_found":
        return "the key 'type' is missing: it says which kind this is"
    found = _shown(detail["input"])
    if kind == "union_tag_invalid":
        tags = re.findall(r"'([^']+)'", str(context.get("expected_tags", "")))
        tag = str(context.get("tag", ""))
        return f"type is {tag!r}; {did_you_mean(tag, tags)}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'", str(context["expected"]))
        return f"found {found}; {did_you_mean(str(detail['input']), choices)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_type" and isinstance(detail["input"], int | float | bool):
        return f"found {found}, which is not text: put it in quotes"
    if kind in ("timezone_aware", "datetime_from_date_parsing"):
        return f"found {found}; a time needs its zone: write it like 2026-01-31T00:00:00Z"
    return f"found {found}; {detail['msg'].removeprefix('Input ')}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping of keys"
    text = without_password(value if isinstance(value, str) else str(value))
    text = text if len(text) <= 80 else text[:77] + "..."
    return repr(text) if isinstance(value, str) else text


def _keys_beside(loc: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    """The keys that may stand where the last part of ``loc`` stands."""
    at: Any = model
    for part in loc[:-1]:
        at = _below(at, part)
    members = _models(at)
    return [name for member in members for name in member.model_fields]


def _below(annotation: Any, part: str | int) -> Any:
    members = _models(annotation)
    if isinstance(part, int):
        return annotation
    for member in members:
        if part in member.model_fields:
            return member.model_fields[part].annotation
        tag = member.model_fields.get("type")
        if tag is not None and part in get_args(tag.annotation):
            return member
    return None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [member for argument in get_args(annotation) for member in _models(argument)]
