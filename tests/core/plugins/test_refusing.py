"""A plugin that cannot be used is one clear line, and the others work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.errors import PluginError
from modelmesh.plugins import PluginHost

Publish = Callable[..., None]


OFFERS = """
from modelmesh.hookspecs import hookimpl

class Provider:
    @classmethod
    @hookimpl
    def modelmesh_providers(cls): return """
"""To be followed by what the hook returns."""

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
        OFFERS.replace("providers", "provider") + "{}",
        "unknown hook 'modelmesh_provider'",
        "modelmesh.hookspecs.modelmesh_providers",
    ),
    "asks its hook for too much": (
        OFFERS.replace("(cls)", "(cls, mesh)") + "{}",
        "its hooks do not fit",
        "modelmesh.hookspecs.modelmesh_providers",
    ),
    "hook raises": (
        OFFERS + "1 / 0",
        "raised ZeroDivisionError",
        "report it to the author of acme-bad",
    ),
    "hook exits": (
        OFFERS.replace("return", "raise SystemExit"),
        "raised SystemExit",
        "report it to the author of acme-bad",
    ),
    "hook returns a list": (
        OFFERS + "[cls]",
        "returned list, not a mapping",
        "return {connector ID: class}",
    ),
    "hook offers an instance": (
        OFFERS + '{"": cls()}',
        "which is no class",
        "return {connector ID: class}",
    ),
    "class lacks methods": (
        OFFERS + '{"": type("Reporter", (), {})}',
        "Reporter lacks complete, stream, close",
        "modelmesh_cdk",
    ),
    "hook offers another ID": (
        OFFERS + '{"acme.other.v1": cls}\n    complete = stream = close = print',
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


@pytest.mark.parametrize(("source", "reason", "remedy"), list(BROKEN.values()), ids=list(BROKEN))
def test_a_broken_plugin_is_one_clear_line_and_the_rest_works(
    site: Any, host: PluginHost, source: str, reason: str, remedy: str, good: Publish
) -> None:
    """The line names the plugin, its distribution, the reason and the remedy."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad=source)
    good()

    usable = host.load_all("providers")

    (line,) = [str(problem) for problem in host.problems()]
    assert "\n" not in line
    assert line.startswith("providers plugin 'acme.bad.v1', declared by acme-bad 1.0: ")
    assert reason in line
    assert remedy in line
    assert "canary" not in line
    assert {"acme.good.v1", "modelmesh.simulator.v1", "openai.llm.v1"} <= set(usable)
    assert "acme.bad.v1" not in usable


def test_a_broken_plugin_is_an_error_when_it_is_needed(site: Any, host: PluginHost) -> None:
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


def test_a_keyboard_interrupt_is_not_a_plugins_fault(site: Any, host: PluginHost) -> None:
    """Whoever presses Ctrl-C during an import wants to stop."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad="raise KeyboardInterrupt")

    with pytest.raises(KeyboardInterrupt):
        host.load_all("providers")


# --- two of one ID -----------------------------------------------------------------------------


def test_two_plugins_that_claim_one_id_are_both_named(host: PluginHost, good: Publish) -> None:
    """Neither wins; an ID of one of them alone still works."""
    good("acme.chat.v1", "acme-one")
    good("acme.chat.v1", "acme-two")
    good()

    with pytest.raises(PluginError, match=r"acme-(one|two) 1\.0 and acme-(one|two) 1\.0 both offer") as caught:
        host.find("providers", "acme.chat.v1")

    assert "try: keep one of them: pip uninstall acme-one, or pip uninstall acme-two" in caught.value.message
    assert {problem.plugin.distribution for problem in host.problems()} == {"acme-one", "acme-two"}
    assert host.find("providers", "acme.good.v1")


def test_a_stranger_cannot_take_a_bundled_id(host: PluginHost, good: Publish) -> None:
    """A plugin under a bundled connector's ID is a conflict, never a replacement."""
    good("openai.llm.v1", "acme-openai")

    with pytest.raises(PluginError, match=r"both offer 'openai\.llm\.v1'") as caught:
        host.find("providers", "openai.llm.v1")

    assert caught.value.message.endswith("try: pip uninstall acme-openai")
    assert {problem.remedy for problem in host.problems()} == {"pip uninstall acme-openai"}


def test_every_stranger_that_takes_a_bundled_id_is_to_go(host: PluginHost, good: Publish) -> None:
    """Never the distribution that the command itself comes from."""
    good("openai.llm.v1", "acme-one")
    good("openai.llm.v1", "acme-two")

    with pytest.raises(PluginError, match=r"all offer 'openai\.llm\.v1'") as caught:
        host.find("providers", "openai.llm.v1")

    assert caught.value.message.endswith("try: pip uninstall acme-one acme-two")


# --- what a plugin needs -----------------------------------------------------------------------


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
    requirement: str, fits: bool, good: Publish
) -> None:
    """Whatever pip was told, the plugin's own requirement on the core is held against the core's version."""
    good(requires=[requirement])
    host = PluginHost(core_version="1.2.3")

    usable = host.load_all("providers")

    assert ("acme.good.v1" in usable) is fits
    assert ("acme_good" in sys.modules) is fits
    if not fits:
        (line,) = [str(problem) for problem in host.problems() if problem.plugin.distribution == "acme-good"]
        assert "it is built for modelmesh-router" in line
        assert "and this is 1.2.3; pip install --upgrade acme-good" in line


def test_a_missing_optional_library_is_answered_with_the_extra_that_brings_it(site: Any, host: PluginHost) -> None:
    """The plugin's own metadata says which extra holds the library."""
    site.publish(
        "acme-bad",
        {"providers": {"acme.bad.v1": "acme_bad:Provider"}},
        requires=["acme-wire>=2; extra == 'wire'", "other; extra == 'more'"],
        acme_bad="import acme_wire",
    )

    with pytest.raises(PluginError, match=r"try: pip install 'acme-bad\[wire\]'"):
        host.find("providers", "acme.bad.v1")


def test_a_plugin_whose_own_module_is_gone_is_to_be_installed_again(site: Any, host: PluginHost) -> None:
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
def test_a_module_that_no_library_brings_is_the_plugins_own_fault(site: Any, host: PluginHost, source: str) -> None:
    """Nothing is advised to be installed but the plugin itself."""
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad=source)

    (row,) = [row for row in host.list_plugins(["providers"]) if row.id == "acme.bad.v1"]

    assert (row.status, row.needs) == ("broken", "")
    assert row.remedy == "pip install --force-reinstall acme-bad"


# --- metadata ----------------------------------------------------------------------------------


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
def test_metadata_that_cannot_be_read_stops_nobody_else(
    site: Any, host: PluginHost, files: dict[str, str], good: Publish
) -> None:
    """A damaged ``dist-info`` folder costs its own plugin only."""
    site.publish_raw("acme-bad", **files)
    good()

    usable = host.load_all("providers")

    assert {"acme.good.v1", "modelmesh.simulator.v1"} <= set(usable)
    assert "acme.bad.v1" not in usable


def test_an_unreadable_list_of_plugins_is_listed_with_its_remedy(site: Any, host: PluginHost) -> None:
    """Whoever looks for the missing plugin sees why it is not there."""
    site.publish_raw("acme-bad", **{"entry_points.txt": "[modelmesh.providers]\nno equals sign\n"})

    (row,) = [row for row in host.list_plugins(["providers"]) if row.status == "broken"]

    assert (row.distribution, row.id) == ("acme_bad", "(unreadable)")
    assert "its entry_points.txt cannot be read" in row.reason
    assert row.remedy == "pip install --force-reinstall acme_bad"
