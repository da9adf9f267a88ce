"""Secrets: references in the configuration, and the stores they are looked up in.

``${secrets:NAME}`` may stand anywhere inside a string. References are resolved at the last moment, on their way into a
connector's settings; the configuration itself keeps them as written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from modelmesh.errors import ConfigurationError, Problem, SecretNotFoundError, unknown_name
from modelmesh.interfaces.runtime import Clock

REFERENCE = re.compile(r"\$\{secrets:([^}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9_.\-/]+")
_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

STORE_IDS: Mapping[str, str] = {
    "env": "modelmesh.env.v1",
    "dotenv": "modelmesh.dotenv.v1",
    "env-file": "modelmesh.dotenv.v1",
    "file": "modelmesh.file-secrets.v1",
    "file-secrets": "modelmesh.file-secrets.v1",
}


class SecretStore(Protocol):
    """Where secrets are looked up."""

    def get(self, name: str) -> str:
        """Return a secret.

        Raises:
            KeyError: There is none of this name.
        """
        ...


class EnvironmentStore:
    """Secrets from environment variables."""

    def __init__(self, environ: Mapping[str, str], *, prefix: str = "") -> None:
        self._environ = environ
        self._prefix = prefix
        self.place = "the environment"

    def get(self, name: str) -> str:
        """Return a variable; an empty one counts as absent."""
        value = self._environ.get(self._prefix + name, "")
        if not value:
            raise KeyError(name)
        return value


class DotenvStore:
    """Secrets from a dotenv file: ``NAME=value`` lines, quotes, ``export``, comments."""

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._values = parse_dotenv(_read(path), file=str(path))

    def get(self, name: str) -> str:
        """Return a value."""
        return self._values[name]


class FileStore:
    """Secrets mounted as files, one a secret, as container platforms do (``/run/secrets``)."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise ConfigurationError(f"secrets.path: {directory} is no directory; mount the secrets there")
        self._directory = directory
        self.place = str(directory)

    def get(self, name: str) -> str:
        """Return a file's content without the line end at its end."""
        path = self._directory / name
        if path.resolve().parent != self._directory.resolve() and not path.is_symlink():
            raise KeyError(name)
        if not path.is_file():
            raise KeyError(name)
        return _read(path).rstrip("\r\n")


class ChainedStore:
    """Several stores, asked in turn."""

    def __init__(self, stores: list[Any]) -> None:
        self._stores = stores
        self.place = " or ".join(store.place for store in stores)

    def get(self, name: str) -> str:
        """Return the first store's value that has one."""
        for store in self._stores:
            try:
                value: str = store.get(name)
            except KeyError:
                continue
            return value
        raise KeyError(name)


class SecretResolver:
    """Looks references up, remembers what it found for a while, and knows every value it ever gave out.

    Args:
        store: Where to look.
        clock: Time, for the cache; without one values are kept until `reload`.
        cache_ttl: Seconds a value is kept; 0 for no cache.
    """

    def __init__(self, store: SecretStore, *, clock: Clock | None = None, cache_ttl: float = 300.0) -> None:
        self._store = store
        self._clock = clock
        self._ttl = cache_ttl
        self._cache: dict[str, tuple[str, float]] = {}
        self._given: set[str] = set()

    def __repr__(self) -> str:
        return f"SecretResolver({len(self._cache)} cached)"

    def resolve(self, text: str) -> str:
        """Return a text with its references replaced.

        Raises:
            SecretNotFoundError: The store has no such secret.
            ValueError: A reference is malformed.
        """
        if "${secrets:" not in text:
            return text
        if text.count("${secrets:") != len(REFERENCE.findall(text)):
            raise ValueError("a secret reference lacks its closing brace; write ${secrets:NAME}")
        return REFERENCE.sub(lambda match: self.get(match.group(1)), text)

    def get(self, name: str) -> str:
        """Return one secret by name."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"malformed secret reference ${{secrets:{name}}}; write ${{secrets:NAME}}")
        now = self._clock.monotonic() if self._clock is not None else 0.0
        cached = self._cache.get(name)
        if cached is not None and now - cached[1] < self._ttl:
            return cached[0]
        try:
            value = self._store.get(name)
        except KeyError:
            place = getattr(self._store, "place", "the secret store")
            raise SecretNotFoundError(f"secret {name!r} is not in {place}; set it there") from None
        self._cache[name] = (value, now)
        self._given.add(value)
        return value

    def resolve_all(self, value: Any) -> Any:
        """Return a structure with the references of all its strings replaced, at any depth."""
        if isinstance(value, str):
            return self.resolve(value)
        if isinstance(value, Mapping):
            return {key: self.resolve_all(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve_all(item) for item in value]
        return value

    def invalidate(self, name: str) -> None:
        """Forget one cached value."""
        self._cache.pop(name, None)

    def reload(self) -> None:
        """Look everything up anew that was looked up before."""
        names = list(self._cache)
        self._cache.clear()
        for name in names:
            self.get(name)

    def known_values(self) -> set[str]:
        """Every secret given out so far, for redaction."""
        return set(self._given)


def build_store(section: Mapping[str, Any], environ: Mapping[str, str], base: Path) -> SecretStore:
    """Build the store a ``secrets`` section names; without one, the environment.

    Args:
        section: The section, as written.
        environ: The environment.
        base: Where relative paths start: the folder of the configuration.

    Raises:
        ConfigurationError: There is no such store, or its file cannot be read.
    """
    names = section.get("store") or "env"
    stores = [_store(str(name), section, environ, base) for name in (names if isinstance(names, list) else [names])]
    return stores[0] if len(stores) == 1 else ChainedStore(stores)


def _store(name: str, section: Mapping[str, Any], environ: Mapping[str, str], base: Path) -> Any:
    full = STORE_IDS.get(name.removeprefix("secret-store."), name.removeprefix("secret-store."))
    if full == "modelmesh.env.v1":
        return EnvironmentStore(environ, prefix=str(section.get("prefix", "")))
    path = _ENVIRONMENT.sub(lambda match: environ.get(match.group(1), ""), str(section.get("path") or ""))
    if full == "modelmesh.dotenv.v1":
        return DotenvStore(base / (path or ".env"))
    if full == "modelmesh.file-secrets.v1":
        return FileStore(base / (path or "/run/secrets"))
    raise ConfigurationError(f"secrets.store: {unknown_name('secret store', name, sorted(set(STORE_IDS.values())))}")


def parse_dotenv(text: str, *, file: str) -> dict[str, str]:
    r"""Read ``NAME=value`` lines.

    Values may stand in single quotes (taken as they are) or double quotes (with ``\n``, ``\t``, ``\r``, ``\"`` and
    ``\\``); unquoted ones end at a `` #``.

    Raises:
        ConfigurationError: A line is none of this; names file and line, and never shows its text.
    """
    values: dict[str, str] = {}
    problems: list[Problem] = []
    for number, raw in enumerate(text.splitlines(), start=1):
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
    escapes: Mapping[str, str] = {"n": "\n", "t": "\t", "r": "\r"}
    unescape: Callable[[re.Match[str]], str] = lambda found: escapes.get(found.group(1), found.group(1))  # noqa: E731
    return re.sub(r"\\(.)", unescape, inner)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"secrets: {path} cannot be read: {reason}") from None
