"""What goes wrong below HTTP, as the errors it means: httpx's exceptions, and aiohttp's.

Of an exception only its type and its text are kept, and not even that where it may hold a header: its frames and
attributes hold the request's, the key among them.
"""

from __future__ import annotations

import httpx

from modelmesh.errors import MalformedResponseError, ProviderConnectionError, ProviderError, ProviderTimeoutError


def understood(error: Exception) -> ProviderError | None:
    """Return the error an exception of a carrier means; None for one that is no carrier's."""
    if isinstance(error, httpx.HTTPError):
        return understand_http_error(error)
    if type(error).__module__.partition(".")[0] == "aiohttp":
        return understand_aiohttp_error(error)
    if isinstance(error, (UnicodeError, httpx.InvalidURL)):
        return ProviderConnectionError(f"cannot connect: the host's name is none: {error}", sent=False)
    return None


def understand_http_error(error: httpx.HTTPError) -> ProviderError:
    """Return what a failure of an httpx transport means."""
    text = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return ProviderTimeoutError(f"no connection in time: {text}", clock="connect", sent=False)
    if isinstance(error, httpx.PoolTimeout):
        return ProviderTimeoutError("no free connection in time", clock="connect", sent=False)
    if isinstance(error, httpx.TimeoutException):
        return ProviderTimeoutError(f"the provider went silent: {text}", clock="idle")
    if isinstance(error, httpx.DecodingError):
        return MalformedResponseError(f"the compressed body is broken: {text}")
    if isinstance(error, httpx.ConnectError):
        return ProviderConnectionError(f"cannot connect: {text}", sent=False)
    return ProviderConnectionError(f"the connection broke: {text}")


def understand_aiohttp_error(error: Exception) -> ProviderError:
    """Return what an exception of aiohttp means."""
    name = type(error).__name__
    if name == "SocketTimeoutError":
        return ProviderTimeoutError("the provider went silent", clock="idle")
    if isinstance(error, TimeoutError):
        return ProviderTimeoutError("no connection in time", clock="connect", sent=False)
    for attribute in ("os_error", "certificate_error"):
        reason = getattr(error, attribute, None)
        if reason is not None:
            # The exception's own text shows the address of a TLS context instead.
            return ProviderConnectionError(f"cannot connect: {reason}", sent=False)
    if isinstance(error, ValueError):
        return ProviderConnectionError("cannot connect: the URL is none", sent=False)
    if any(type(each).__name__ == "ContentEncodingError" for each in (error, error.__cause__, error.__context__)):
        return MalformedResponseError("the compressed body is broken")
    if hasattr(error, "request_info"):
        return ProviderConnectionError(f"the answer is no HTTP: {name}")
    return ProviderConnectionError(f"the connection broke: {str(error) or name}")
