"""Settings come from the configuration, and a door nobody guards opens to this machine only."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from modelmesh.config import load_config
from modelmesh.errors import ConfigurationError
from modelmesh.plugins import PluginHost
from modelmesh_plugins.server.settings import ServerSettings, is_loopback, settings_of


def loaded(**proxy: Any) -> Any:
    """Load a configuration with this ``proxy`` section."""
    document = {
        "providers": {"sim": {"connector": "modelmesh.simulator.v1"}},
        "models": {"m": {"provider": "sim", "capabilities": ["chat-completion"]}},
        "pools": {"chat": {"capability": "chat-completion"}},
        "proxy": proxy,
    }
    return load_config(document, connectors=PluginHost(), environ={"DOOR": "door-key"})


def test_by_default_it_listens_on_this_machine_only() -> None:
    """127.0.0.1:8080, no key."""
    settings = settings_of(loaded())

    assert (settings.host, settings.port, settings.keys) == ("127.0.0.1", 8080, ())


def test_keys_of_the_configuration_and_of_the_call_both_count() -> None:
    """Tokens may be references to secrets; none is shown."""
    settings = settings_of(loaded(auth={"tokens": ["${secrets:DOOR}"]}), keys=[SecretStr("another")])

    assert [key.get_secret_value() for key in settings.keys] == ["door-key", "another"]
    assert "door-key" not in repr(settings)


def test_tokens_that_are_switched_off_do_not_count() -> None:
    """``auth.enabled: false`` means no key, and so loopback only."""
    settings = settings_of(loaded(auth={"enabled": False, "tokens": ["door-key"]}))

    assert settings.keys == ()


def test_what_is_given_wins_over_the_configuration() -> None:
    """As on the command line; port 0 is a port."""
    settings = settings_of(loaded(host="127.0.0.2", port=9000), host="127.0.0.3", port=0)

    assert (settings.host, settings.port) == ("127.0.0.3", 0)


def test_an_unknown_endpoint_is_refused_with_the_near_match() -> None:
    """A typo would otherwise switch everything off in silence."""
    with pytest.raises(ConfigurationError, match="did you mean '/v1/models'"):
        settings_of(loaded(endpoints=["/v1/model"]))


@pytest.mark.parametrize("addresses", [["0.0.0.0"], ["::"], ["192.168.1.2"], ["127.0.0.1", "10.0.0.1"]])
def test_a_foreign_address_needs_a_key(addresses: list[str]) -> None:
    """Without one the refusal says why and what to do; with one it may listen."""
    with pytest.raises(ConfigurationError, match=r"refusing to listen on .* --api-key-env"):
        ServerSettings(host="example").require_key_for(addresses)

    ServerSettings(keys=(SecretStr("k"),)).require_key_for(addresses)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("localhost", False)],
)
def test_loopback_is_known_by_address(address: str, expected: bool) -> None:
    """A name counts only by what it resolves to."""
    assert is_loopback(address) is expected
