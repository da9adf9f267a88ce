"""Turns pydantic's errors into problems with file, line, key path and remedy; input values are never shown."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from modelmesh.config.configuration import Configuration
from modelmesh.config.normalise import other_spellings
from modelmesh.config.reader import Document, KeyPath, dotted
from modelmesh.errors import Problem, unknown_name

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

_EXPECTED = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "string_type": "expected text",
    "list_type": "expected a list, such as [NAME]",
    "tuple_type": "expected a list, such as [NAME]",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
}

_SUBJECT = re.compile(r"^\w+ should")
"""How pydantic begins what it says of a value: with its kind."""


def problems_of(
    error: ValidationError,
    document: Document,
    model: type[BaseModel],
    base: KeyPath = (),
    *,
    also: Iterable[str] = (),
    only: Callable[[object], bool] = lambda key: True,
) -> Iterator[Problem]:
    """Yield a problem for each thing pydantic found, once per key.

    Args:
        error: What pydantic found.
        document: What was validated, for lines.
        model: What it was validated against.
        base: Where in the document the validated part stands.
        also: Further keys that may be written beside the model's own, for hints.
        only: Says of a key of the model whether to report what is wrong with it.
    """
    found = error.errors(include_input=False, include_url=False)
    places = [_written(document, base, tuple(each["loc"]), kind=str(each["type"])) for each in found]
    pairs = list(zip(found, places, strict=True))
    or_a_mapping = {loc for each, loc in pairs if each["type"] == "model_type"}
    for each, loc in _mistakes(pair for pair in pairs if not pair[0]["loc"] or only(pair[0]["loc"][0])):
        kind = str(each["type"])
        path = (*base, *loc)
        if kind == "extra_forbidden":
            message = unknown_key(path, {*_fields_at(model, loc[:-1]), *(also if len(loc) == 1 else ())})
        elif kind == "missing":
            message = "is missing; add it"
        elif kind == "literal_error":
            message = f"must be {each.get('ctx', {}).get('expected', 'one of the documented values')}"
            message += ", or a mapping" if loc in or_a_mapping else ""
        elif kind == "string_too_short" and each.get("ctx", {}).get("min_length") == 1:
            message = "must not be empty"
        elif kind == "too_short":
            message = "is empty; name at least one"
        elif kind == "value_error":
            message = str(each.get("ctx", {}).get("error", each["msg"]))
        elif kind == "model_type" and "connector" in _fields_at(model, loc):
            message = "expected a mapping, such as {connector: NAME}"
        else:
            message = _EXPECTED.get(kind) or _SUBJECT.sub("must", str(each["msg"]))
        yield Problem(message, dotted(path), document.file, document.line_of(path))


def _mistakes(found: Iterable[tuple[ErrorDetails, KeyPath]]) -> list[tuple[ErrorDetails, KeyPath]]:
    """Return one error for each place that is wrong: every branch of a union has its own of the same value."""
    chosen: dict[KeyPath, ErrorDetails] = {}
    for each, loc in found:
        # A branch that takes such a value says more of it than one that expects another type.
        if loc not in chosen or (chosen[loc]["type"] in _EXPECTED and each["type"] not in _EXPECTED):
            chosen[loc] = each
    # Where something inside is wrong, a branch took the value as it is written, or a list all but one of its items.
    outer = {loc[:depth] for loc in chosen for depth in range(len(loc))}
    return [(each, loc) for loc, each in chosen.items() if loc not in outer]


def _written(document: Document, base: KeyPath, loc: tuple[Any, ...], *, kind: str) -> KeyPath:
    """Cut the names of union branches out of a location: keep what a document could hold."""
    kept: list[str | int] = []
    data: Any = document.data
    for part in base:
        data = data.get(part) if isinstance(data, dict) else None
    for place, part in enumerate(loc):
        if isinstance(data, dict) and part in data:
            kept.append(part)
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int):
            kept.append(part)
            data = data[part] if part < len(data) else None
        elif place == len(loc) - 1 and kind == "missing" and isinstance(data, dict) and isinstance(part, str):
            kept.append(part)
    return tuple(kept)


def _fields_at(model: Any, loc: KeyPath) -> list[str]:
    """Return the field names of the model that stands at a location inside another."""
    for part in loc:
        model = _inside(model, part)
        if model is None:
            return []
    found = _models(model)
    return [name for each in found for name in written_keys(each)]


def written_keys(model: type[BaseModel]) -> list[str]:
    """Return the keys of a model that a file can hold, as it writes them; what only code can pass is left out."""
    return [key for key, field in _fields(model).items() if not field.exclude and not key.startswith("_")]


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {
        field.validation_alias if isinstance(field.validation_alias, str) else name: field
        for name, field in model.model_fields.items()
    }


def _inside(annotation: Any, part: str | int) -> Any:
    for model in _models(annotation):
        if isinstance(part, str) and part in _fields(model):
            return _fields(model)[part].annotation
    for option in _options(annotation):
        if typing.get_origin(option) in (dict, list, tuple):
            # Of ``tuple[X, ...]`` the last argument is the dots.
            return next(each for each in reversed(typing.get_args(option)) if each is not Ellipsis)
    return None


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [option for option in _options(annotation) if isinstance(option, type) and issubclass(option, BaseModel)]


def _options(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return [inner for option in typing.get_args(annotation) for inner in _options(option)]
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    return [annotation]


# --- keys in the wrong place ---------------------------------------------------------------------


_MANY = 2
"""What more places than this have says nothing about which of them was meant."""


def unknown_key(path: KeyPath, known: Iterable[str], *, limit: int = 12) -> str:
    """Say that a key is unknown where it stands, and how it was meant to be written or where it belongs.

    Args:
        path: Of the key.
        known: The keys that may stand there.
        limit: How many of them are listed.
    """
    key, known = str(path[-1]), sorted(known)
    if not get_close_matches(key, known, n=1, cutoff=0.8):
        other = get_close_matches(key, other_spellings(path), n=1, cutoff=0.8)
        if other:
            return f"unknown key {key!r}; did you mean {other[0]!r}?; remove or correct it"
        places = _places(key, str(path[0]))
        if 0 < len(places) <= _MANY:
            return f"unknown key {key!r}; did you mean {' or '.join(places)}?; move or correct it"
    return unknown_name("key", key, known, limit=limit) + "; remove or correct it"


def _places(key: str, section: str) -> list[str]:
    """Return where a key may stand, or the one that it nearly is; in its own section if it may stand there at all."""
    homes = _homes()
    near = [key] if key in homes else get_close_matches(key, homes, n=1, cutoff=0.9)
    found = [place for each in near for place in homes[each]]
    own = [place for place in found if place.startswith(f"{section}.")]
    # What belongs to a provider, model or pool is what people look for; other sections have a few of the same names.
    return own or [place for place in found if ".NAME." in place] or found


@cache
def _homes() -> dict[str, list[str]]:
    homes: dict[str, list[str]] = {}
    for place in _keys_below(Configuration):
        homes.setdefault(place.rpartition(".")[2], []).append(place)
    return homes


def _keys_below(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the places of all keys of a model and of those in it, such as ``pools.NAME.recovery.cooldown``."""
    for key in written_keys(model):
        yield prefix + key
        for option in _options(_fields(model)[key].annotation):
            is_named = typing.get_origin(option) is dict
            for inner in _models(typing.get_args(option)[-1] if is_named else option):
                yield from _keys_below(inner, f"{prefix}{key}.NAME." if is_named else f"{prefix}{key}.")
