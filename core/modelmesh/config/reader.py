"""Reads YAML (and with it JSON) into plain data that remembers the line of every key.

Stricter than YAML itself where leniency hides mistakes: a key written twice is an error; ``yes``, ``no``, ``on`` and
``off`` are text, and so are dates; only ``true`` and ``false`` are booleans (YAML 1.2). Aliases and merges work, within
bounds that no document written by hand reaches.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from modelmesh.errors import ConfigurationError, Problem

MAX_BYTES = 10 * 1024 * 1024
MAX_NODES = 200_000
MAX_DEPTH = 64
_NEEDS = "providers, models and pools"

KeyPath = tuple[str | int, ...]


@dataclass(slots=True)
class Document:
    """A document as data.

    Attributes:
        data: Plain dicts, lists and scalars.
        file: As the user named it, or None for a mapping.
        lines: 1-based line of each key path; the path of a list item ends with its index.
    """

    data: dict[str, Any]
    file: str | None = None
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def line_of(self, path: KeyPath) -> int | None:
        """Return the line of a path, or of the closest one above it that was written."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Build a problem that names file, line and key path."""
        return Problem(message, dotted(path), self.file, self.line_of(path))


def dotted(path: KeyPath) -> str:
    """Return a path as people write it: ``pools.chat.models[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class _Loader(yaml.SafeLoader):
    """SafeLoader whose plain scalars follow YAML 1.2."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own attribute, replaced and not shared)


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+)", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN)",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), [*_first.replace("\0", ""), ""])


def read_file(path: str | Path, *, needs: str = _NEEDS) -> Document:
    """Read a YAML or JSON file.

    Args:
        path: Of the file.
        needs: What it must hold at least, for people.

    Raises:
        ConfigurationError: It cannot be read, or is not what `read_text` takes; names the file.
    """
    name = str(path)
    if "\n" in name:
        raise ConfigurationError("text stands where a file's path is expected; for YAML use MeshConfig.from_yaml(text)")
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise _error(f"cannot be read: {error.strerror or type(error).__name__}; check the path", file=name) from error
    if len(raw) > MAX_BYTES:
        raise _error(f"is larger than {MAX_BYTES // 1024**2} MB, which no configuration needs", file=name)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _error("is not UTF-8; save it in that encoding", file=name, line=line) from None
    return read_text(text, file=name, needs=needs)


def read_text(text: str, *, file: str | None = None, needs: str = _NEEDS) -> Document:
    """Read a YAML document whose top is a mapping.

    Args:
        text: Of the document.
        file: What errors call it.
        needs: What it must hold at least, for people.

    Raises:
        ConfigurationError: Syntax, duplicate keys, or a size beyond all reason; names file and line.
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        what = f"holds the character U+{error.character:04X}, which YAML does not allow; remove it"
        raise _error(what, file=file, line=text.count("\n", 0, error.position) + 1) from None
    try:
        node = loader.get_single_node()
        if node is None:
            raise _error(f"is empty; it needs at least {needs}", file=file)
        builder = _Builder(loader, file)
        data = builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise _error(f"is not valid YAML: {_plain(error)}", file=file, line=line) from None
    except RecursionError:
        raise _error(f"is nested deeper than {MAX_DEPTH} levels", file=file) from None
    finally:
        loader.dispose()
    if builder.problems:
        raise ConfigurationError.from_problems(builder.problems)
    if not isinstance(data, dict):
        raise _error(f"must be a mapping at the top, with {needs}", file=file, line=1)
    return Document(data, file, builder.lines)


class _Builder:
    """Builds plain data from nodes, noting lines and duplicates."""

    def __init__(self, loader: _Loader, file: str | None) -> None:
        self._loader = loader
        self._file = file
        self._count = 0
        self._open: set[int] = set()
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self._count += 1
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if self._count > MAX_NODES:
            raise _error(
                f"expands to more than {MAX_NODES:,} values; are aliases multiplied?", file=self._file, line=line
            )
        if len(path) > MAX_DEPTH:
            raise _error(f"is nested deeper than {MAX_DEPTH} levels", file=self._file, line=line)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise _error("has an alias that contains itself", file=self._file, line=line)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
        finally:
            self._open.discard(id(node))
        raise _error("holds something that is neither text, list nor mapping", file=self._file, line=line)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            value = self._loader.construct_object(node)
        except (ValueError, ArithmeticError, LookupError, AttributeError):
            # What PyYAML raises then may show the value, which may be a key.
            line = node.start_mark.line + 1
            raise _error("has a value that its !tag does not fit; remove the tag", file=self._file, line=line) from None
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        return node.value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        built: dict[str, Any] = {}
        written: dict[Hashable, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged.extend(value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node])
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                # It is not shown: a mapping that became a key by a slip may hold a secret.
                what = "list" if isinstance(key_node, yaml.SequenceNode) else "mapping"
                place = f" under {dotted(path)}" if path else ""
                message = f"has a {what} as a key{place}, where text belongs; quote it, or correct the brackets"
                raise _error(message, file=self._file, line=line)
            # Keys are text as written: a model called 4o or on stays what it is.
            key = key_node.value
            if key in written:
                message = f"the key is written twice, first in line {written[key]}; remove one of them"
                self.problems.append(Problem(message, dotted((*path, key)), self._file, line))
                continue
            written[key] = line
            self.lines.setdefault((*path, key), line)  # what is written has its line before what is merged
            built[key] = self.build(value_node, (*path, key))
        for source in merged:
            if not isinstance(source, yaml.MappingNode):
                raise _error(
                    "merges (<<) something that is no mapping", file=self._file, line=source.start_mark.line + 1
                )
            for key, value in self._mapping(source, path).items():
                built.setdefault(key, value)
        return built


_PLAIN = (
    ("'\\t'", "a tab stands where only spaces are read, in JSON as in YAML; indent with spaces"),
    ("could not find expected ':'", "a key without its colon; write key: value"),
    ("mapping values are not allowed", "a colon where none may stand; quote the text or check the indentation"),
    ("undefined alias", "an undefined alias; define it with & before *, or quote text that begins with *"),
    ("duplicate anchor", "an anchor that is defined twice; rename one, or quote text that begins with &"),
    ("could not determine a constructor", "a !tag, which configurations do not use; quote text that begins with !"),
    ("undefined tag handle", "a !tag, which configurations do not use; quote text that begins with !"),
    ("cannot start any token", "text that begins with a special character; quote it"),
    ("found another document", "a second document (---); keep one"),
    ("but found '<block", "something that does not belong to what is above it; check the indentation"),
    ("'<stream end>'", "a bracket or brace that is opened and never closed"),
    ("unexpected end of stream", "a quote that is opened and never closed"),
)
"""What PyYAML says, and the same in plain words; names and values that PyYAML repeats are left out."""


def _plain(error: yaml.MarkedYAMLError) -> str:
    """Say in plain words what YAML's parser stumbled over."""
    problem = error.problem or error.context or "it cannot be parsed"
    for said, plain in _PLAIN:
        if said in problem:
            return plain
    return problem.replace("<block end>", "the end of the block").replace("<scalar>", "a value")


def _error(message: str, *, file: str | None, line: int | None = None) -> ConfigurationError:
    subject = "it" if file else "the configuration"
    return ConfigurationError.from_problems([Problem(f"{subject} {message}", "", file, line)])
