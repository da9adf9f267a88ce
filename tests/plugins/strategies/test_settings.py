"""Settings of strategies in a configuration file: read by who has them, refused with file and line by who has not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmesh.config import build_schema, load_config
from modelmesh.config.configuration import Configuration
from modelmesh.errors import ConfigurationError
from modelmesh.plugins import PluginHost

HEAD = """\
providers:
  acme: {connector: simulator}
models:
  m: {provider: acme, capabilities: [chat-completion]}
pools:
  chat-completion:
"""


Load = Callable[[str], Configuration]


@pytest.fixture
def load(plugins: PluginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a file whose pool has these lines."""
    monkeypatch.chdir(tmp_path)

    def loading(lines: str) -> Configuration:
        indented = "".join(f"    {line}\n" for line in lines.splitlines())
        Path("mesh.yaml").write_text(HEAD + indented, encoding="utf-8")
        return load_config("mesh.yaml", connectors=plugins, environ={})

    return loading


@pytest.mark.parametrize(
    ("lines", "setting", "value"),
    [
        ("strategy: cost-first\ncost_basis: accumulated", "cost_basis", "accumulated"),
        ("strategy: session-stickiness\nsession_timeout: 30m", "session_timeout", 1800.0),
        ("strategy: session-stickiness\naffinity_mode: strict", "affinity_mode", "strict"),
        ("strategy: load-balanced\nbalance_mode: absolute", "balance_mode", "absolute"),
        ("strategy: load-balanced\nsampling: smooth", "sampling", "smooth"),
        ("strategy: rate-limit-aware\nmodel_priority: [m]", "model_priority", ["m"]),
        ("rotation:\n  selection:\n    policy: load-balanced\n    balance_mode: absolute", "balance_mode", "absolute"),
        ("strategy: {score: [cost], if_none: error}", "if_none", "error"),
        ("strategy: composed\nif_none: error", "if_none", "error"),
    ],
    ids=str,
)
def test_each_strategy_reads_its_own_settings(load: Load, lines: str, setting: str, value: object) -> None:
    """From the pool's section, durations with their units; a composed one from the mapping as well."""
    assert getattr(load(lines).pools["chat-completion"].strategy_settings, setting) == value


def test_rate_limits_are_a_section_of_their_own(load: Load) -> None:
    """Its keys are the documentation's."""
    rules = load(
        "strategy: rate-limit-aware\n"
        "rate_limit: {threshold: 0.9, min_delta: 500ms, max_rpm: 60, action: queue, max_wait: 5}"
    ).pools["chat-completion"]

    assert rules.strategy_settings.rate_limit.model_dump() == {
        "threshold": 0.9,
        "min_delta": 0.5,
        "max_rpm": 60,
        "action": "queue",
        "max_wait": 5.0,
    }


def test_editors_know_the_composed_strategy(plugins: PluginHost) -> None:
    """In the schema a strategy is a name, or a mapping of known parts."""
    schema = build_schema(plugins)
    name, mapping = schema["$defs"]["PoolConfig"]["properties"]["strategy"]["anyOf"]

    assert name["type"] == "string"
    assert sorted(mapping["properties"]) == ["filter", "if_none", "pick", "score"]
    assert set(schema["$defs"]["Filter"]["properties"]) >= {"headroom", "price", "feature"}
    assert mapping["additionalProperties"] is False


@pytest.mark.parametrize(
    ("lines", "line", "path", "message"),
    [
        ("strategy: cost-first\nbalance_mode: relative", 8, "balance_mode", "'modelmesh.load-balanced.v1' does"),
        (
            "strategy: latency-first\nsession_timeout: 1m",
            8,
            "session_timeout",
            "'modelmesh.session-stickiness.v1' does",
        ),
        ("strategy: round-robin\nrate_limit: {}", 8, "rate_limit", "'modelmesh.rate-limit-aware.v1' does"),
        ("strategy: load-balanced\nmodel_priority: [m]", 8, "model_priority", "does not read it"),
        ("strategy: cost-first\nfallback_strategy: round-robin", 8, "fallback_strategy", "does not read it"),
        ("strategy: cost-first\ncost_bases: price", 8, "cost_bases", "did you mean 'cost_basis'"),
        ("strategy: cost-first\ncost_basis: prize", 8, "cost_basis", "'price' or 'accumulated'"),
        ("strategy: session-stickiness\nsession_timeout: 0", 8, "session_timeout", "greater than 0"),
        (
            "strategy: rate-limit-aware\nrate_limit:\n  treshold: 0.5",
            9,
            "rate_limit.treshold",
            "did you mean 'threshold'",
        ),
        ("strategy: rate-limit-aware\nrate_limit:\n  action: wait", 9, "rate_limit.action", "'switch_model'"),
        (
            "strategy:\n  filter:\n    - latency: {blow: 2}",
            9,
            "strategy.filter[0].latency.blow",
            "did you mean 'below'",
        ),
        ("strategy:\n  filter:\n    - heardoom: {over: 1}", 9, "strategy.filter[0]", "did you mean 'headroom'"),
        ("strategy:\n  scores: [cost]", 8, "strategy.scores", "did you mean 'score'"),
        ("strategy:\n  pick: power_of_too", 8, "strategy.pick", "did you mean 'power_of_two'"),
        ("strategy: {pick: best}\nbalance_mode: relative", 8, "balance_mode", "'modelmesh.load-balanced.v1' does"),
        ("strategy: load-balenced", 7, "strategy", "did you mean 'load-balanced'"),
    ],
    ids=str,
)
def test_a_setting_nobody_reads_is_an_error_with_its_line(
    load: Load, lines: str, line: int, path: str, message: str
) -> None:
    """And with the near match, or the strategy that does read it."""
    with pytest.raises(ConfigurationError) as caught:
        load(lines)

    problems: list[Any] = [each for each in caught.value.problems if each.path == f"pools.chat-completion.{path}"]
    assert [(each.file, each.line) for each in problems] == [("mesh.yaml", line)]
    assert message in problems[0].message
