"""Secrets: references in the configuration, and the stores they are looked up in.

``${secrets:NAME}`` may stand anywhere inside a string. References are resolved at the last moment, on their way into a
connector's settings; the configuration itself keeps them as written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from modelmesh.config.configuration import SecretsConfig
from modelmesh.config.dotenv import parse_dotenv
from modelmesh.config.not_yet import NOT_YET_STORES, REFUSAL
from modelmesh.errors import ConfigurationError, Problem, SecretNotFoundError, unknown_name
from modelmesh.interfaces.runtime import Clock

REFERENCE = re.compile(r"\$\{secrets:([^}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9_.\-/]+")
_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

STORE_IDS: Mapping[str, str] = {
    "env": "modelmesh.env.v1",
    "dotenv": "modelmesh.dotenv.v1",
    "env-file": "modelmesh.dotenv.v1",
    "modelmesh.env-file.v1": "modelmesh.dotenv.v1",
    "file": "modelmesh.file-secrets.v1",
    "file-secrets": "modelmesh.file-secrets.v1",
}
"""Short and older names of the secret stores."""

_READS: Mapping[str, frozenset[str]] = {
    "modelmesh.env.v1": frozenset({"prefix"}),
    "modelmesh.dotenv.v1": frozenset({"path", "prefix", "override_env"}),
    "modelmesh.file-secrets.v1": frozenset({"path"}),
}
"""The settings each store reads."""

_STORE_SETTINGS = frozenset({"path", "prefix", "override_env"})


class SecretStore(Protocol):
    """Where secrets are looked up."""

    def get(self, name: str) -> str:
        """Return a secret.

        Raises:
            KeyError: There is none of this name.
        """
        ...


class MappingStore:
    """Secrets handed over in code; an empty one counts, so that a test can take a key away."""

    place = "the secrets passed in"

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def get(self, name: str) -> str:
        """Return a value."""
        return self._values[name]


class EnvironmentStore:
    """Secrets from environment variables."""

    place = "the environment"

    def __init__(self, environ: Mapping[str, str], *, prefix: str = "") -> None:
        self._environ = environ
        self._prefix = prefix

    def get(self, name: str) -> str:
        """Return a variable; an empty one counts as absent."""
        value = self._environ.get(self._prefix + name, "")
        if not value:
            raise KeyError(name)
        return value


class DotenvStore:
    """Secrets from a dotenv file (`modelmesh.config.dotenv`), read once."""

    def __init__(self, path: Path, *, prefix: str = "") -> None:
        self.place = str(path)
        self._prefix = prefix
        self._values = parse_dotenv(_read(path), file=str(path))

    def get(self, name: str) -> str:
        """Return a value; an empty one counts as absent."""
        value = self._values.get(self._prefix + name, "")
        if not value:
            raise KeyError(name)
        return value


class FileStore:
    """Secrets mounted as files, one a secret, as container platforms do (``/run/secrets``)."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise _unusable("path", f"{directory} is no directory; mount the secrets there")
        self._directory = directory
        self.place = str(directory)

    def get(self, name: str) -> str:
        """Return a file's content without the line end at its end; an empty file counts as absent."""
        # Platforms mount a link to elsewhere under the secret's name, so it is the name that must stay inside.
        if "/" in name or name in (".", "..") or not (self._directory / name).is_file():
            raise KeyError(name)
        value = _read(self._directory / name).rstrip("\r\n")
        if not value:
            raise KeyError(name)
        return value


class ChainedStore:
    """Several stores, asked in turn."""

    def __init__(self, *stores: Any) -> None:
        self._stores = stores
        self.place = " or ".join(getattr(store, "place", "the secret store") for store in stores)

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
        fail_on_missing: Whether a secret that is nowhere is an error; otherwise it is empty text, and `missing` has
            its name.
    """

    def __init__(
        self,
        store: SecretStore,
        *,
        clock: Clock | None = None,
        cache_ttl: float = 300.0,
        fail_on_missing: bool = True,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ttl = cache_ttl
        self._fail_on_missing = fail_on_missing
        self._missing: dict[str, None] = {}
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

    @property
    def missing(self) -> tuple[str, ...]:
        """Names that were asked for, are nowhere, and became empty text."""
        return tuple(self._missing)

    def get(self, name: str) -> str:
        """Return one secret by name.

        Raises:
            SecretNotFoundError: The store has no such secret.
            ValueError: The name is none.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"malformed secret reference ${{secrets:{name}}}; write ${{secrets:NAME}}")
        now = self._clock.monotonic() if self._clock is not None else 0.0
        cached = self._cache.get(name)
        if cached is not None and now - cached[1] < self._ttl:
            return cached[0]
        try:
            value = self._store.get(name)
        except KeyError:
            if not self._fail_on_missing:
                self._missing[name] = None
                return ""
            place = getattr(self._store, "place", "the secret store")
            raise SecretNotFoundError(f"secret {name!r} is not in {place}; set it there") from None
        self._missing.pop(name, None)
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


def build_store(
    section: SecretsConfig, environ: Mapping[str, str], base: Path, given: Mapping[str, str] | None = None
) -> SecretStore:
    """Build the store a ``secrets`` section names.

    Args:
        section: The section.
        environ: The environment.
        base: Where relative paths start: the folder of the configuration.
        given: Secrets passed in code; they win over the store.

    Raises:
        ConfigurationError: There is no such store, it does not read one of the settings, or its file cannot be read;
            the problems' paths name the setting.
    """
    store = section.instance if section.instance is not None else _store(section, environ, base)
    return store if given is None else ChainedStore(MappingStore(given), store)


def store_id(name: str) -> str:
    """Return the full ID of a secret store that may be named in short.

    Raises:
        ConfigurationError: There is none of this name, or not yet.
    """
    bare = name.removeprefix("secret-store.").removeprefix("secret_store.")
    full = STORE_IDS.get(bare, bare)
    if full in _READS:
        return full
    if any(bare in (planned, f"modelmesh.{planned}.v1", f"{planned}.v1") for planned in NOT_YET_STORES):
        raise _unusable("store", f"{name!r} {REFUSAL}, or take one of {', '.join(sorted(_READS))}")
    raise _unusable("store", unknown_name("secret store", name, sorted(_READS)))


def _store(section: SecretsConfig, environ: Mapping[str, str], base: Path) -> Any:
    full = store_id(section.store)
    unread = sorted((section.model_fields_set & _STORE_SETTINGS) - _READS[full])
    if unread:
        raise _unusable(unread[0], f"the secret store {full!r} does not read it; remove it or change the store")
    environment = EnvironmentStore(environ, prefix=section.prefix)
    if full == "modelmesh.env.v1":
        return environment
    if full == "modelmesh.file-secrets.v1":
        return FileStore(base / (section.path or "/run/secrets"))
    file = DotenvStore(base / (section.path or ".env"), prefix=section.prefix)
    return ChainedStore(file, environment) if section.override_env else ChainedStore(environment, file)


def expand_environment(text: str, environ: Mapping[str, str]) -> str:
    """Return a text with each ``${NAME}`` replaced by an environment variable.

    Raises:
        ValueError: There is no such variable, or the text refers to a secret.
    """
    if "${secrets:" in text:
        raise ValueError("where secrets come from cannot itself be one; write ${NAME} for an environment variable")

    def variable(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise ValueError(f"there is no environment variable {match[1]}; set it or write the value out")
        return environ[match[1]]

    return _ENVIRONMENT.sub(variable, text)


def _unusable(setting: str, message: str) -> ConfigurationError:
    return ConfigurationError.from_problems([Problem(message, f"secrets.{setting}")])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise _unusable("path", f"{path} cannot be read: {reason}") from None
