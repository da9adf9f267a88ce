"""What the server is told: where to listen, who may call, and its limits."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from modelmesh.errors import ConfigurationError, unknown_name

if TYPE_CHECKING:
    from modelmesh.config.configuration import Configuration

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
SPEECH = "/v1/audio/speech"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
IMAGES = "/v1/images/generations"
MODELS = "/v1/models"
METRICS = "/metrics"
STATS = "/modelmesh/stats"
HEALTH = "/health"

ENDPOINTS = (CHAT, EMBEDDINGS, SPEECH, TRANSCRIPTIONS, IMAGES, MODELS, METRICS, STATS, HEALTH)

KEEP_ALIVE_SECONDS = 15.0
MAX_BODY_BYTES = 32 * 1024 * 1024
DRAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of one server.

    Attributes:
        host: Address to listen on. One that is not loopback needs a key.
        port: Port to listen on; 0 for any free one.
        keys: Bearer keys, any of which lets a caller in. None is asked for when there are none.
        endpoints: Paths that are served besides ``/health``; all when empty.
        origins: Web origins whose pages may call, ``*`` for any; empty for none.
        list_models: Whether ``/v1/models`` shows models besides pools.
        keep_alive: Seconds of silence in a stream after which a comment is sent; 0 for never.
        max_body: Bytes a request's body may have.
        drain: Seconds that running requests get to finish when the server is stopped.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    keys: tuple[SecretStr, ...] = ()
    endpoints: tuple[str, ...] = ()
    origins: tuple[str, ...] = ("*",)
    list_models: bool = True
    keep_alive: float = KEEP_ALIVE_SECONDS
    max_body: int = MAX_BODY_BYTES
    drain: float = DRAIN_SECONDS

    def __post_init__(self) -> None:
        for path in self.endpoints:
            if path not in ENDPOINTS:
                raise ConfigurationError(f"proxy.endpoints: {unknown_name('endpoint', path, ENDPOINTS)}")

    def serves(self, path: str) -> bool:
        """Whether this endpoint is switched on."""
        return path == HEALTH or not self.endpoints or path in self.endpoints

    def require_key_for(self, addresses: Sequence[str]) -> None:
        """Refuse to listen where others than this machine could call without a key.

        Args:
            addresses: The IP addresses that ``host`` stands for.

        Raises:
            ConfigurationError: One is not loopback, and there is no key.
        """
        if not self.keys and not all(is_loopback(address) for address in addresses):
            raise ConfigurationError(
                f"refusing to listen on {self.host} without a key: whoever reaches it could spend your providers' "
                "money; set proxy.auth.tokens or --api-key-env NAME, or listen on 127.0.0.1"
            )


def settings_of(
    configuration: Configuration,
    *,
    host: str | None = None,
    port: int | None = None,
    keys: Sequence[SecretStr] = (),
    keep_alive: float = KEEP_ALIVE_SECONDS,
    max_body: int = MAX_BODY_BYTES,
    drain: float = DRAIN_SECONDS,
) -> ServerSettings:
    """Return the settings a configuration holds; a host or port given wins, keys given are added to its own."""
    proxy = configuration.proxy
    own = proxy.auth.tokens if proxy.auth.is_required else ()
    return ServerSettings(
        proxy.host if host is None else host,
        proxy.port if port is None else port,
        (*own, *keys),
        proxy.endpoints,
        proxy.cors.origins if proxy.cors.enabled else (),
        configuration.routing.allow_model_names,
        keep_alive,
        max_body,
        drain,
    )


def is_loopback(address: str) -> bool:
    """Whether an IP address reaches this machine only; anything that is no IP address does not count as one."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
