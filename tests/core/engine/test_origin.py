"""Where a connector's own mistake is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import SecretStr

from modelmesh import ModelMesh, PluginHost
from modelmesh._engine.origin import origin_of, told, type_and_place
from modelmesh.errors import AllProvidersExhaustedError, PluginError
from modelmesh_cdk import BaseProviderConfig
from modelmesh_cdk.testing import ScriptedProvider

Build = Callable[..., Any]
SOURCE = """\
import json
from modelmesh_cdk import BaseProvider

class Careless(BaseProvider):
    async def complete(self, request):
        return answer_of({"key": "sk-canary0123456789"})

    async def stream(self, request):
        json.loads("no JSON: sk-canary0123456789")
        yield

def answer_of(reply):
    return reply["sk-canary0123456789"]
"""


@pytest.fixture
def careless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stranger's module whose provider has a mistake."""
    file = tmp_path / "acme_careless.py"
    module = ModuleType("acme_careless")
    monkeypatch.setitem(sys.modules, "acme_careless", module)
    exec(compile(SOURCE, str(file), "exec"), module.__dict__)  # no file has to be found on the path
    return module


class Settings(BaseProviderConfig):
    """A key."""

    api_key: SecretStr


def raised_by(function: Callable[[], object]) -> Exception:
    """Return what it raises."""
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_a_connectors_own_mistake_is_traced_with_its_place_and_no_value(build: Build, careless: ModuleType) -> None:
    """The operator reads the whole path and its words, the caller the place in its package, and nobody a key."""
    world = build(a=careless.Careless(), observe={})

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    lines = [each for each in world.seen().traces if each.component == "provider.a" and "connector" in each.message]
    assert [each.severity.value for each in lines] == ["error"]
    assert lines[0].message.startswith("its connector raised KeyError at ")
    assert lines[0].message.endswith("acme_careless.py:13 in answer_of")
    assert str(caught.value).endswith("provider 'a' raised KeyError at acme_careless.py:13 in answer_of")
    assert lines[0].error == "'***REDACTED***'"
    assert "canary" not in str(caught.value) + "".join(map(str, world.seen().traces))


def test_the_place_is_in_the_connectors_own_package(careless: ModuleType) -> None:
    """Not in the library that it calls with something wrong."""
    stream = careless.Careless().stream(None)

    error = raised_by(lambda: stream.__anext__().send(None))

    assert isinstance(error, json.JSONDecodeError)
    assert origin_of(error, careless.Careless()).endswith("acme_careless.py:9 in stream")


def test_without_a_frame_of_its_own_the_innermost_one_is_named() -> None:
    """Better a library's place than none."""
    error = raised_by(lambda: json.loads("no"))
    error.__traceback__ = error.__traceback__.tb_next.tb_next  # type: ignore[union-attr]  # without this module's

    assert "decoder.py:" in origin_of(error, ScriptedProvider())


def test_an_exception_that_was_never_raised_has_no_place() -> None:
    """A connector may have handed it over."""
    assert origin_of(KeyError("a"), ScriptedProvider()) == ""


def test_a_place_in_a_package_is_told_from_the_package_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed is nobody's business who reads a message."""
    source = "class Thing:\n    def go(self): raise OSError('no')\n"
    for name, file in {"acme_pack": "acme_pack/__init__.py", "acme_pack.wire": "acme_pack/wire.py"}.items():
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, str(tmp_path / file), "exec"), module.__dict__)  # as in `careless`
    places = []

    for name in ("acme_pack", "acme_pack.wire"):
        thing = sys.modules[name].Thing()
        places.append(type_and_place(raised_by(thing.go), type(thing)))

    assert places == ["OSError at acme_pack/__init__.py:2 in go", "OSError at acme_pack/wire.py:2 in go"]


def test_what_a_constructor_says_is_traced_without_the_keys_it_was_handed(sink: Any) -> None:
    """Its message tells the place alone, so its author finds the words there."""

    class Unbuilt(ScriptedProvider):
        config_model = Settings

        def __init__(self, settings: Settings) -> None:
            raise RuntimeError(f"no region for {settings.api_key.get_secret_value()}")

    plugins = PluginHost()
    plugins.register("providers", "acme.unbuilt.v1", Unbuilt)
    mesh = ModelMesh(plugins=plugins, environ={"ACME_KEY": "canary-0123456789"})

    with pytest.raises(PluginError, match=r"Unbuilt raised RuntimeError at .*test_origin\.py:\d+ in __init__\n"):
        mesh.initialize(
            {
                "providers": {"a": {"connector": "acme.unbuilt.v1", "api_key": "${secrets:ACME_KEY}"}},
                "models": {"a": {"provider": "a", "capabilities": ["chat-completion"]}},
                "pools": {"chat": {"capability": "chat-completion"}},
                "observability": {"instance": sink},
            }
        )
    mesh.shutdown()

    (line,) = [each for each in sink.traces if each.message == "could not be built"]
    assert line.metadata == {"cause": "no region for ***REDACTED***"}


class MuteError(Exception):
    """Cannot even say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError(), "KeyError"),
        (MuteError(), "MuteError"),
        (OSError("x" * 1_000), f"OSError: {'x' * 300}"),
        (OSError("one\ntwo"), "OSError: one"),
    ],
    ids=["no words", "words that raise", "many words", "lines"],
)
def test_the_words_of_an_exception_are_told_as_far_as_there_are_any(error: Exception, said: str) -> None:
    """One line, and not a long one."""
    assert told(error, ScriptedProvider, lambda text: text) == said
