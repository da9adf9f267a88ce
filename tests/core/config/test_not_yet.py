"""Every documented key works or is refused; none is ignored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest

from modelmesh.config import load_config
from modelmesh.config.configuration import Configuration
from modelmesh.config.reader import read_text
from modelmesh.errors import ConfigurationError, Problem
from modelmesh.plugins import PluginHost

BASE = """\
providers: {openai.llm.v1: {api_key: k}}
models: {m: {provider: openai.llm.v1, capabilities: [chat-completion]}}
pools: {chat-completion: {}}
"""

PROVIDER = "providers.openai.llm.v1"
MODEL = "models.m"
POOL = "pools.chat-completion"

WORKS: list[tuple[str, str, Any]] = [
    # (where, as YAML, a part of the configuration that shows it was read: a dotted path and its value)
    ("", "capabilities: {'': [compliance], compliance: [audit]}", ("capabilities.compliance", ("audit",))),
    ("", "secrets: {cache_enabled: false}", ("secrets.cache_enabled", False)),
    ("", "secrets: {cache_ttl: 1m}", ("secrets.cache_ttl", 60.0)),
    ("", "secrets: {fail_on_missing: false}", ("secrets.fail_on_missing", False)),
    ("", "secrets: {prefix: A_}", ("secrets.prefix", "A_")),
    ("", "secrets: {config: {prefix: A_}}", ("secrets.prefix", "A_")),
    (PROVIDER, "enabled: true", ("enabled", True)),
    (PROVIDER, "connector: openai.llm.v1", ("connector", "openai.llm.v1")),
    (PROVIDER, "base_url: http://127.0.0.1:1/v1", ("settings.base_url", "http://127.0.0.1:1/v1")),
    (PROVIDER, "timeout: 30s", ("settings.timeout", 30.0)),
    (PROVIDER, "config: {timeout: 30}", ("settings.timeout", 30.0)),
    (PROVIDER, "max_retries: 0", ("settings.max_retries", 0)),
    (PROVIDER, "auth: {method: api_key, key_rotation: false}", ("settings.auth.method", "api_key")),
    (PROVIDER, "error: {retryable_codes: [429]}", ("settings.error.retryable_codes", (429,))),
    (PROVIDER, "error: {non_retryable_codes: [400]}", ("settings.error.non_retryable_codes", (400,))),
    (PROVIDER, "quota: {requests: 9, reset_schedule: daily}", ("quota.reset_schedule", "daily")),
    (PROVIDER, "quota: {tokens: 9, reset_schedule: rolling, rolling_window: 1h}", ("quota.rolling_window", 3600.0)),
    (PROVIDER, "batch: {supported: false}", ("batch.supported", False)),
    (PROVIDER, "batch: {max_items: 9}", ("batch.max_items", 9)),
    (PROVIDER, "rate_limit: {rpm: 9, tpm: 99}", ("rate_limit.tpm", 99)),
    (PROVIDER, "rate_limit: {concurrency: 9}", ("rate_limit.concurrency", 9)),
    (MODEL, "delivery: streaming", ("delivery", "streaming")),
    (MODEL, "delivery: {synchronous: true, batch: true}", ("delivery", {"synchronous": True, "batch": True})),
    (MODEL, "batch: {max_payload: 1KB}", ("batch", {"max_payload": 1024})),
    (MODEL, "batch: {callback: false, polling: true}", ("batch", {"callback": False, "polling": True})),
    (MODEL, "features: {vision: true}", ("features", {"vision": True})),
    (MODEL, "constraints: {context_window: 9}", ("constraints", {"context_window": 9})),
    (MODEL, "pricing: {input_per_1k_tokens: 1}", ("pricing.input_per_1k_tokens", 1.0)),
    (POOL, "capability: chat-completion", ("capability", "chat-completion")),
    (POOL, "models: [m]", ("models", ("m",))),
    (POOL, "providers: [openai.llm.v1]", ("providers", ("openai.llm.v1",))),
    (POOL, "excluded_providers: []", ("excluded_providers", ())),
    (POOL, "priority: 2", ("priority", 2)),
    (POOL, "strategy: round-robin", ("strategy", "modelmesh.round-robin.v1")),
    (POOL, "{strategy: priority-selection, model_priority: [m]}", ("strategy_settings.model_priority", ["m"])),
    (POOL, "{strategy: priority-selection, fallback_strategy: error}", ("fallback_strategy", "error")),
    *(
        (POOL, f"deactivation: {{{key}: {value}}}", (f"deactivation.{key}", value))
        for key, value in {
            "retry_limit": 9,
            "error_rate_threshold": 0.25,
            "error_rate_min_samples": 9,
            "request_limit": 9,
            "token_limit": 9,
            "budget_limit": 9.5,
            "quota_window": "daily",
            "timezone": "Europe/Berlin",
        }.items()
    ),
    (POOL, "deactivation: {error_codes: [418]}", ("deactivation.error_codes", (418,))),
    (POOL, "on_budget_exceeded: error", ("on_budget_exceeded", "error")),
    (POOL, "recovery: {cooldown: 5s}", ("recovery.cooldown", 5.0)),
    (POOL, "deactivation: {error_window: 50}", ("deactivation.error_window", 50)),
    (POOL, "deactivation: {maintenance_window: 0 2 * * 0}", ("deactivation.maintenance_window", "0 2 * * 0")),
    (POOL, "deactivation: {maintenance_duration: 2h}", ("deactivation.maintenance_duration", 7200.0)),
    (POOL, "recovery: {probe_on_start: true}", ("recovery.probe_on_start", True)),
    (POOL, "recovery: {probe_interval: 5m, require_probe: true}", ("recovery.require_probe", True)),
    (POOL, "recovery: {on_quota_reset: false}", ("recovery.on_quota_reset", False)),
    (POOL, "recovery: {recover_on_quota_reset: false}", ("recovery.on_quota_reset", False)),
    (POOL, "recovery: {quota_reset_schedule: monthly}", ("recovery.quota_reset_schedule", "monthly")),
    (POOL, "retry: {max_attempts: 0}", ("retry.max_attempts", 0)),
    (POOL, "retry: {backoff: retry_after}", ("retry.backoff", "retry_after")),
    (POOL, "retry: {initial_delay: 5ms}", ("retry.initial_delay", 0.005)),
    (POOL, "retry: {max_delay: 1m}", ("retry.max_delay", 60.0)),
    (POOL, "retry: {retryable_codes: [418]}", ("retry.retryable_codes", (418,))),
    (POOL, "retry: {non_retryable_codes: [418]}", ("retry.non_retryable_codes", (418,))),
    (POOL, "retry: {scope: any}", ("retry.scope", "any")),
    (POOL, "retry: {honor_retry_after: false}", ("retry.honor_retry_after", False)),
    (POOL, "provider_deactivation: on_api_outage", ("provider_deactivation", ("on_api_outage",))),
    (POOL, "provider_deactivation: [on_api_outage]", ("provider_deactivation", ("on_api_outage",))),
    (POOL, "provider_recovery: on_manual", ("provider_recovery", "on_manual")),
    ("", "routing: {allow_model_names: false}", ("routing.allow_model_names", False)),
    ("", "storage: {connector: memory}", ("storage.connector", "modelmesh.memory.v1")),
    ("", "storage: {sync_policy: in-memory}", ("storage.sync_policy", "in-memory")),
    ("", "storage: {persistence: {sync_policy: periodic}}", ("storage.sync_policy", "periodic")),
    ("", "storage: {sync_interval: 5s}", ("storage.sync_interval", 5.0)),
    ("", "storage: {locking: {enabled: false}}", ("storage.locking.enabled", False)),
    ("", "storage: {locking: {timeout: 5s}}", ("storage.locking.timeout", 5.0)),
    ("", "storage: {locking: {retry_interval: 5s}}", ("storage.locking.retry_interval", 5.0)),
    *(("", f"storage: {{format: {each}}}", ("storage.format", each)) for each in ("json", "yaml", "msgpack")),
    ("", "storage: {compression: true}", ("storage.compression", True)),
    ("", "storage: {on_store_error: {budget: open}}", ("storage.on_store_error.budget", "open")),
    ("", "storage: {call_timeout: 5s, processes: 3}", ("storage.call_timeout", 5.0)),
    ("", "observability: {connector: modelmesh.null.v1}", ("observability.target.connector", "modelmesh.null.v1")),
    ("", "observability: {config: {verbose: true}}", ("observability.target.settings.verbose", True)),
    ("", "observability: {console: {verbose: true}}", ("observability.target.settings.verbose", True)),
    ("", "observability: {console: {colorize: true}}", ("observability.target.settings.use_color", True)),
    (
        "",
        "observability: {console: {timestamp_format: UNIX}}",
        ("observability.target.settings.timestamp_format", "UNIX"),
    ),
    (
        "",
        "observability: {routing: {connector: console}}",
        ("observability.routing.target.connector", "modelmesh.console.v1"),
    ),
    ("", "observability: {routing: {events: [rotation]}}", ("observability.events.filter", ("rotation",))),
    ("", "observability: {events: {filter: [rotation]}}", ("observability.events.filter", ("rotation",))),
    ("", "observability: {events: {include_metadata: false}}", ("observability.events.include_metadata", False)),
    ("", "observability: {logging: {level: full}}", ("observability.logging.level", "full")),
    ("", "observability: {logging: {redact_secrets: false}}", ("observability.logging.redact_secrets", False)),
    ("", "observability: {logging: {max_payload_size: 1KB}}", ("observability.logging.max_payload_size", 1024)),
    ("", "observability: {statistics: {flush_interval: 5s}}", ("observability.statistics.flush_interval", 5.0)),
    ("", "observability: {statistics: {retention: 1d}}", ("observability.statistics.retention", 86400.0)),
    ("", "observability: {statistics: {scopes: [model]}}", ("observability.statistics.scopes", ("model",))),
    (
        "",
        "observability: {tracing: {min_severity: debug, connector: null}}",
        ("observability.tracing.min_severity", "debug"),
    ),
    ("", "storage: {connector: local-file, path: s.json}", ("storage.settings.path", "s.json")),
    ("", "storage: {connector: file, backup: true}", ("storage.settings.backup", True)),
    ("", "storage: {connector: sqlite, path: s.db}", ("storage.settings.path", "s.db")),
    ("", "storage: {connector: sqlite, table: mesh}", ("storage.settings.table", "mesh")),
    ("", "storage: {connector: sqlite, synchronous: full}", ("storage.settings.synchronous", "full")),
    ("", "storage: {connector: sqlite, busy_timeout: 1s}", ("storage.settings.busy_timeout", 1.0)),
    ("", "proxy: {host: '::1'}", ("proxy.host", "::1")),
    ("", "proxy: {port: 1}", ("proxy.port", 1)),
    ("", "proxy: {endpoints: [/v1/models]}", ("proxy.endpoints", ("/v1/models",))),
    ("", "proxy: {auth: {method: bearer, tokens: [abcdefgh]}}", ("proxy.auth.is_required", True)),
    ("", "proxy: {auth: {enabled: false, tokens: [abcdefgh]}}", ("proxy.auth.is_required", False)),
    ("", "proxy: {cors: {enabled: false}}", ("proxy.cors.enabled", False)),
    ("", "proxy: {cors: {origins: [http://a]}}", ("proxy.cors.origins", ("http://a",))),
]

REFUSED: list[tuple[str, str, str]] = [
    # (where, as YAML, the path that is named)
    ("", "secrets: {region: us-east-1}", "secrets.region"),
    ("", "secrets: {reload_on_rotation: true}", "secrets.reload_on_rotation"),
    ("", "secrets: {store: keyring}", "secrets.store"),
    ("", "connectors: {packages: [./here]}", "connectors.packages"),
    ("", "connectors: {allow_remote: true}", "connectors.allow_remote"),
    ("", "connectors: ./here", "connectors"),
    ("", "discovery: {}", "discovery"),
    ("", "discovery: {health: {enabled: false}}", "discovery"),
    ("", "discovery: {sync: {enabled: true}, health: null}", "discovery.sync"),
    ("", "discovery: {sync: {}, health: null}", "discovery.sync"),
    ("", "discovery: {sync: null, health: {interval: 60s}}", "discovery.health"),
    ("", "discovery: {sync: null, health: null, connectors: [{connector: a}]}", "discovery.connectors"),
    (MODEL, "batch: {callback: true}", f"{MODEL}.batch.callback"),
    (MODEL, "batch: {polling: false}", f"{MODEL}.batch.polling"),
    (PROVIDER, "auth: {method: oauth}", f"{PROVIDER}.auth.method"),
    (PROVIDER, "auth: {key_rotation: true}", f"{PROVIDER}.auth.key_rotation"),
    (PROVIDER, "quota: {requests: 1, query_current: true}", f"{PROVIDER}.quota.query_current"),
    (PROVIDER, "quota: {requests: 1, query_remaining: true}", f"{PROVIDER}.quota.query_remaining"),
    (PROVIDER, "pricing: {query: true}", f"{PROVIDER}.pricing.query"),
    (PROVIDER, "discovery: {enumerate_models: true}", f"{PROVIDER}.discovery.enumerate_models"),
    (PROVIDER, "discovery: {model_details: true}", f"{PROVIDER}.discovery.model_details"),
    (PROVIDER, "discovery: {capability_query: true}", f"{PROVIDER}.discovery.capability_query"),
    (PROVIDER, "catalogue: {auto_discover: true}", f"{PROVIDER}.discovery.enumerate_models"),
    (PROVIDER, "catalogue: {refresh_interval: 1h}", f"{PROVIDER}.catalogue.refresh_interval"),
    (PROVIDER, "files: {upload: true}", f"{PROVIDER}.files.upload"),
    (PROVIDER, "files: {max_size: 512MB}", f"{PROVIDER}.files.max_size"),
    (PROVIDER, "fine_tuning: {supported: true}", f"{PROVIDER}.fine_tuning.supported"),
    (PROVIDER, "connection_pool: {max_connections: 50}", f"{PROVIDER}.connection_pool.max_connections"),
    (PROVIDER, "connection_pool: {timeout: 30s}", f"{PROVIDER}.connection_pool.timeout"),
    ("", "storage: {encryption: true}", "storage.encryption"),
]

ASKS_FOR_NOTHING: list[tuple[str, str]] = [
    ("", "secrets: {region: null, reload_on_rotation: false}"),
    ("", "connectors: {packages: [], allow_remote: false}"),
    (
        "",
        "discovery: {sync: {enabled: false, interval: 1h}, health: {enabled: false, method: standard}, connectors: []}",
    ),
    (PROVIDER, "quota: {requests: 1, query_current: false, query_remaining: false}"),
    (PROVIDER, "pricing: {query: false}"),
    (PROVIDER, "discovery: {enumerate_models: false, model_details: false, capability_query: false}"),
    (PROVIDER, "catalogue: {auto_discover: false}"),
    (PROVIDER, "files: {upload: false}"),
    (PROVIDER, "fine_tuning: {supported: false}"),
    ("", "storage: {encryption: false}"),
]

MISSPELT: list[tuple[str, str, str, str]] = [
    ("", "connectors: {package: []}", "connectors.package", "packages"),
    ("", "discovery: {heath: {enabled: false}}", "discovery.heath", "health"),
    ("", "discovery: {sync: {enabld: false}, health: null}", "discovery.sync.enabld", "enabled"),
    ("", "discovery: {sync: null, health: {enabled: false, ema_alfa: 1}}", "discovery.health.ema_alfa", "ema_alpha"),
    (PROVIDER, "pricing: {qury: false}", f"{PROVIDER}.pricing.qury", "query"),
    (PROVIDER, "files: {uploads: false}", f"{PROVIDER}.files.uploads", "upload"),
]


@pytest.fixture(scope="module")
def installed() -> PluginHost:
    """The connectors that come with this distribution."""
    return PluginHost()


def place(where: str, text: str) -> dict[str, Any]:
    """Return the base configuration with something added to one of its entries."""
    data = read_text(BASE).data
    if not where:
        return data | read_text(text).data
    section, name = where.split(".", 1)
    data[section][name] |= read_text(text).data
    return data


def seen(configuration: Configuration, where: str, path: str) -> Any:
    """Return what stands at a path of the loaded configuration."""
    value: Any = configuration
    if where:
        section, name = where.split(".", 1)
        value = getattr(configuration, section)[name]
    for part in path.split("."):
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    return value


@pytest.mark.parametrize(("where", "text", "shown"), WORKS, ids=[f"{where} {text}".strip() for where, text, _ in WORKS])
def test_a_documented_key_is_read(installed: PluginHost, where: str, text: str, shown: tuple[str, Any]) -> None:
    """Its value is in the configuration that the engine gets."""
    configuration = load_config(place(where, text), connectors=installed, environ={})

    assert seen(configuration, where, shown[0]) == shown[1]


def problems(installed: PluginHost, where: str, text: str) -> list[Problem]:
    """Return what is wrong with the base configuration and something added to it."""
    try:
        load_config(place(where, text), connectors=installed, environ={})
    except ConfigurationError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("where", "text", "path"), REFUSED, ids=[f"{where} {text}".strip() for where, text, _ in REFUSED]
)
def test_a_documented_key_whose_part_is_to_come_is_refused(
    installed: PluginHost, where: str, text: str, path: str
) -> None:
    """It says that it is not supported yet, once."""
    (problem,) = problems(installed, where, text)

    assert problem.path == path
    assert "not supported yet" in problem.message


@pytest.mark.parametrize(
    ("where", "text"), ASKS_FOR_NOTHING, ids=[f"{where} {text}".strip() for where, text in ASKS_FOR_NOTHING]
)
def test_what_asks_for_nothing_may_be_written(installed: PluginHost, where: str, text: str) -> None:
    """What is switched off is switched off."""
    assert problems(installed, where, text) == []


@pytest.mark.parametrize(
    ("where", "text", "path", "meant"), MISSPELT, ids=[f"{where} {text}".strip() for where, text, *_ in MISSPELT]
)
def test_a_misspelt_key_to_come_is_named_as_such(
    installed: PluginHost, where: str, text: str, path: str, meant: str
) -> None:
    """A section that nobody reads yet takes no other keys than its own."""
    (problem,) = problems(installed, where, text)

    assert problem.path == path
    assert f"did you mean {meant!r}" in problem.message


def test_a_connector_to_come_may_come_from_a_third_party(catalogue: Any) -> None:
    """A setting or section of a planned name is read when an installed connector has it."""
    from pydantic import BaseModel

    class Settings(BaseModel):
        path: str = ""

    catalogue.offer("state_stores", "acme.disk.v1", Settings)
    catalogue.offer("observability", "modelmesh.local-file.v1", Settings)
    data = read_text(BASE.replace("openai.llm.v1", "acme.chat.v1")).data
    data |= {
        "storage": {"connector": "acme.disk.v1", "path": "x"},
        "observability": {"connector": "local-file", "local-file": {"path": "y"}},
    }

    configuration = load_config(data, connectors=catalogue, environ=os.environ)

    assert configuration.storage is not None
    assert configuration.observability is not None
    assert configuration.storage.settings.path == "x"
    assert configuration.observability.target is not None
    assert configuration.observability.target.settings.path == "y"
