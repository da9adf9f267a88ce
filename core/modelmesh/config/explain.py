"""Turns pydantic's errors into problems with file, line, key path and remedy; input values are never shown."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from modelmesh.config.reader import Document, KeyPath, dotted
from modelmesh.errors import Problem, unknown_name

_EXPECTED = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "string_type": "expected text",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
}


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
    seen: set[str] = set()
    found = error.errors(include_input=False, include_url=False)
    words = {
        dotted(_written(document, base, tuple(each["loc"]))): each for each in found if each["type"] == "literal_error"
    }
    for each in found:
        if each["loc"] and not only(each["loc"][0]):
            continue
        kind, loc = str(each["type"]), _written(document, base, tuple(each["loc"]))
        path = (*base, *loc)
        name = dotted(path)
        if name in seen:
            continue  # the other branches of a union say the same
        seen.add(name)
        if kind == "extra_forbidden":
            known = sorted({*_fields_at(model, loc[:-1]), *(also if len(loc) == 1 else ())})
            message = unknown_name("key", str(loc[-1]), known) + "; remove or correct it"
        elif kind == "missing":
            message = "is missing; add it"
        elif kind == "literal_error":
            message = f"must be {each.get('ctx', {}).get('expected', 'one of the documented values')}"
        elif kind == "too_short":
            message = "is empty; name at least one"
        elif kind == "model_type" and dotted(loc) in words:
            message = f"must be {words[dotted(loc)].get('ctx', {}).get('expected')}, or a mapping"
        elif kind == "value_error":
            message = str(each.get("ctx", {}).get("error", each["msg"]))
        else:
            message = _EXPECTED.get(kind) or str(each["msg"]).replace("Input should", "must")
        yield Problem(message, name, document.file, document.line_of(path))


def _written(document: Document, base: KeyPath, loc: tuple[Any, ...]) -> KeyPath:
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
        elif place == len(loc) - 1 and isinstance(data, dict) and isinstance(part, str) and part.isidentifier():
            kept.append(part)  # a key that is missing
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
    """Return the keys of a model that a file can hold; what can only be passed in code is left out."""
    return [name for name, field in model.model_fields.items() if not field.exclude and not name.startswith("_")]


def _inside(annotation: Any, part: str | int) -> Any:
    for model in _models(annotation):
        if isinstance(part, str) and part in model.model_fields:
            return model.model_fields[part].annotation
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
