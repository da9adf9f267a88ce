"""The whole documented configuration: it loads, every key of it is known, and none may be misspelt in silence."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from modelmesh.config import load_config
from modelmesh.config.reader import Document, KeyPath, dotted, read_file
from modelmesh.errors import ConfigurationError, Problem
from modelmesh.plugins import PluginHost

WHOLE = """\
capabilities:
  "": [compliance]
  compliance: [pii-detection, regulatory-review]

secrets:
  store: modelmesh.dotenv.v1
  path: ./.env
  config: {prefix: MODELMESH_}
  cache_enabled: true
  cache_ttl: 300s
  reload_on_rotation: false
  fail_on_missing: true

connectors:
  packages: []
  allow_remote: false

providers:
  openai.llm.v1:
    enabled: true
    connector: openai.llm.v1
    api_key: ${secrets:OPENAI_API_KEY}
    base_url: https://api.openai.com/v1
    timeout: 30s
    max_retries: 0
    config: {}
    auth: {method: api_key, key_rotation: false}
    quota:
      query_current: false
      query_remaining: false
      requests: 100
      tokens: 100000
      reset_schedule: monthly
      rolling_window: 24h
      timezone: UTC
    budget: {daily_limit: 5.0, monthly_limit: 50.0, alert_threshold: 0.8, enforce: true, timezone: UTC}
    rate_limit: {rpm: 60, tpm: 90000, burst: 0.5, concurrency: 9}
    pricing: {query: false}
    error: {retryable_codes: [429, 500, 502, 503], non_retryable_codes: [400, 401, 403]}
    discovery: {enumerate_models: false, model_details: false, capability_query: false}
    batch: {supported: false, max_items: null}
    files: {upload: false}
    fine_tuning: {supported: false}

models:
  gpt-4o:
    provider: openai.llm.v1
    model: gpt-4o
    capabilities: [generation.text-generation.chat-completion, interaction.tool-calling]
    delivery: {synchronous: true, streaming: true, batch: false}
    batch:
      max_items: 50000
      max_payload: 100MB
      completion_window: 24h
      cost_discount: 0.5
      callback: false
      polling: true
      partial_results: false
    features: {tool_calling: true, structured_output: true, vision: true}
    constraints:
      context_window: 128000
      max_output_tokens: 16384
      max_images: 20
      max_file_size: 20MB
      supported_languages: [en]
    pricing: {input_per_1k_tokens: 0.0025, output_per_1k_tokens: 0.01, per_request: null}

pools:
  text-generation:
    capability: generation.text-generation
    models: [gpt-4o]
    providers: [openai.llm.v1]
    excluded_providers: []
    priority: 0
    strategy: modelmesh.stick-until-failure.v1
    deactivation:
      retry_limit: 3
      error_rate_threshold: 0.5
      error_rate_min_samples: 10
      error_window: 100
      error_codes: [429, 500, 503]
      request_limit: 1000
      token_limit: 1000000
      budget_limit: 5.0
      quota_window: daily
      timezone: UTC
      maintenance_window: 0 2 * * 0
      maintenance_duration: 1h
    recovery:
      cooldown: 60s
      probe_on_start: false
      probe_interval: 300s
      require_probe: false
      on_quota_reset: true
      quota_reset_schedule: monthly
    retry:
      max_attempts: 3
      backoff: exponential_jitter
      initial_delay: 500ms
      max_delay: 10s
      retryable_codes: [429, 500, 502, 503]
      non_retryable_codes: [400, 401, 403]
      scope: same_model
      honor_retry_after: true
    provider_deactivation: on_auth_failure
    provider_recovery: on_probe_success
    on_budget_exceeded: rotate
  by-preference:
    capability: chat-completion
    strategy: priority-selection
    model_priority: [gpt-4o]
    provider_priority: [openai.llm.v1]
    fallback_strategy: round-robin
  by-headroom:
    capability: chat-completion
    strategy: load-balanced
    balance_mode: relative
    sampling: random
  by-price:
    capability: chat-completion
    strategy: cost-first
    cost_basis: price
  by-session:
    capability: chat-completion
    strategy: session-stickiness
    affinity_mode: fallback
    session_timeout: 30m
  by-rate:
    capability: chat-completion
    strategy: rate-limit-aware
    rate_limit: {threshold: 0.8, min_delta: 0s, max_rpm: 0, action: switch_model}

routing:
  allow_model_names: true

storage:
  connector: modelmesh.local-file.v1
  path: ./mesh-state.json
  backup: false
  sync_policy: sync-on-boundary
  sync_interval: 300s
  format: json
  compression: false
  encryption: false
  locking: {enabled: true, timeout: 30s, retry_interval: 1s}

observability:
  connector: modelmesh.null.v1
  routing: {connector: [modelmesh.console.v1, modelmesh.webhook.v1, modelmesh.prometheus.v1]}
  events: {filter: [rotation], include_metadata: true}
  logging:
    connector: modelmesh.local-file.v1
    level: metadata
    path: ./requests.jsonl
    redact_secrets: true
    max_payload_size: 1KB
  statistics:
    connector: modelmesh.local-file.v1
    path: ./stats.json
    flush_interval: 60s
    retention: 7d
    scopes: [model, provider, pool]
  tracing: {min_severity: info, connector: null}
  console: {colorize: true, timestamp_format: ISO8601, verbose: false}
  local-file: {path: ./modelmesh-events.jsonl, max_size: 10MB, max_files: 5}
  webhook:
    url: https://hooks.example.com/mesh
    headers: {x-team: mesh}
    timeout: 10s
    retry_count: 3
    batch_size: 1
    content_type: application/json
  prometheus: {port: 9090, path: /metrics}

discovery:
  sync:
    enabled: false
    interval: 1h
    auto_register: true
    providers: null
    on_new_model: register
    on_deprecated_model: notify
  health:
    enabled: false
    interval: 60s
    timeout: 10s
    failure_threshold: 3
    providers: null
    method: lightweight
    ema_alpha: 0.25
    min_availability: 0.5
    change_threshold: 0.1
  connectors: []

proxy:
  host: 0.0.0.0
  port: 8080
  endpoints: [/v1/models]
  auth: {enabled: true, method: bearer, tokens: ["${secrets:OPENAI_API_KEY}"]}
  cors: {enabled: true, origins: ["*"]}
"""

NAMED_BY_THE_USER = ("capabilities", "providers", "models", "pools")
"""Sections whose entries have names of their own."""
FREE = ("features", "headers")
"""Mappings with keys that nobody can know."""
TO_COME = {
    "connectors",
    "discovery",
    "secrets.reload_on_rotation",
    "providers.openai.llm.v1.pricing",
    "providers.openai.llm.v1.discovery",
    "providers.openai.llm.v1.files",
    "providers.openai.llm.v1.fine_tuning",
    "providers.openai.llm.v1.quota.query_current",
    "providers.openai.llm.v1.quota.query_remaining",
    "storage.encryption",
}
"""Keys that are only taken as long as they ask for nothing; their names are no hints for what to write."""


def keys(data: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every key that has a documented name."""
    for key, value in data.items() if isinstance(data, dict) else ():
        is_own = len(path) == 1 and path[0] in NAMED_BY_THE_USER
        if path == ("capabilities",) or (path and path[-1] in FREE):
            continue
        if not is_own:
            yield (*path, key)
        yield from keys(value, (*path, key))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """The configuration above, from a file."""
    file = tmp_path_factory.mktemp("every") / "modelmesh.yaml"
    file.write_text(WHOLE, encoding="utf-8")
    return read_file(file)


@pytest.fixture(scope="module")
def installed() -> PluginHost:
    """The connectors that come with this distribution."""
    return PluginHost()


def problems(file: str, installed: PluginHost) -> list[Problem]:
    """Return what is wrong with a file."""
    (Path(file).parent / ".env").write_text("MODELMESH_OPENAI_API_KEY=sk-not-a-real-key\n", encoding="utf-8")
    try:
        load_config(file, connectors=installed, environ={})
    except ConfigurationError as error:
        return list(error.problems)
    return []


def test_the_whole_documented_configuration_loads(whole: Document, installed: PluginHost) -> None:
    """Every key of it works, or asks for nothing."""
    assert [str(each) for each in problems(str(whole.file), installed)] == []


def misspelt(key: str) -> str:
    """Return a key without one of its letters: one in the middle, as it happens to people."""
    return key[: len(key) // 2] + key[len(key) // 2 + 1 :]


def one_of_each_section(data: dict[str, Any]) -> Iterator[list[KeyPath]]:
    """Yield every key once, those of different sections together: mistakes in several are all told at once."""
    sections = [[path for path in keys(data) if path[0] == name and len(path) > 1] for name in data]
    yield from ([path] for path in keys(data) if len(path) == 1)
    for together in zip_longest(*sections):
        yield [path for path in together if path is not None]


def test_every_misspelt_key_is_named_where_it_stands(whole: Document, installed: PluginHost) -> None:
    """With file and line; and with the key that was meant, unless that one is still to come."""
    lost: list[str] = []
    broken = Path(str(whole.file)).with_name("broken.yaml")
    for together in one_of_each_section(whole.data):
        lines = WHOLE.splitlines(keepends=True)
        for path in together:
            place, key = (whole.line_of(path) or 0) - 1, str(path[-1])
            lines[place] = lines[place].replace(f"{key}:", f"{misspelt(key)}:", 1)
        broken.write_text("".join(lines), encoding="utf-8")
        found = problems(str(broken), installed)
        for path in together:
            key = str(path[-1])
            is_to_come = any(dotted(path) == each or dotted(path).startswith(f"{each}.") for each in TO_COME)
            told = [each for each in found if each.line == whole.line_of(path) and repr(misspelt(key)) in each.message]
            if not any(each.file == str(broken) and (is_to_come or repr(key) in each.message) for each in told):
                lost.append(f"{dotted(path)}: {[each.message for each in told]}")

    assert lost == []
