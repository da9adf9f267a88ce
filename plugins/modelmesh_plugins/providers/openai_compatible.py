"""Any API that speaks OpenAI's language, by configuration alone; and local servers, by where the environment says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelmesh_cdk.openai_compatible import OpenAICompatibleConfig, OpenAICompatibleProvider

_PORTS = {"OLLAMA_HOST": 11434, "LMSTUDIO_HOST": 1234, "VLLM_HOST": 8000, "LOCALAI_HOST": 8080}
"""Where local servers listen unless they are told otherwise, by the variable that says where."""

_ANYWHERE = ("0.0.0.0", "::", "[::]")  # noqa: S104  (read, to be replaced: nothing listens on it)


class GenericOpenAIProvider(OpenAICompatibleProvider[OpenAICompatibleConfig]):
    """Any server with OpenAI's chat API: give it ``base_url``, a key if it wants one, and name its models."""

    environment_variables = tuple(_PORTS)

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> Mapping[str, Any] | None:
        """Find the first local server that a variable names; which models it has loaded, only the caller knows."""
        for variable, port in _PORTS.items():
            if environ.get(variable, "").strip():
                return {"provider": {"base_url": local_url(environ[variable], port)}, "any_model": True}
        return None


def local_url(host: str, port: int) -> str:
    """Return the URL of a server that was named as such servers are: ``HOST``, ``HOST:PORT`` or a whole URL.

    Args:
        host: As it stands in the environment; an address to listen on everywhere is this machine.
        port: The one it has if it names none.
    """
    scheme, found, rest = host.strip().rstrip("/").partition("://")
    if not found:
        scheme, rest = "http", scheme
    address, slash, path = rest.partition("/")
    name, colon, number = address.rpartition(":")
    if not colon or not number.isdecimal():
        # Without a scheme's own port, which is what a whole URL means.
        name, number = address, "" if found else str(port)
    name = "127.0.0.1" if name in (*_ANYWHERE, "") else name
    return f"{scheme}://{name}{f':{number}' if number else ''}{slash}{path}"
