"""Code of plugins that is called while a mesh lives: hooks and constructors; what it raises takes nobody down."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from modelmesh import CompletionRequest, ModelMesh
from modelmesh.errors import ConfigurationError, PluginError
from modelmesh.interfaces.observability import Severity
from modelmesh.plugins import PluginHost

Publish = Callable[..., None]


# --- constructors ------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["raise OSError('canary')", "raise SystemExit"])
def test_a_connector_that_cannot_be_built_is_a_plugin_error(
    site: Any, host: PluginHost, failure: str, working: str
) -> None:
    """It names connector, class and place; what the constructor said stays in the cause, as it was handed keys."""
    source = working.replace("async def complete", f"def __init__(self, settings): {failure}\n\n    async def complete")
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad=source)

    with pytest.raises(PluginError, match=r"cannot build provider 'acme\.bad\.v1'") as caught:
        host.build("providers", "acme.bad.v1", None)

    assert re.search(
        r"reason: acme_bad\.Provider raised (OSError|SystemExit) at acme_bad\.py:\d+ in __init__\n",
        caught.value.message,
    )
    assert "canary" not in caught.value.message


def test_an_error_of_ours_from_a_constructor_goes_through(site: Any, host: PluginHost, working: str) -> None:
    """A connector may refuse its settings with its own words."""
    source = working.replace(
        "async def complete",
        "def __init__(self, settings):\n        from modelmesh import ConfigurationError\n"
        "        raise ConfigurationError('give a region')\n\n    async def complete",
    )
    site.publish("acme-bad", {"providers": {"acme.bad.v1": "acme_bad:Provider"}}, acme_bad=source)

    with pytest.raises(ConfigurationError, match="give a region"):
        host.build("providers", "acme.bad.v1", None)


# --- hooks -------------------------------------------------------------------------------------


NOTING = """
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


class Reporter:"""


@pytest.fixture
def living(site: Any, working: str) -> Publish:
    """Publish a provider that notes when the mesh comes and goes, does something then, and offers this."""

    def publish(name: str, then: str = "pass", *, offer: str = '{"": cls}') -> None:
        noting = NOTING.replace("{name}", name).replace("{then}", then)
        module = working.replace("class Reporter:", noting).replace('{"": cls}', offer)
        entry_points = {"providers": {f"acme.{name}.v1": f"acme_{name}:Provider"}}
        site.publish(f"acme-{name}", entry_points, **{f"acme_{name}": module})

    return publish


def test_loaded_plugins_are_told_when_a_mesh_starts_and_ends(living: Publish, host: PluginHost) -> None:
    """Only the loaded ones: a plugin that nobody named knows of no mesh."""
    living("one")
    living("idle")
    host.find("providers", "acme.one.v1")
    mesh: Any = []

    failures = [*host.startup(mesh), *host.shutdown(mesh)]

    assert mesh == ["one up", "one down"]
    assert failures == []


@pytest.mark.parametrize("then", ["raise OSError('sk-canary0123456789abcdef')", "raise SystemExit"])
def test_a_startup_hook_that_raises_is_a_line_and_the_others_are_called(
    living: Publish, host: PluginHost, then: str
) -> None:
    """The line names the plugin and the hook, and nothing of the message, which may hold anything."""
    living("bad", then)
    living("one")
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


def test_hooks_that_raise_are_traced_as_warnings_and_the_request_is_answered(site: Any, host: PluginHost) -> None:
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


def test_a_refused_plugin_is_not_called_later(living: Publish, host: PluginHost) -> None:
    """Quarantine takes back every hook of a plugin, not only the one that failed."""
    living("bad", offer="None")
    host.load_all("providers")
    mesh: Any = []

    host.startup(mesh)

    assert mesh == []


def test_attempts_are_shown_to_plugins_that_ask_for_them(site: Any, host: PluginHost, working: str) -> None:
    """A hook may take fewer arguments than it is offered; without such hooks the host says so."""
    hook = "\n    @classmethod\n    @hookimpl\n    def modelmesh_before_attempt(cls, context): context['seen'] = True\n"
    site.publish(
        "acme-hooks",
        {"providers": {"acme.hooks.v1": "acme_hooks:Provider"}},
        acme_hooks=working.replace("\n\n\nclass Reporter", f"\n{hook}\n\nclass Reporter"),
    )
    before = host.has_attempt_hooks
    host.find("providers", "acme.hooks.v1")
    context: dict[str, Any] = {}

    failures = host.before_attempt(None, context)  # type: ignore[arg-type]  # the hook looks at the context only

    assert (before, host.has_attempt_hooks) == (False, True)
    assert context == {"seen": True}
    assert failures == []
