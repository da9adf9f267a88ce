"""MeshConfig: a configuration as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelmesh.config import MeshConfig, load_config
from modelmesh.errors import ConfigurationError

TEXT = """\
providers:
  acme.chat.v1: {api_key: '${secrets:ACME_KEY}'}
models:
  m: {provider: acme.chat.v1, capabilities: [chat-completion]}
pools:
  chat-completion: {priority: 1, retry: {max_attempts: 1}}
"""


def test_files_text_and_mappings_give_the_same(tmp_path: Path) -> None:
    """Secret references stay references; JSON is read as well."""
    (tmp_path / "mesh.yaml").write_text(TEXT)
    (tmp_path / "mesh.json").write_text('{"pools": {"a": {}}}')

    config = MeshConfig.from_file(tmp_path / "mesh.yaml")

    assert config.raw == MeshConfig.from_yaml(TEXT).raw == MeshConfig.from_dict(config.raw).raw
    assert config.providers == {"acme.chat.v1": {"api_key": "${secrets:ACME_KEY}"}}
    assert list(config.models) == ["m"]
    assert MeshConfig.from_file(tmp_path / "mesh.json").pools == {"a": {}}


def test_merging_lays_one_over_the_other_and_changes_neither() -> None:
    """Mappings merge, all else is replaced."""
    config = MeshConfig.from_yaml(TEXT)

    merged = config.merge({"pools": {"chat-completion": {"retry": {"backoff": "fixed"}, "priority": 2}}})

    assert merged.pools == {"chat-completion": {"priority": 2, "retry": {"max_attempts": 1, "backoff": "fixed"}}}
    assert config.pools == {"chat-completion": {"priority": 1, "retry": {"max_attempts": 1}}}


def test_loading_it_leaves_it_as_it_is(catalogue: Any) -> None:
    """It can be loaded again, and errors still name lines."""
    config = MeshConfig.from_yaml(TEXT.replace("priority: 1", "hierarchy_node: nowhere"))
    for _ in range(2):
        with pytest.raises(ConfigurationError) as caught:
            load_config(config, connectors=catalogue, environ={"ACME_KEY": "x"})

        assert [problem.line for problem in caught.value.problems] == [6]


def test_ready_made_objects_stay_the_same_objects(catalogue: Any) -> None:
    """A connector that is passed in is not copied."""
    connector = object()
    config = MeshConfig.from_yaml(TEXT).merge({"providers": {"acme.chat.v1": {"instance": connector}}})
    del config.raw["providers"]["acme.chat.v1"]["api_key"]

    assert load_config(config, connectors=catalogue, environ={}).providers["acme.chat.v1"].instance is connector


def test_validating_lists_what_is_wrong() -> None:
    """A line each, against the installed connectors; nothing when all is right."""
    good = {
        "providers": {"openai.llm.v1": {"api_key": "k"}},
        "models": {"m": {"provider": "openai.llm.v1", "capabilities": ["chat-completion"]}},
        "pools": {"chat-completion": {}},
    }

    assert MeshConfig(good).validate() == []
    (problem,) = MeshConfig(good | {"pools": {"chat-completion": {"prority": 1}}}).validate()
    assert "did you mean 'priority'" in problem


def test_its_repr_shows_sections_and_no_values() -> None:
    """A key written in plain text is not printed."""
    assert repr(MeshConfig({"providers": {"a": {"api_key": "canary"}}})) == "MeshConfig(providers)"


@pytest.mark.parametrize("given", [None, 5, ["providers"]], ids=["none", "number", "list"])
def test_what_is_no_mapping_is_refused(given: Any) -> None:
    """Before it is taken for an empty configuration, or is a TypeError from somewhere inside."""
    with pytest.raises(ConfigurationError, match="a file's path, a mapping or a MeshConfig"):
        MeshConfig.from_dict(given)


def test_text_in_place_of_a_path_is_told_where_it_belongs() -> None:
    """Otherwise the whole of it would be the name of a file that is not there."""
    with pytest.raises(ConfigurationError, match=r"use MeshConfig\.from_yaml"):
        MeshConfig.from_file(TEXT)
