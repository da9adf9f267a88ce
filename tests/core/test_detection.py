"""Detection: which installed providers the environment has keys for, as a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

import modelmesh
from modelmesh.capabilities import PREDEFINED_POOLS
from modelmesh.detection import Detection, detected_config
from modelmesh.errors import (
    CapabilityNotFoundError,
    ConfigurationError,
    CreateArgumentError,
    NoProvidersError,
    PluginError,
)
from modelmesh.plugins import PluginHost

CHAT = "generation.text-generation.chat-completion"
SECRET = "canary-0123456789"
WANTED = Detection(capabilities=("chat-completion",))


class Provider:
    """What every provider has."""

    environment_variables: ClassVar[tuple[str, ...]] = ()
    models: ClassVar[tuple[str, ...]] = ()

    async def complete(self, request: object) -> None:
        """Answer."""

    def stream(self, request: object) -> None:
        """Answer in parts."""

    async def close(self) -> None:
        """Release."""

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> Mapping[str, Any] | None:
        """Look for the first variable that is set."""
        for name in cls.environment_variables:
            if environ.get(name):
                return {
                    "provider": {"api_key": f"${{secrets:{name}}}"},
                    "models": {each: {"capabilities": [CHAT]} for each in cls.models},
                }
        return None


class Acme(Provider):
    """Two variables, two models."""

    environment_variables = ("ACME_API_KEY", "ACME_TOKEN")
    models = ("acme-large", "acme-small")


class Zeta(Provider):
    """One of its models is Acme's, too."""

    environment_variables = ("ZETA_API_KEY",)
    models = ("zeta-1", "acme-small")


class Undetectable:
    """Had by name only."""

    complete, stream, close = Provider.complete, Provider.stream, Provider.close


class Faulty(Provider):
    """Fails when it is asked."""

    environment_variables = ("FAULTY_API_KEY",)

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> Mapping[str, Any] | None:
        """Fail."""
        raise OSError(f"no disk {SECRET}")


@pytest.fixture
def host() -> PluginHost:
    """Two vendors, no installed package."""
    host = PluginHost(lambda group: ())
    host.register("providers", "acme.chat.v1", Acme)
    host.register("providers", "zeta.chat.v1", Zeta)
    return host


def test_a_key_in_the_environment_brings_its_provider_and_models(host: PluginHost) -> None:
    """The configuration refers to the key and never holds it."""
    config, keys = detected_config(WANTED, host, {"ACME_API_KEY": SECRET, "OTHER": "x"})

    assert config == {
        "providers": {"acme.chat.v1": {"connector": "acme.chat.v1", "api_key": "${secrets:ACME_API_KEY}"}},
        "models": {
            "acme-large": {"provider": "acme.chat.v1", "capabilities": [CHAT]},
            "acme-small": {"provider": "acme.chat.v1", "capabilities": [CHAT]},
        },
        "pools": {"chat-completion": {"capability": CHAT, "strategy": "stick-until-failure"}},
    }
    assert keys == {}


def test_several_keys_bring_several_providers(host: PluginHost) -> None:
    """A model that two offer belongs to the first."""
    config, _ = detected_config(WANTED, host, {"ACME_TOKEN": SECRET, "ZETA_API_KEY": SECRET})

    assert list(config["providers"]) == ["acme.chat.v1", "zeta.chat.v1"]
    assert {name: entry["provider"] for name, entry in config["models"].items()} == {
        "acme-large": "acme.chat.v1",
        "acme-small": "acme.chat.v1",
        "zeta-1": "zeta.chat.v1",
    }


@pytest.mark.parametrize("environ", [{}, {"ACME_API_KEY": ""}], ids=["none", "empty"])
def test_without_a_key_the_message_names_the_variables(host: PluginHost, environ: dict[str, str]) -> None:
    """An empty value is none. The error is a `RuntimeError` as well."""
    with pytest.raises(NoProvidersError, match="ACME_API_KEY, ACME_TOKEN, ZETA_API_KEY") as caught:
        detected_config(WANTED, host, environ)

    assert isinstance(caught.value, RuntimeError)
    assert "create(config='mesh.yaml')" in caught.value.message


def test_without_any_provider_the_message_names_no_variables() -> None:
    """There are none to name."""
    with pytest.raises(NoProvidersError) as caught:
        detected_config(WANTED, PluginHost(lambda group: ()), {})

    assert "set one of ," not in caught.value.message
    assert "api_keys" in caught.value.message


# --- pools --------------------------------------------------------------------------


def test_each_capability_gets_a_pool_under_the_name_it_was_asked_by(host: PluginHost) -> None:
    """So that the name can be used as ``model``."""
    wanted = Detection(capabilities=("chat", "generation.text-generation"), strategy="round-robin")

    config, _ = detected_config(wanted, host, {"ACME_API_KEY": SECRET})

    assert config["pools"] == {
        "chat": {"capability": CHAT, "strategy": "round-robin"},
        "generation.text-generation": {"capability": "generation.text-generation", "strategy": "round-robin"},
    }


@pytest.mark.parametrize("pool", list(PREDEFINED_POOLS))
def test_a_predefined_pool_can_be_asked_for(host: PluginHost, pool: str) -> None:
    """By name, and alone."""
    config, _ = detected_config(Detection(pool=pool), host, {"ACME_API_KEY": SECRET})

    assert config["pools"] == {pool: {"capability": PREDEFINED_POOLS[pool], "strategy": "stick-until-failure"}}


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        (Detection(), CreateArgumentError, "specify capabilities, a pool, or a configuration"),
        (Detection(capabilities=("chat-completoin",)), CapabilityNotFoundError, "did you mean 'chat-completion'"),
        (Detection(pool="text-genration"), ConfigurationError, "did you mean 'text-generation'"),
        (Detection(("chat",), providers=("amce",)), ConfigurationError, "unknown provider 'amce'; did you mean 'acme'"),
        (Detection(("chat",), providers=("acme", "nobody")), ConfigurationError, "unknown provider 'nobody'"),
        (Detection(("chat",), models=("acme-smal",)), ConfigurationError, "did you mean 'acme-small'"),
        (Detection(("chat",), models=("acme-small", "zeta-1")), ConfigurationError, "unknown model 'zeta-1'"),
        (Detection(("chat",), api_keys={"amce": SECRET}), ConfigurationError, "did you mean 'acme'"),
    ],
    ids=["nothing", "capability", "pool", "provider", "one provider", "model", "model without key", "key"],
)
def test_what_does_not_exist_is_answered_with_the_near_match(
    host: PluginHost, wanted: Detection, error: type[Exception], words: str
) -> None:
    """Nothing that was asked for is dropped in silence, and no key is shown."""
    with pytest.raises(error, match=words) as caught:
        detected_config(wanted, host, {"ACME_API_KEY": SECRET})

    assert SECRET not in str(caught.value)


# --- choosing ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zeta", "zeta.chat.v1"])
def test_providers_can_be_chosen_by_vendor_or_id(host: PluginHost, name: str) -> None:
    """The others are left out, key or not."""
    wanted = Detection(("chat-completion",), providers=(name,))

    config, _ = detected_config(wanted, host, {"ACME_API_KEY": SECRET, "ZETA_API_KEY": SECRET})

    assert list(config["providers"]) == ["zeta.chat.v1"]


def test_a_chosen_provider_without_a_key_is_told_its_variables(host: PluginHost) -> None:
    """And not those of the others."""
    wanted = Detection(("chat-completion",), providers=("zeta",))

    with pytest.raises(NoProvidersError, match="set ZETA_API_KEY,") as caught:
        detected_config(wanted, host, {"ACME_API_KEY": SECRET})

    assert "ACME" not in caught.value.message


def test_models_can_be_chosen_and_keep_the_order_they_were_named_in(host: PluginHost) -> None:
    """Their order is what a strategy goes by."""
    wanted = Detection(("chat-completion",), models=("zeta-1", "acme-small"))

    config, _ = detected_config(wanted, host, {"ACME_API_KEY": SECRET, "ZETA_API_KEY": SECRET})

    assert list(config["models"]) == ["zeta-1", "acme-small"]


@pytest.mark.parametrize("name", ["acme", "acme.chat.v1", "ACME_API_KEY"])
def test_keys_can_be_passed_in_by_vendor_id_or_variable(host: PluginHost, name: str) -> None:
    """They stand in for the environment, which is not looked at then."""
    wanted = Detection(("chat-completion",), api_keys={name: SECRET})

    config, keys = detected_config(wanted, host, {"ZETA_API_KEY": "from the environment"})

    assert list(config["providers"]) == ["acme.chat.v1"]
    assert keys == {"ACME_API_KEY": SECRET}
    assert SECRET not in str(config)


# --- plugins that cannot be asked ---------------------------------------------------------


def test_a_provider_without_detection_is_passed_over(host: PluginHost) -> None:
    """It is had by a configuration that names it."""
    host.register("providers", "mute.chat.v1", Undetectable)

    config, _ = detected_config(WANTED, host, {"ACME_API_KEY": SECRET})

    assert list(config["providers"]) == ["acme.chat.v1"]


def test_a_provider_that_fails_when_asked_stops_nobody(host: PluginHost) -> None:
    """The others are found."""
    host.register("providers", "faulty.chat.v1", Faulty)

    config, _ = detected_config(WANTED, host, {"ACME_API_KEY": SECRET})

    assert list(config["providers"]) == ["acme.chat.v1"]


def test_a_provider_that_fails_when_asked_by_name_is_an_error(host: PluginHost) -> None:
    """It says which and how it failed, and nothing of the message, which may hold anything."""
    host.register("providers", "faulty.chat.v1", Faulty)
    wanted = Detection(("chat-completion",), providers=("faulty",))

    with pytest.raises(PluginError, match=r"provider 'faulty\.chat\.v1' could not be asked .* OSError") as caught:
        detected_config(wanted, host, {"ACME_API_KEY": SECRET})

    assert SECRET not in str(caught.value)


def test_a_named_provider_that_cannot_be_used_is_an_error_with_its_reason() -> None:
    """By ID as by vendor; unnamed, it is passed over."""
    broken = EntryPoint("bad.chat.v1", "no_such_module:Bad", "modelmesh.providers")
    host = PluginHost(lambda group: [broken] if group == broken.group else [])
    host.register("providers", "acme.chat.v1", Acme)

    for name in ("bad", "bad.chat.v1"):
        with pytest.raises(PluginError, match="its module no_such_module is missing"):
            detected_config(Detection(("chat-completion",), providers=(name,)), host, {"ACME_API_KEY": SECRET})

    assert list(detected_config(WANTED, host, {"ACME_API_KEY": SECRET})[0]["providers"]) == ["acme.chat.v1"]


def test_providers_without_models_are_to_be_configured(host: PluginHost) -> None:
    """A local server offers what somebody put on it."""
    host.register("providers", "local.chat.v1", type("Local", (Acme,), {"models": ()}))
    wanted = Detection(("chat-completion",), providers=("local",))

    with pytest.raises(ConfigurationError, match=r"local\.chat\.v1 brings no models; name them in a configuration"):
        detected_config(wanted, host, {"ACME_API_KEY": SECRET})


def test_a_detected_provider_of_an_installed_package_can_be_built() -> None:
    """From the environment alone to a client, without a request; the key shows nowhere."""
    with modelmesh.create("chat-completion", environ={"OPENAI_API_KEY": SECRET}) as client:
        text = client.describe()

    assert "openai.llm.v1" in text
    assert SECRET not in text


# --- local servers -------------------------------------------------------------------------------


def local(models: tuple[str, ...] | None = None, **environ: str) -> dict[str, Any]:
    """Detect with the installed plugins; return providers and models."""
    wanted = Detection(capabilities=("chat-completion",), models=models)
    found, _ = detected_config(wanted, PluginHost(), environ)
    return {
        "urls": [provider.get("base_url") for provider in found["providers"].values()],
        "models": {name: model["provider"] for name, model in found["models"].items()},
    }


@pytest.mark.parametrize(
    ("variable", "value", "url"),
    [
        ("OLLAMA_HOST", "0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("OLLAMA_HOST", "gpu-box", "http://gpu-box:11434"),
        ("LMSTUDIO_HOST", ":4321", "http://127.0.0.1:4321"),
        ("VLLM_HOST", "https://vllm.example/v1/", "https://vllm.example/v1"),
        ("LOCALAI_HOST", "http://localhost:8080", "http://localhost:8080"),
    ],
)
def test_a_local_server_is_found_by_its_host(variable: str, value: str, url: str) -> None:
    """With or without scheme and port; the models are those the caller names."""
    found = local(("llama3",), **{variable: value})

    assert found == {"urls": [url], "models": {"llama3": "modelmesh.openai-compatible.v1"}}


def test_models_nobody_knows_go_to_the_local_server() -> None:
    """Those of other providers stay theirs."""
    found = local(("llama3", "gpt-4o"), OLLAMA_HOST="localhost", OPENAI_API_KEY="sk-canary-0123456789")

    assert found["models"] == {"llama3": "modelmesh.openai-compatible.v1", "gpt-4o": "openai.llm.v1"}


def test_a_local_server_without_models_is_left_out_where_others_have_some() -> None:
    """Many have its variable set and mean something else by it."""
    found = local(OLLAMA_HOST="localhost", OPENAI_API_KEY="sk-canary-0123456789")

    assert set(found["models"].values()) == {"openai.llm.v1"}
    assert found["urls"] == [None]


def test_a_local_server_alone_says_that_models_are_to_be_named() -> None:
    """What it has loaded is not in the environment."""
    with pytest.raises(NoProvidersError, match=r"models=\[\.\.\.\]"):
        local(OLLAMA_HOST="localhost")


# --- settings of one's own -----------------------------------------------------------------------


def test_providers_may_be_given_with_settings() -> None:
    """They go before what is detected, and need no key in the environment."""
    settings = {"openai": {"api_key": "sk-canary-0123456789", "base_url": "http://127.0.0.1:9/v1"}}
    with modelmesh.create("chat-completion", providers=settings, environ={}) as client:
        connector: Any = client.mesh.get_registry().find_by_provider("openai.llm.v1")[0].provider.connector

        assert client.active_providers() == ["openai.llm.v1"]
        assert connector.config.base_url == "http://127.0.0.1:9/v1"


def test_settings_without_a_key_still_need_one() -> None:
    """The error names the secret."""
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        modelmesh.create("chat-completion", providers={"openai": {"organization": "acme"}}, environ={})


def test_wrong_settings_are_named() -> None:
    """As in a file."""
    with pytest.raises(ConfigurationError, match="colour"):
        modelmesh.create("chat-completion", providers={"openai": {"api_key": "sk-x", "colour": "red"}}, environ={})
