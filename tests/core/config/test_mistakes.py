"""What people really get wrong, and the one line they are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelmesh.config import MeshConfig, load_config
from modelmesh.errors import ConfigurationError
from modelmesh.plugins import PluginHost

GOOD = """\
providers:
  local:
    connector: openai-compatible
    base_url: http://127.0.0.1:1
    api_key: key
models:
  small: {provider: local, capabilities: [chat-completion], delivery: sync}
  large: {provider: local, capabilities: [chat-completion]}
pools:
  chat-completion:
    models: [small, large]
"""


def problems(text: str) -> list[str]:
    """Return what is wrong with a configuration."""
    try:
        load_config(MeshConfig.from_yaml(text), connectors=PluginHost(), environ={})
    except ConfigurationError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_the_configuration_that_is_broken_below_is_whole() -> None:
    """Otherwise the lines below would say nothing."""
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("right", "wrong", "line", "said"),
    [
        ("key\n", "${secret:KEY}\n", 5, "${secret:KEY} would be taken literally; write ${secrets:KEY} for a secret"),
        ("key\n", "${env:KEY}\n", 5, "${env:KEY} would be taken literally; write ${secrets:KEY} for a secret"),
        ("delivery: sync", "delivery: synced", 7, "must be 'sync' or 'streaming', or a mapping"),
        ("key\n", "$ACME_API_KEY\n", 5, "would be taken literally; write ${secrets:ACME_API_KEY} for a secret"),
        ("[chat-completion], d", "[], d", 7, "is empty; name at least one"),
        ("[chat-completion], d", "chat-completion, d", 7, "expected a list, such as [NAME]"),
        ("pools:\n", "storage: redis\npools:\n", 9, "expected a mapping, such as {connector: NAME}"),
        ("delivery: sync", "batch: {max_items: 0}", 7, "small.batch.max_items: must be greater than or equal to 1"),
        ("delivery: sync", "batch: maybe", 7, "small.batch: expected true or false"),
        ("delivery: sync", "budget: {daily_limit: 1}", 7, "did you mean providers.NAME.budget?; move or correct it"),
        ("models: [", "cooldown: 60\n    models: [", 11, "did you mean pools.NAME.recovery.cooldown?; move or"),
        (
            "    base_url",
            "    retry_limit: 2\n    base_url",
            4,
            "did you mean pools.NAME.deactivation.retry_limit?; move",
        ),
        ("pools:\n", "storage: {connector: file, path: ''}\npools:\n", 9, "storage.path: must not be empty"),
        ("pools:\n", "storage: {connector: sqlite, table: a b}\npools:\n", 9, "storage.table: must match pattern '^["),
        ("pools:\n", "quotas: {}\npools:\n", 9, "did you mean providers.NAME.quota?; move or correct it"),
        ("    models: [", "    modles: [", 11, "did you mean 'models'"),
        ("[small, large]", "[small, small]", 11, "names 'small' a second time; remove one of them"),
        ("    connector: openai-compatible\n", "", 2, "names no connector, and none is called 'local'; add connector:"),
        ("    base_url", "   base_url", 4, "check the indentation"),
        ("[small, large]", "[small, large", 12, "a bracket or brace that is opened and never closed"),
        ("delivery: sync", "delivery: {stream: true}", 7, "small.delivery.stream: unknown key 'stream'; did you mean"),
        ("delivery: sync", "delivery: {batch: 3}", 7, "small.delivery.batch: expected true or false"),
        ("delivery: sync", "delivery: [sync]", 7, "must be 'sync' or 'streaming', or a mapping"),
        (
            "pools:\n",
            "observability: {statistics: {connector: console, scopes: [modl]}}\npools:\n",
            9,
            "statistics.scopes[0]: must be 'model', 'provider' or 'pool'",
        ),
        (
            "    models: [",
            "    strategy: priorty\n    models: [",
            11,
            "did you mean 'priority-selection' or 'modelmesh.priority-selection.v1'?",
        ),
        (
            "    base_url",
            "    budget: {daly: 1, unpriced_request: 1}\n    base_url",
            4,
            "unknown key 'daly'; did you mean 'daily_limit'?",
        ),
        ("    models: [", "    1: x\n    models: [", 11, "pools.chat-completion.1: unknown key '1'"),
        ("    models: [", "    {hid: den}: x\n    models: [", 11, "a mapping as a key under pools.chat-completion, wh"),
        ("    models: [", "    [hidden]: x\n    models: [", 11, "a list as a key under pools.chat-completion, where"),
    ],
    ids=[
        "secret",
        "env",
        "variable",
        "union",
        "empty",
        "no list",
        "no mapping",
        "in one branch",
        "in no branch",
        "budget of a model",
        "pool's own rest",
        "a pool's at a provider",
        "empty text",
        "pattern",
        "at the top",
        "misspelt where it belongs",
        "twice",
        "connector",
        "indentation",
        "bracket",
        "key in a branch",
        "value in a branch",
        "list for a branch",
        "item of a list",
        "part of a strategy's name",
        "part of a key",
        "number as a key",
        "mapping as a key",
        "list as a key",
    ],
)
def test_one_mistake_is_one_line_with_what_to_do(right: str, wrong: str, line: int, said: str) -> None:
    """It names the line, and says it in words of the configuration rather than of a library."""
    (problem,) = problems(GOOD.replace(right, wrong, 1))

    assert problem.startswith(f"line {line}:")
    assert said in problem


def test_what_stands_in_a_misspelt_section_is_no_further_mistake() -> None:
    """References to secrets are read again once the section is called what it should."""
    text = GOOD.replace("key\n", "${secrets:KEY}\n").replace("providers:\n", "provders:\n", 1)

    assert not any("a secret reference is not read here" in problem for problem in problems(text))


@pytest.mark.parametrize(
    ("right", "line", "section"),
    [("  small:", 7, "model"), ("  local:", 2, "provider"), ("  chat-completion:", 10, "pool")],
    ids=["model", "provider", "pool"],
)
@pytest.mark.parametrize("empty", ["", " "], ids=["empty", "blank"])
def test_an_empty_name_is_reported_with_its_line(right: str, line: int, section: str, empty: str) -> None:
    """Whatever else follows from it."""
    text = GOOD.replace(right, f'  "{empty}":')

    assert (
        f"line {line}: {section}s: the name of a {section} is empty, so nothing can mean it; give it one"
        in problems(text)
    )


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("latency: {meen: 3}", "latency.meen: unknown key 'meen'; did you mean 'mean'?; known: jitter, mean;"),
        ("latency: -1", "latency: must not be negative"),
        ("latency: soon", "latency: is no duration; write seconds as a number,"),
        ("latency: [3]", "latency: is no duration; write seconds as a number,"),
        ("failures: [{evry: 3}]", "failures[0].evry: unknown key 'evry'; did you mean 'every'?; known: after, error,"),
        ("failures: [{fr: 3}]", "did you mean 'for'?; known: after, error, every, for, rate, retry_after, status;"),
    ],
    ids=["key", "negative", "text", "list", "list of mappings", "alias"],
)
def test_one_mistake_in_a_connectors_settings_is_one_line_too(written: str, said: str) -> None:
    """A setting that may be a mapping or a number is told of as the one it was written as."""
    found = problems(GOOD.replace("    connector: openai-compatible\n", f"    connector: simulator\n    {written}\n"))

    lines = [line for line in found if ".base_url" not in line and ".api_key" not in line]
    assert len(lines) == 1
    assert said in lines[0]


def test_two_mistakes_in_one_mapping_are_two_lines() -> None:
    """What is said once is the same mistake, not the same section."""
    found = problems(GOOD.replace("delivery: sync", "delivery: {stream: true, batch: 3}"))

    assert [line.split(": ")[1] for line in found] == ["models.small.delivery.batch", "models.small.delivery.stream"]


def test_a_log_that_cannot_be_written_is_told_by_the_key_that_names_it(tmp_path: Path) -> None:
    """Either spelling of the key is found in the message."""
    (tmp_path / "file").touch()
    text = f"{GOOD}observability: {{connector: file, path: {tmp_path / 'file' / 'log.jsonl'}}}\n"
    plugins = PluginHost()
    loaded = load_config(MeshConfig.from_yaml(text), connectors=plugins, environ={})
    assert loaded.observability is not None
    target = loaded.observability.target
    assert target is not None

    with pytest.raises(ConfigurationError, match=r"the path \(or file_path\) of observability"):
        plugins.build("observability", target.connector, target.settings)
