"""Other documents' spellings, and the flat one each of them means."""

from __future__ import annotations

from typing import Any

import pytest

from modelmesh.config.explain import unknown_key
from modelmesh.config.normalise import normalise, other_spellings
from modelmesh.config.reader import Document, read_text

PROVIDERS = [
    ("auth: {api_key: k}", "api_key: k"),
    ("config: {api_key: k, base_url: u}", "{api_key: k, base_url: u}"),
    ("config: {}", "{}"),
    ("catalogue: {auto_discover: false}", "discovery: {enumerate_models: false}"),
    ("provider: {execution: {timeout: 5, max_retries: 1}}", "{timeout: 5, max_retries: 1}"),
    ("provider.execution.timeout: 5", "timeout: 5"),
]
POOLS = [
    ("hierarchy_node: chat", "capability: chat"),
    ("allowed_providers: [a]", "providers: [a]"),
    ("rotation: {policy: x}", "strategy: x"),
    ("rotation: {selection: x}", "strategy: x"),
    ("rotation: {selection: {strategy: x, model_priority: [m]}}", "{strategy: x, model_priority: [m]}"),
    ("rotation: {selection: {policy: x, fallback_strategy: error}}", "{strategy: x, fallback_strategy: error}"),
    ("rotation: {policy: x, selection: {model_priority: [m]}}", "{strategy: x, model_priority: [m]}"),
    ("rotation: {deactivation: {retry_limit: 7}}", "deactivation: {retry_limit: 7}"),
    ("rotation: {recovery: {cooldown: 1s}}", "recovery: {cooldown: 1s}"),
    ("rotation: {retry: {max_attempts: 1}}", "retry: {max_attempts: 1}"),
    ("rotation: {}", "{}"),
    ("retry: {non_retryable: [418]}", "retry: {non_retryable_codes: [418]}"),
    ("rotation: {retry: {retryable: [418]}}", "retry: {retryable_codes: [418]}"),
    ("recovery: {recover_on_quota_reset: true}", "recovery: {on_quota_reset: true}"),
    (
        "{deactivation: {retry_limit: 7}, rotation: {deactivation: {request_limit: 9}}}",
        "deactivation: {retry_limit: 7, request_limit: 9}",
    ),
]
ROOT = [
    ("state: {connector: c}", "storage: {connector: c}"),
    ("storage: {persistence: {sync_policy: p, sync_interval: 1s}}", "storage: {sync_policy: p, sync_interval: 1s}"),
    ("state: {persistence: {sync_policy: p}}", "storage: {sync_policy: p}"),
    ("storage: {config: {path: p}}", "storage: {path: p}"),
    ("secrets: {connector: env}", "secrets: {store: env}"),
    ("secrets: {file_path: p}", "secrets: {path: p}"),
    ("secrets: {config: {prefix: a, file_path: p}}", "secrets: {prefix: a, path: p}"),
    (
        "secret-store: {resolution: {cache_ttl: 1s, fail_on_missing: false}}",
        "secrets: {cache_ttl: 1s, fail_on_missing: false}",
    ),
    ("secrets: {secret-store: {resolution: {cache_enabled: false}}}", "secrets: {cache_enabled: false}"),
    ("secret-store.resolution.cache_ttl: 1s", "secrets: {cache_ttl: 1s}"),
    ("secrets: {secret-store.resolution.cache_ttl: 1s}", "secrets: {cache_ttl: 1s}"),
    ("storage.persistence.sync_policy: p", "storage: {sync_policy: p}"),
    ("observability: {config: {verbose: true}}", "observability: {verbose: true}"),
    ("observability: {logging: {config: {path: p}}}", "observability: {logging: {path: p}}"),
    ("observability: {logging: {redact: false}}", "observability: {logging: {redact_secrets: false}}"),
    (
        "observability: {routing: {connector: c, events: [a]}}",
        "observability: {routing: {connector: c}, events: {filter: [a]}}",
    ),
]


def rewritten(text: str) -> dict[str, Any]:
    """Return a document in the canonical spelling."""
    document = read_text(text)
    assert normalise(document) == []
    return document.data


def entry(section: str, text: str) -> str:
    """Return a document with one entry in a section; the entry's keys are given as YAML."""
    return f"{section}: {{e: {text if text.startswith('{') else '{' + text + '}'}}}"


@pytest.mark.parametrize(
    ("other", "flat"),
    [
        *((entry("providers", other), entry("providers", flat)) for other, flat in PROVIDERS),
        *((entry("pools", other), entry("pools", flat)) for other, flat in POOLS),
        *ROOT,
    ],
    ids=lambda text: text[:60],
)
def test_another_spelling_means_the_flat_one(other: str, flat: str) -> None:
    """Both give the same document, and the flat one is left as it is."""
    assert rewritten(other) == read_text(flat).data == rewritten(flat)


@pytest.mark.parametrize(
    ("text", "path", "flat"),
    [
        ("pools: {p: {strategy: a, rotation: {policy: b}}}", "pools.p.rotation.policy", "pools.p.strategy"),
        (
            "pools: {p: {rotation: {policy: a, selection: {strategy: b}}}}",
            "pools.p.rotation.selection.strategy",
            "pools.p",
        ),
        ("providers: {p: {api_key: a, auth: {api_key: b}}}", "providers.p.auth.api_key", "providers.p.api_key"),
        ("storage: {connector: a}\nstate: {connector: b}", "state.connector", "storage.connector"),
        ("secrets: {path: a, file_path: b}", "secrets.file_path", "secrets.path"),
    ],
    ids=["strategy", "selection", "api_key", "state", "path"],
)
def test_two_spellings_with_different_values_are_an_error(text: str, path: str, flat: str) -> None:
    """Neither wins in silence, and no value is shown."""
    (problem,) = normalise(read_text(text))

    assert problem.path == path
    assert f"says otherwise than {flat}" in problem.message


@pytest.mark.parametrize(
    ("text", "path", "meant"),
    [
        ("pools: {p: {rotation: {polcy: x}}}", "pools.p.rotation.polcy", "policy"),
        ("pools: {p: {rotation: {deactivaton: {retry_limit: 1}}}}", "pools.p.rotation.deactivaton", "deactivation"),
        ("storage: {persistance: {sync_policy: p}}", None, None),
        ("secret-store: {resoluton: {cache_ttl: 1s}}", "secret-store.resoluton", "resolution"),
    ],
    ids=["policy", "deactivation", "outer", "resolution"],
)
def test_what_is_misspelt_in_another_spelling_is_named_there(text: str, path: str | None, meant: str | None) -> None:
    """Rather than the mapping around it; a misspelt mapping is left to validation, which names it."""
    found = normalise(read_text(text))

    assert [problem.path for problem in found] == ([] if path is None else [path])
    assert meant is None or f"did you mean {meant!r}" in found[0].message


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("pools", "p", "retry", "non_retryble"), "non_retryable"),
        (("pools", "p", "hierarchy_nod"), "hierarchy_node"),
        (("providers", "p", "conig"), "config"),
        (("secrets", "file_pat"), "file_path"),
        (("stat",), "state"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_spellings_are_known_where_they_may_stand(path: tuple[str, ...], expected: str) -> None:
    """So that a misspelt one is named with the one that was meant."""
    assert expected in other_spellings(path)
    assert f"did you mean {expected!r}" in unknown_key(path, ["something-else"])


def test_two_spellings_with_the_same_value_are_none() -> None:
    """Saying it twice is harmless."""
    assert rewritten("secrets: {store: env, connector: env}") == {"secrets": {"store": "env"}}


def test_what_was_moved_keeps_the_line_it_was_written_in() -> None:
    """Errors found later point into the file as it is."""
    document = read_text("pools:\n  p:\n    rotation:\n      recovery:\n        cooldown: 1s\n")
    normalise(document)

    assert document.line_of(("pools", "p", "recovery", "cooldown")) == 5


@pytest.mark.parametrize(
    "data",
    [
        {"pools": []},
        {"providers": {"p": 5}},
        {"secrets": "x"},
        {"pools": {"p": {"rotation": 5, "retry": [1]}}},
        {"state": None},
    ],
    ids=["list", "number", "text", "inside", "null"],
)
def test_what_is_no_mapping_is_left_to_validation(data: dict[str, Any]) -> None:
    """Rewriting never fails."""
    assert normalise(Document(data)) == []
