"""A whole configuration, checked, and those of its sections that have no parts: secrets and routing.

The other sections have a module each, which bears the section's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, Field, SecretBytes, SecretStr
from pydantic.json_schema import SkipJsonSchema

from modelmesh.config.durations import Duration
from modelmesh.config.models import ModelConfig
from modelmesh.config.observability import ObservabilityConfig
from modelmesh.config.pools import PoolConfig
from modelmesh.config.providers import ProviderConfig
from modelmesh.config.proxy import ProxyConfig
from modelmesh.config.section import Name, Programmatic, Section
from modelmesh.config.storage import StorageConfig


class SecretsConfig(Section):
    """Where ``${secrets:NAME}`` finds its values."""

    store: Name = Field(
        default="modelmesh.env.v1",
        description="Secret store: modelmesh.env.v1 (environment variables), modelmesh.dotenv.v1 (a file of KEY=value"
        " lines) or modelmesh.file-secrets.v1 (a directory with one file a secret, such as /run/secrets)."
        " Short names work: env, dotenv, file-secrets.",
    )
    path: str | None = Field(
        default=None,
        description="The dotenv file (default ./.env) or the directory of secret files (default /run/secrets)."
        " Relative paths start at the configuration file's directory.",
    )
    prefix: str = Field(default="", description="env and dotenv: put before each name before looking it up.")
    override_env: bool = Field(
        default=False,
        description="dotenv: the file wins over an environment variable of the same name, which wins otherwise.",
    )
    cache_enabled: bool = Field(default=True, description="Remember values that were looked up.")
    cache_ttl: Duration = Field(default=300.0, description="How long a value is remembered (duration).")
    fail_on_missing: bool = Field(
        default=True, description="A reference without a value is an error; otherwise it becomes empty text."
    )
    instance: Programmatic = None


class RoutingConfig(Section):
    """How requests find their pool."""

    allow_model_names: bool = Field(
        default=True, description="A request may name a real model instead of a pool or capability."
    )


class Configuration(Section):
    """A whole configuration, checked: what `modelmesh.config.load_config` returns."""

    capabilities: dict[str, tuple[Name, ...]] = Field(
        default_factory=dict,
        description="Additions to the capability tree: a parent and its children; the empty parent adds categories.",
    )
    secrets: SecretsConfig = Field(default_factory=SecretsConfig, description="Where secrets come from.")
    providers: dict[str, ProviderConfig] = Field(default_factory=dict, description="Providers by name.")
    models: dict[str, ModelConfig] = Field(default_factory=dict, description="Models by name.")
    pools: dict[str, PoolConfig] = Field(default_factory=dict, description="Capability pools by name.")
    routing: RoutingConfig = Field(default_factory=RoutingConfig, description="How requests find their pool.")
    storage: StorageConfig | None = Field(default=None, description="Where state is kept; in memory without it.")
    observability: ObservabilityConfig | None = Field(default=None, description="What is reported; nothing without it.")
    proxy: ProxyConfig = Field(default_factory=ProxyConfig, description="The HTTP server.")

    resolver: SkipJsonSchema[Any] = Field(default=None, repr=False, exclude=True)

    def missing_secrets(self) -> tuple[str, ...]:
        """Return the names of the secrets that have no value and, as ``fail_on_missing`` is off, became empty text."""
        return () if self.resolver is None else tuple(self.resolver.missing)

    def known_secrets(self) -> frozenset[str]:
        """Return every secret value this configuration holds, so that redaction can find them."""
        values = set(_secret_values(self._with_secrets()))
        if self.resolver is not None:
            values.update(self.resolver.known_values())
        return frozenset(value for value in values if value)

    def _with_secrets(self) -> Iterator[object]:
        yield self.proxy.auth.tokens
        for provider in self.providers.values():
            yield provider.settings
        for pool in self.pools.values():
            yield pool.strategy_settings
        if self.storage is not None:
            yield self.storage.settings
        if self.observability is not None:
            yield from (target.settings for _, target in self.observability.targets())


def _secret_values(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, SecretBytes):
        yield value.get_secret_value().decode("utf-8", "replace")
    elif isinstance(value, BaseModel):
        for _, inner in value:
            yield from _secret_values(inner)
    elif isinstance(value, dict):
        yield from _secret_values(value.values())
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for inner in value:
            yield from _secret_values(inner)
