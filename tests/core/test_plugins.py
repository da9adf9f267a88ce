"""Plugins: a broken one is one clear line, and the others work."""

from __future__ import annotations

import sys
from typing import Any, Protocol

import pytest

from modelmesh import CompletionRequest, ModelMesh
from modelmesh.errors import ConfigurationError, PluginError, UnknownConnectorError
from modelmesh.interfaces.observability import Severity
from modelmesh.plugins import PluginHost
from modelmesh_cdk import BaseProvider, BaseProviderConfig
from modelmesh_cdk.testing import ScriptedProvider


class Site(Protocol):
    """What the ``site`` fixture gives."""

    def publish(self, distribution: str, entry_points: Any, **more: Any) -> None:
        """Write a distribution."""

    def publish_raw(self, distribution: str, version: str = "1.0", **files: str) -> None:
        """Write metadata files."""


GOOD = '''
from modelmesh.hookspecs import hookimpl


class Provider:
    """Answers for Acme."""

    async def complete(self, request): ...
    def stream(self, request): ...
    async def close(self): ...

    @classmethod
    @hookimpl
    def modelmesh_providers(cls):
        return {"": cls}


class Reporter:
    def emit(self, event): ...
    def log(self, entry): ...
    def flush(self, stats): ...
    def trace(self, entry): ...
'''
HOOKS = "from modelmesh.hookspecs import hookimpl\n"
BROKEN = {
    "fails to import": (
        "raise RuntimeError('no licence\\nsecond line')",
        "raised RuntimeError: no licence",
        "acme-bad",
    ),
    "exits": ("raise SystemExit(3)", "raised SystemExit: 3", "uninstall"),
    "does not compile": ("def (", "raised SyntaxError", "acme-bad"),
    "lacks the object": ("thing = 1", "raised AttributeError", "acme-bad"),
    "lacks its hook": ("class Provider: ...", "has no hook modelmesh_providers", "modelmesh_cdk"),
    "misspells its hook": (
        f"{HOOKS}class Provider:\n    @classmethod\n    @hookimpl\n    def modelmesh_provider(cls): ...",
        "unknown hook 'modelmesh_provider'",
        "modelmesh.hookspecs.modelmesh_providers",
    ),
    "asks its hook for too much": (
        f"{HOOKS}class Provider:\n    @classmethod\n    @hookimpl\n    def modelmesh_providers(cls, mesh): ...",
        "its hooks do not fit",
        "modelmesh.hookspecs.modelmesh_providers",
    ),
    "hook raises": (
        f"{HOOKS}class Provider:\n    @classmethod\n    @hookimpl\n    def modelmesh_providers(cls): return 1 / 0",
        "raised ZeroDivisionError",
        "report it to the author of acme-bad",
    ),
    "hook exits": (
        f"{HOOKS}class Provider:\n    @classmethod\n    @hookimpl\n    def modelmesh_providers(cls): raise SystemExit",
        "raised SystemExit",
        "report it to the author of acme-bad",
    ),
    "hook returns a list": (
        f"{HOOKS}class Provider:\n    @classmethod\n    @hookimpl\n    def modelmesh_providers(cls): return [cls]",
        "returned list, not a mapping",
        "return {connector ID: class}",
    ),
    "hook offers an instance": (
        GOOD.replace('{"": cls}', '{"": cls()}'),
        "which is no class",
        "return {connector ID: class}",
    ),
    "class lacks methods": (
        GOOD.replace('{"": cls}', '{"": Reporter}'),
        "Reporter lacks complete, stream, close",
        "modelmesh_cdk",
    ),
    "hook offers another ID": (
        GOOD.replace('{"": cls}', '{"acme.other.v1": cls}'),
        "offers acme.other.v1 and not 'acme.bad.v1'",
        "make the hook's key the entry point's name",
    ),
    "needs a library that is not there": (
        "import acme_wire.core",
        "No module named 'acme_wire'",
        "pip install acme_wire",
    ),
    "leaks a key": ("raise ValueError('sk-canary0123456789abcdef')", "REDACTED", "acme-bad"),
}


def good(site: Site, name: str = "acme.good.v1", distribution: str = "acme-good", **more: Any) -> None:
    """Publish a provider plugin that works."""
    module = distribution.replace("-", "_")
    site.publish(distribution, {"providers": {name: f"{module}:Provider"}}, **{module: GOOD}, **more)


@pytest.fixture
def host() -> PluginHost:
    """The plugins of this environment, found when they are first asked for."""
    return PluginHost()


def test_a_plugin_is_found_without_being_imported(site: Site, host: PluginHost) -> None:
    """Finding reads metadata only."""
    good(site)

    (found,) = host.found("providers")["acme.good.v1"]

    assert (found.distribution, found.version, found.value) == ("acme-good", "1.0", "acme_good:Provider")
    assert "acme_good" not in sys.modules


def test_a_plugin_is_imported_when_it_is_named_and_only_then(site: Site, host: PluginHost) -> None:
    """Its neighbours stay untouched."""
    good(site)
    good(site, "acme.idle.v1", "acme-idle")

    connector = host.find("providers", "acme.good.v1")

    assert connector.__name__ == "Provider"
    assert "acme_good" in sys.modules
    assert "acme_idle" not in sys.modules


@pytest.mark.parametrize(("source", "reason", "remedy"), list(BROKEN.values()), ids=list(BROKEN))
def test_a_broken_plugin_is_one_clear_line_and_the_rest_works(
    site: Site, host: PluginHost, source: str, reason: str, remedy: str
) -> None:
    """The line names the plugin, its distribution, the reason and the remedy."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad=source)
    good(site)

    usable = host.load_all("providers")

    (line,) = [str(problem) for problem in host.problems()]
    assert "\n" not in line
    assert line.startswith("providers plugin 'acme.bad.v1', declared by acme-bad 1.0: ")
    assert reason in line
    assert remedy in line
    assert "canary" not in line
    assert {"acme.good.v1", "modelmesh.simulator.v1", "openai.llm.v1"} <= set(usable)
    assert "acme.bad.v1" not in usable


def test_a_broken_plugin_is_an_error_when_it_is_needed(site: Site, host: PluginHost) -> None:
    """The error says who declares it, why it fails and what to do, each time it is asked for."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad="raise OSError('no disk')")

    for _ in range(2):
        with pytest.raises(PluginError) as caught:
            host.find("providers", "acme.bad.v1")

        assert caught.value.message.split("\n") == [
            "cannot load provider 'acme.bad.v1', declared by acme-bad 1.0",
            "  reason: importing acme_bad:Provider raised OSError: no disk",
            "  try: report it to the author of acme-bad, or uninstall it",
        ]


def test_a_keyboard_interrupt_is_not_a_plugins_fault(site: Site, host: PluginHost) -> None:
    """Whoever presses Ctrl-C during an import wants to stop."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad="raise KeyboardInterrupt")

    with pytest.raises(KeyboardInterrupt):
        host.load_all("providers")


def test_two_plugins_that_claim_one_id_are_both_named(site: Site, host: PluginHost) -> None:
    """Neither wins; an ID of one of them alone still works."""
    good(site, "acme.chat.v1", "acme-one")
    good(site, "acme.chat.v1", "acme-two")
    good(site)

    with pytest.raises(PluginError, match=r"acme-(one|two) 1\.0 and acme-(one|two) 1\.0 both offer") as caught:
        host.find("providers", "acme.chat.v1")

    assert "try: pip uninstall acme-" in caught.value.message
    assert {problem.plugin.distribution for problem in host.problems()} == {"acme-one", "acme-two"}
    assert host.find("providers", "acme.good.v1")


def test_a_stranger_cannot_take_a_bundled_id(site: Site, host: PluginHost) -> None:
    """A plugin under a bundled connector's ID is a conflict, never a replacement."""
    good(site, "openai.llm.v1", "acme-openai")

    with pytest.raises(PluginError, match=r"both offer 'openai\.llm\.v1'"):
        host.find("providers", "openai.llm.v1")


def test_a_distribution_that_is_on_the_path_twice_counts_once(site: Site) -> None:
    """An editable install beside a built one is no conflict."""
    good(site)
    once = list(PluginHost().found("providers")["acme.good.v1"])
    host = PluginHost(lambda group: [each.entry_point for each in once * 2] if group == "modelmesh.providers" else [])

    assert host.find("providers", "acme.good.v1").__name__ == "Provider"


@pytest.mark.parametrize(
    ("requirement", "fits"),
    [
        ("modelmesh-router>=99", False),
        ("modelmesh_router (>=99)", False),
        ("modelmesh-router[server]>=99,<100", False),
        ("modelmesh-router<1.2", False),
        ("modelmesh-router==1.1.*", False),
        ("modelmesh-router!=1.2.*", False),
        ("modelmesh-router~=2.0", False),
        ("modelmesh-router>1.2.3", False),
        ("modelmesh-router>=1.2,<2", True),
        ("modelmesh-router~=1.1", True),
        ("modelmesh-router==1.2.3", True),
        ("modelmesh-router", True),
        ("modelmesh-router>=99; extra == 'next'", True),
        ('modelmesh-router>=99; extra=="next"', True),
        ("modelmesh-router-acme>=99", True),
        ("httpx>=99", True),
    ],
)
def test_a_plugin_built_for_another_core_is_refused_before_it_is_imported(
    site: Site, requirement: str, fits: bool
) -> None:
    """Whatever pip was told, the plugin's own requirement on the core is held against the core's version."""
    good(site, requires=[requirement])
    host = PluginHost(core_version="1.2.3")

    usable = host.load_all("providers")

    assert ("acme.good.v1" in usable) is fits
    assert ("acme_good" in sys.modules) is fits
    if not fits:
        (line,) = [str(problem) for problem in host.problems() if problem.plugin.distribution == "acme-good"]
        assert "it is built for modelmesh-router" in line
        assert "and this is 1.2.3; pip install --upgrade acme-good" in line


def test_a_missing_optional_library_is_answered_with_the_extra_that_brings_it(site: Site, host: PluginHost) -> None:
    """The plugin's own metadata says which extra holds the library."""
    site.publish(
        "acme-bad",
        {"providers": {"acme.bad.v1": "acme_bad:Provider"}},
        requires=["acme-wire>=2; extra == 'wire'", "other; extra == 'more'"],
        acme_bad="import acme_wire",
    )

    with pytest.raises(PluginError, match=r"try: pip install 'acme-bad\[wire\]'"):
        host.find("providers", "acme.bad.v1")


def test_a_plugin_whose_own_module_is_gone_is_to_be_installed_again(site: Site, host: PluginHost) -> None:
    """A half-removed package is not mistaken for a missing library."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad.provider:Provider"}})

    with pytest.raises(PluginError, match="pip install --force-reinstall acme-bad"):
        host.find("providers", "acme.bad.v1")
    assert [problem.needs for problem in host.problems()] == [""]


@pytest.mark.parametrize(
    "source",
    ["import acme_bad.wire", "raise ModuleNotFoundError('nothing to see')"],
    ids=["another module of its own", "no name"],
)
def test_a_module_that_no_library_brings_is_the_plugins_own_fault(site: Site, host: PluginHost, source: str) -> None:
    """Nothing is advised to be installed but the plugin itself."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad=source)

    (row,) = [row for row in host.list_plugins(["providers"]) if row.id == "acme.bad.v1"]

    assert (row.status, row.needs) == ("broken", "")
    assert row.remedy == "pip install --force-reinstall acme-bad"


@pytest.mark.parametrize(
    "files",
    [
        {"entry_points.txt": "[modelmesh.providers]\nno equals sign\n", "METADATA": "Name: acme-bad\nVersion: 1.0\n"},
        {"entry_points.txt": "[modelmesh.providers]\nacme.bad.v1 = !!\n", "METADATA": "Name: acme-bad\nVersion: 1.0\n"},
        {"entry_points.txt": "[modelmesh.providers]\nacme.bad.v1 = acme_bad:Provider\n"},
        {"entry_points.txt": "[modelmesh.providers]\nacme.bad.v1 = acme_bad:Provider\n", "METADATA": ""},
    ],
    ids=["no equals sign", "no object", "no metadata", "empty metadata"],
)
def test_metadata_that_cannot_be_read_stops_nobody_else(site: Site, host: PluginHost, files: dict[str, str]) -> None:
    """A damaged ``dist-info`` folder costs its own plugin only."""
    site.publish_raw("acme-bad", **files)
    good(site)

    usable = host.load_all("providers")

    assert {"acme.good.v1", "modelmesh.simulator.v1"} <= set(usable)
    assert "acme.bad.v1" not in usable


def test_an_unreadable_list_of_plugins_is_listed_with_its_remedy(site: Site, host: PluginHost) -> None:
    """Whoever looks for the missing plugin sees why it is not there."""
    site.publish_raw("acme-bad", **{"entry_points.txt": "[modelmesh.providers]\nno equals sign\n"})

    (row,) = [row for row in host.list_plugins(["providers"]) if row.status == "broken"]

    assert (row.distribution, row.id) == ("acme_bad", "(unreadable)")
    assert "its entry_points.txt cannot be read" in row.reason
    assert row.remedy == "pip install --force-reinstall acme_bad"


def test_one_module_may_serve_several_entry_points_and_kinds(site: Site, host: PluginHost) -> None:
    """A module of hook implementations is registered once and asked by each hook."""
    module = GOOD + (
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


def test_one_id_may_be_used_in_two_kinds(site: Site, host: PluginHost) -> None:
    """Kinds have their own names."""
    site.publish(
        "acme-twice",
        {"providers": {"acme.x.v1": "acme_twice:Provider"}, "observability": {"acme.x.v1": "acme_twice:hooks"}},
        acme_twice=GOOD
        + "\nclass hooks:\n    @hookimpl\n    def modelmesh_observability():\n        return {'': Reporter}\n",
    )

    assert host.find("providers", "acme.x.v1").__name__ == "Provider"
    assert host.find("observability", "acme.x.v1").__name__ == "Reporter"


# --- names --------------------------------------------------------------------------


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


def test_a_name_without_version_means_the_newest(site: Site, host: PluginHost) -> None:
    """Versions are compared as numbers: v10 is newer than v9."""
    for version in (2, 10, 9):
        good(site, f"acme.chat.v{version}", f"acme-v{version}")

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


# --- listing and registering ----------------------------------------------------------


def test_the_listing_shows_what_works_and_why_the_rest_does_not(site: Site, host: PluginHost) -> None:
    """Each plugin has a row, with its summary or its reason and remedy."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad="import acme_wire")
    good(site)

    rows = {row.id: row for row in host.list_plugins(["providers"])}

    assert (rows["acme.good.v1"].status, rows["acme.good.v1"].summary) == ("loaded", "Answers for Acme.")
    assert (rows["acme.bad.v1"].status, rows["acme.bad.v1"].needs) == ("needs", "acme_wire")
    assert "acme_wire" in rows["acme.bad.v1"].reason
    assert rows["acme.bad.v1"].remedy == "pip install acme_wire"


def test_the_listing_can_leave_plugins_unloaded(site: Site, host: PluginHost) -> None:
    """Without loading, a plugin that would break is merely found."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad="import acme_wire")

    rows = {row.id: row for row in host.list_plugins(["providers"], load=False)}

    assert rows["acme.bad.v1"].status == "found"
    assert "acme_bad" not in sys.modules


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


# --- the mesh's life ------------------------------------------------------------------

LIVING = GOOD.replace(
    "class Reporter:",
    """
    @classmethod
    @hookimpl
    def modelmesh_startup(cls, mesh):
        mesh.append("{name} up")
        {then}

    @classmethod
    @hookimpl
    def modelmesh_shutdown(cls, mesh):
        mesh.append("{name} down")
        {then}


class Reporter:""",
)


def living(site: Site, name: str, then: str = "pass") -> None:
    """Publish a provider that notes when the mesh comes and goes."""
    source = LIVING.replace("{name}", name).replace("{then}", then)
    site.publish(
        f"acme-{name}", {"providers": {f"acme.{name}.v1": f"acme_{name}:Provider"}}, **{f"acme_{name}": source}
    )


def test_loaded_plugins_are_told_when_a_mesh_starts_and_ends(site: Site, host: PluginHost) -> None:
    """Only the loaded ones: a plugin that nobody named knows of no mesh."""
    living(site, "one")
    living(site, "idle")
    host.find("providers", "acme.one.v1")
    mesh: Any = []

    failures = [*host.startup(mesh), *host.shutdown(mesh)]

    assert mesh == ["one up", "one down"]
    assert failures == []


@pytest.mark.parametrize("then", ["raise OSError('sk-canary0123456789abcdef')", "raise SystemExit"])
def test_a_startup_hook_that_raises_is_a_line_and_the_others_are_called(
    site: Site, host: PluginHost, then: str
) -> None:
    """The line names the plugin and the hook, and nothing of the message, which may hold anything."""
    living(site, "bad", then)
    living(site, "one")
    host.find("providers", "acme.bad.v1")
    host.find("providers", "acme.one.v1")
    mesh: Any = []

    (line,) = host.startup(mesh)

    assert sorted(mesh) == ["bad up", "one up"]
    assert line.startswith("providers.acme.bad.v1: modelmesh_startup raised ")
    assert "canary" not in line


HOOKED = """
from modelmesh.hookspecs import hookimpl
from modelmesh_plugins.providers.simulator import SimulatorProvider


class Provider(SimulatorProvider):
    @classmethod
    @hookimpl
    def modelmesh_startup(cls): raise OSError("canary")

    @classmethod
    @hookimpl
    def modelmesh_before_attempt(cls): raise OSError("canary")

    @classmethod
    @hookimpl
    def modelmesh_after_attempt(cls): raise OSError("canary")

    @classmethod
    @hookimpl
    def modelmesh_shutdown(cls): raise OSError("canary")
"""


@pytest.mark.parametrize("failure", ["raise OSError('canary')", "raise SystemExit"])
def test_a_connector_that_cannot_be_built_is_a_plugin_error(site: Site, host: PluginHost, failure: str) -> None:
    """It names the connector and its class; what the constructor said stays in the cause, as it was handed keys."""
    source = GOOD.replace("async def complete", f"def __init__(self, settings): {failure}\n\n    async def complete")
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad=source)

    with pytest.raises(PluginError, match=r"cannot build provider 'acme\.bad\.v1'") as caught:
        host.build("providers", "acme.bad.v1", None)

    assert "reason: acme_bad.Provider raised " in caught.value.message
    assert "canary" not in caught.value.message


def test_an_error_of_ours_from_a_constructor_goes_through(site: Site, host: PluginHost) -> None:
    """A connector may refuse its settings with its own words."""
    source = GOOD.replace(
        "async def complete",
        "def __init__(self, settings):\n        from modelmesh import ConfigurationError\n"
        "        raise ConfigurationError('give a region')\n\n    async def complete",
    )
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad=source)

    with pytest.raises(ConfigurationError, match="give a region"):
        host.build("providers", "acme.bad.v1", None)


def test_hooks_that_raise_are_traced_as_warnings_and_the_request_is_answered(site: Site, host: PluginHost) -> None:
    """Through the whole life of a mesh, each by its plugin and hook."""
    traces: list[Any] = []
    members = dict.fromkeys(("__init__", "emit", "log", "flush"), lambda self, entry: None)
    recorder = type("Recorder", (), {**members, "trace": lambda self, entry: traces.append(entry)})
    host.register("observability", "test.recorder.v1", recorder)
    site.publish("acme-hooks", {"providers": {"acme.hooks.v1": "acme_hooks:Provider"}}, acme_hooks=HOOKED)

    with ModelMesh(plugins=host) as mesh:
        mesh.initialize(
            {
                "providers": {"local": {"connector": "acme.hooks.v1"}},
                "models": {"small": {"provider": "local", "capabilities": ["chat-completion"]}},
                "pools": {"chat-completion": {"strategy": "round-robin"}},
                "observability": {"tracing": {"connector": "test.recorder.v1", "min_severity": "warning"}},
            }
        )
        answer = mesh.get_router().complete(
            "chat-completion", CompletionRequest(messages=[{"role": "user", "content": "hello"}])
        )

    assert answer.content
    hooks = ("startup", "before_attempt", "after_attempt", "shutdown")
    assert [(each.severity, each.component, each.message) for each in traces] == [
        (Severity.WARNING, "plugins", f"providers.acme.hooks.v1: modelmesh_{hook} raised OSError") for hook in hooks
    ]


def test_a_refused_plugin_is_not_called_later(site: Site, host: PluginHost) -> None:
    """Quarantine takes back every hook of a plugin, not only the one that failed."""
    source = LIVING.replace("{name}", "bad").replace("{then}", "pass").replace('{"": cls}', "None")
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad=source)
    host.load_all("providers")
    mesh: Any = []

    host.startup(mesh)

    assert mesh == []


def test_attempts_are_shown_to_plugins_that_ask_for_them(site: Site, host: PluginHost) -> None:
    """A hook may take fewer arguments than it is offered; without such hooks the host says so."""
    hook = "\n    @classmethod\n    @hookimpl\n    def modelmesh_before_attempt(cls, context): context['seen'] = True\n"
    site.publish(
        "acme-hooks",
        {"providers": {"acme.hooks.v1": "acme_hooks:Provider"}},
        acme_hooks=GOOD.replace("\n\n\nclass Reporter", f"\n{hook}\n\nclass Reporter"),
    )
    before = host.has_attempt_hooks
    host.find("providers", "acme.hooks.v1")
    context: dict[str, Any] = {}

    failures = host.before_attempt(None, context)  # type: ignore[arg-type]  # the hook looks at the context only

    assert (before, host.has_attempt_hooks) == (False, True)
    assert context == {"seen": True}
    assert failures == []
