"""The JSON Schema that editors check configurations with."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from modelmesh.config import build_schema
from modelmesh.config.reader import read_text

GOOD = """\
secrets: {store: dotenv, path: .env, cache_ttl: 5m}
providers:
  acme.chat.v1: {api_key: '${secrets:ACME_KEY}', enabled: true}
models:
  m: {provider: acme.chat.v1, capabilities: [chat-completion], delivery: streaming, batch: {max_payload: 10MB}}
pools:
  chat-completion:
    strategy: priority-selection
    model_priority: [m]
    deadline: 30s
    retry: {max_attempts: 1, backoff: fixed}
    provider_deactivation: on_api_outage
  fast: {models: [m], provider_deactivation: [on_auth_failure], deadline: null}
storage: {connector: memory, sync_policy: in-memory}
observability:
  connector: console
  console: {colorize: false}
  modelmesh.console.v1: {colorize: false}
  logging: {connector: console, colorize: true, level: full, max_payload_size: 1KB}
proxy: {port: 0, auth: {tokens: ['${secrets:TOKEN}']}}
"""


def fits(value: Any, shape: dict[str, Any], root: dict[str, Any]) -> bool:
    """Say whether a value fits a schema: the keywords that decide about keys, types and choices."""
    if "$ref" in shape:
        return fits(value, root["$defs"][shape["$ref"].rsplit("/", 1)[1]], root)
    if "anyOf" in shape:
        return any(fits(value, option, root) for option in shape["anyOf"])
    if ("enum" in shape and value not in shape["enum"]) or ("const" in shape and value != shape["const"]):
        return False
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "null": type(None),
    }
    if "type" in shape and not isinstance(value, kinds[shape["type"]]):  # type: ignore[arg-type]  # classes, by name
        return False
    if isinstance(value, list):
        return all(fits(item, shape.get("items", {}), root) for item in value)
    if not isinstance(value, dict):
        return True
    if any(key not in value for key in shape.get("required", ())):
        return False
    rest, properties = shape.get("additionalProperties", {}), shape.get("properties", {})
    return all(
        fits(item, properties[key], root) if key in properties else rest is not False and fits(item, rest, root)
        for key, item in value.items()
    )


@pytest.fixture
def schema(catalogue: Any) -> dict[str, Any]:
    """The schema of the test's connectors."""
    return build_schema(catalogue)


def test_a_good_configuration_fits(schema: dict[str, Any]) -> None:
    """Keys of the core and of the installed connectors, choices, and both forms of what takes one or many."""
    assert fits(read_text(GOOD).data, schema, schema)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("deadline: 30s", "deadlin: 30s"),
        ("backoff: fixed", "backoff: fxied"),
        ("max_attempts: 1", "max_attempts: one"),
        ("api_key:", "api_kye:"),
        ("provider: acme.chat.v1, ", ""),
        ("model_priority: [m]", "model_priority: m"),
        ("console: {colorize: false}", "console: {colourise: false}"),
        ("store: dotenv", "instance: x"),
        ("proxy: {", "proxxy: {"),
        ("level: full", "target: x"),
        ("on_api_outage", "on_outage"),
    ],
    ids=["key", "choice", "type", "setting", "missing", "list", "sink", "code", "section", "computed", "one-of"],
)
def test_a_mistake_does_not(schema: dict[str, Any], right: str, wrong: str) -> None:
    """An editor underlines what loading would refuse."""
    assert right in GOOD

    assert not fits(read_text(GOOD.replace(right, wrong, 1)).data, schema, schema)


def test_every_reference_in_it_leads_somewhere(schema: dict[str, Any]) -> None:
    """No editor stumbles over a definition that is not there."""

    def references(shape: Any) -> set[str]:
        if isinstance(shape, dict):
            own = {shape["$ref"]} if isinstance(shape.get("$ref"), str) else set()
            return own.union(*(references(item) for item in shape.values()))
        return set().union(*(references(item) for item in shape)) if isinstance(shape, list) else set()

    assert {reference.rsplit("/", 1)[1] for reference in references(schema)} <= schema["$defs"].keys()


def test_it_says_what_a_setting_is_and_whose(schema: dict[str, Any]) -> None:
    """Hover texts name the connector that reads a key."""
    assert (
        "modelmesh.priority-selection.v1"
        in schema["$defs"]["PoolConfig"]["properties"]["model_priority"]["description"]
    )


def test_it_is_the_same_in_every_run() -> None:
    """Nothing hangs on the order of sets: editors and diffs see a change only where there is one."""
    texts = {
        subprocess.run(
            [sys.executable, "-m", "modelmesh", "schema"],
            env={**os.environ, "PYTHONHASHSEED": salt},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for salt in ("1", "2")
    }

    assert len(texts) == 1
    assert texts.pop().startswith("{")
