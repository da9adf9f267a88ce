"""Dotenv files: ``NAME=value`` lines, quotes, ``export``, comments."""

from __future__ import annotations

import re
from collections.abc import Mapping

from modelmesh.errors import ConfigurationError, Problem

_ESCAPES: Mapping[str, str] = {"n": "\n", "t": "\t", "r": "\r"}


def parse_dotenv(text: str, *, file: str) -> dict[str, str]:
    r"""Read ``NAME=value`` lines.

    Values may stand in single quotes (taken as they are) or double quotes (with ``\n``, ``\t``, ``\r``, ``\"`` and
    ``\\``); unquoted ones end at a `` #``.

    Raises:
        ConfigurationError: A line is none of this; names file and line, and never shows its text.
    """
    values: dict[str, str] = {}
    problems: list[Problem] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        name = name.strip()
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
            problems.append(Problem("expected NAME=value", file=file, line=number))
            continue
        parsed = _dotenv_value(value.strip())
        if parsed is None:
            problems.append(Problem(f"the quoted value of {name} does not end on its line", file=file, line=number))
            continue
        values[name] = parsed
    if problems:
        raise ConfigurationError.from_problems(problems)
    return values


def _dotenv_value(value: str) -> str | None:
    quote = value[:1]
    if quote not in ("'", '"'):
        return value.split(" #", 1)[0].strip()
    pattern = r"'([^']*)'" if quote == "'" else r'"((?:[^"\\]|\\.)*)"'
    match = re.match(pattern + r"\s*(?:#.*)?$", value)
    if match is None:
        return None
    inner = match.group(1)
    if quote == "'":
        return inner
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), inner)
