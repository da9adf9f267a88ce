"""Plugins that work are found by their metadata, by any of their names, and imported when somebody names them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.errors import ConfigurationError, UnknownConnectorError
from modelmesh.plugins import PluginHost
from modelmesh_cdk import BaseProvider, BaseProviderConfig
from modelmesh_cdk.testing import ScriptedProvider

Publish = Callable[..., None]


def test_a_plugin_is_found_without_being_imported(host: PluginHost, good: Publish) -> None:
    """Finding reads metadata only."""
    good()

    (found,) = host.found("providers")["acme.good.v1"]

    assert (found.distribution, found.version, found.value) == ("acme-good", "1.0", "acme_good:Provider")
    assert "acme_good" not in sys.modules


def test_a_plugin_is_imported_when_it_is_named_and_only_then(host: PluginHost, good: Publish) -> None:
    """Its neighbours stay untouched."""
    good()
    good("acme.idle.v1", "acme-idle")

    connector = host.find("providers", "acme.good.v1")

    assert connector.__name__ == "Provider"
    assert "acme_good" in sys.modules
    assert "acme_idle" not in sys.modules


def test_a_distribution_that_is_on_the_path_twice_counts_once(good: Publish) -> None:
    """An editable install beside a built one is no conflict."""
    good()
    once = list(PluginHost().found("providers")["acme.good.v1"])
    host = PluginHost(lambda group: [each.entry_point for each in once * 2] if group == "modelmesh.providers" else [])

    assert host.find("providers", "acme.good.v1").__name__ == "Provider"


def test_one_module_may_serve_several_entry_points_and_kinds(site: Any, host: PluginHost, working: str) -> None:
    """A module of hook implementations is registered once and asked by each hook."""
    module = working + (
        "\n@hookimpl\ndef modelmesh_providers():\n    return {'acme.chat.v1': Provider, 'acme.embed.v1': Provider}\n"
        "\n@hookimpl\ndef modelmesh_observability():\n    return {'': Reporter}\n"
    )
    site.publish(
        "acme-many",
        {
            "providers": {"acme.chat.v1": "acme_many", "acme.embed.v1": "acme_many"},
            "strategies": {"acme.none.v1": "acme_many"},
            "observability": {"acme.report.v1": "acme_many"},
        },
        acme_many=module,
    )

    usable = {kind: set(host.load_all(kind)) for kind in ("providers", "strategies", "observability")}

    assert {"acme.chat.v1", "acme.embed.v1"} <= usable["providers"]
    assert "acme.none.v1" not in usable["strategies"]
    assert "acme.report.v1" in usable["observability"]
    assert ["has no hook modelmesh_strategies" in problem.reason for problem in host.problems()] == [True]


def test_one_id_may_be_used_in_two_kinds(site: Any, host: PluginHost, working: str) -> None:
    """Kinds have their own names."""
    site.publish(
        "acme-twice",
        {"providers": {"acme.x.v1": "acme_twice:Provider"}, "observability": {"acme.x.v1": "acme_twice:hooks"}},
        acme_twice=working
        + "\nclass hooks:\n    @hookimpl\n    def modelmesh_observability():\n        return {'': Reporter}\n",
    )

    assert host.find("providers", "acme.x.v1").__name__ == "Provider"
    assert host.find("observability", "acme.x.v1").__name__ == "Reporter"


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "written", "full"),
    [
        ("strategies", "round-robin", "modelmesh.round-robin.v1"),
        ("strategies", "modelmesh.round-robin", "modelmesh.round-robin.v1"),
        ("strategies", "rotation.modelmesh.round-robin.v1", "modelmesh.round-robin.v1"),
        ("providers", "provider.openai.llm.v1", "openai.llm.v1"),
        ("providers", "openai.llm", "openai.llm.v1"),
        ("providers", "simulator", "modelmesh.simulator.v1"),
        ("state_stores", "memory", "modelmesh.memory.v1"),
        ("observability", "console", "modelmesh.console.v1"),
    ],
)
def test_short_and_prefixed_names_stand_for_the_id(host: PluginHost, kind: str, written: str, full: str) -> None:
    """A configuration may use the short name, or the type-prefixed one of older documents."""
    assert host.resolve_id(kind, written) == full


def test_a_name_without_version_means_the_newest(host: PluginHost, good: Publish) -> None:
    """Versions are compared as numbers: v10 is newer than v9."""
    for version in (2, 10, 9):
        good(f"acme.chat.v{version}", f"acme-v{version}")

    assert host.resolve_id("providers", "acme.chat") == "acme.chat.v10"


@pytest.mark.parametrize(
    ("kind", "written", "near"),
    [
        ("strategies", "round-robbin", "round-robin"),
        ("providers", "opnai.llm.v1", "openai.llm.v1"),
        ("observability", "consol", "console"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_near_match(host: PluginHost, kind: str, written: str, near: str) -> None:
    """The message names what was meant, and no package to install."""
    with pytest.raises(UnknownConnectorError, match=f"did you mean '{near}'") as caught:
        host.resolve_id(kind, written)

    assert "pip install" not in caught.value.message


def test_a_name_like_none_is_answered_with_the_package_to_install(host: PluginHost) -> None:
    """The message lists what there is, and how a connector of that vendor would be had."""
    with pytest.raises(UnknownConnectorError, match="pip install modelmesh-zzz") as caught:
        host.find("providers", "zzz.unheard-of.v1")

    assert "modelmesh.simulator.v1" in caught.value.message
    assert "did you mean" not in caught.value.message


# --- listing -----------------------------------------------------------------------------------


def test_the_listing_shows_what_works_and_why_the_rest_does_not(site: Any, host: PluginHost, good: Publish) -> None:
    """Each plugin has a row, with its summary or its reason and remedy."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad="import acme_wire")
    good()

    rows = {row.id: row for row in host.list_plugins(["providers"])}

    assert (rows["acme.good.v1"].status, rows["acme.good.v1"].summary) == ("loaded", "Answers for Acme.")
    assert (rows["acme.bad.v1"].status, rows["acme.bad.v1"].needs) == ("needs", "acme_wire")
    assert "acme_wire" in rows["acme.bad.v1"].reason
    assert rows["acme.bad.v1"].remedy == "pip install acme_wire"


def test_the_listing_can_leave_plugins_unloaded(site: Any, host: PluginHost) -> None:
    """Without loading, a plugin that would break is merely found."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad="import acme_wire")

    rows = {row.id: row for row in host.list_plugins(["providers"], load=False)}

    assert rows["acme.bad.v1"].status == "found"
    assert "acme_bad" not in sys.modules


# --- registering -------------------------------------------------------------------------------


class Handmade:
    """A provider without a package."""

    async def complete(self, request: object) -> None:
        """Answer."""

    def stream(self, request: object) -> None:
        """Answer in parts."""

    async def close(self) -> None:
        """Release."""


def test_a_class_can_be_offered_without_a_package(host: PluginHost) -> None:
    """To one host only; another never sees it."""
    host.register("providers", "me.mine.v1", Handmade)

    assert host.find("providers", "me.mine") is Handmade
    assert host.load_all("providers")["me.mine.v1"] is Handmade
    assert "me.mine.v1" not in PluginHost().known_ids("providers")


def test_a_taken_id_is_replaced_only_on_demand(host: PluginHost) -> None:
    """Registering over an installed connector must be said."""
    with pytest.raises(ConfigurationError, match="pass replace=True"):
        host.register("providers", "openai.llm.v1", Handmade)

    host.register("providers", "openai.llm.v1", Handmade, replace=True)

    assert host.find("providers", "openai.llm.v1") is Handmade


def test_a_class_that_is_not_of_its_kind_is_refused(host: PluginHost) -> None:
    """The message names the methods that are missing."""
    with pytest.raises(ConfigurationError, match=r"Handmade cannot be a strategy: it lacks select, peek, rank, score"):
        host.register("strategies", "me.mine.v1", Handmade)


def test_a_class_that_leaves_a_method_of_its_base_open_is_refused(host: PluginHost) -> None:
    """Otherwise a misspelt name is found only when somebody builds it, as a TypeError without words."""

    class Misspelt(BaseProvider[BaseProviderConfig]):
        async def complet(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Misspelt cannot be a provider: it lacks complete$"):
        host.register("providers", "me.mine.v1", Misspelt)


def test_an_object_in_place_of_a_class_is_told_where_it_goes(host: PluginHost) -> None:
    """Ready-made connectors are named in the configuration."""
    with pytest.raises(ConfigurationError, match="has to be a class; an object of type ScriptedProvider goes into"):
        host.register("providers", "me.mine.v1", ScriptedProvider([]))
