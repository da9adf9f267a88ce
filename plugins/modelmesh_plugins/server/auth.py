"""Who may call: bearer keys."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256

from pydantic import SecretStr

from modelmesh_plugins.server.errors import ApiError


class BearerKeys:
    """Keys that let a caller in; with none of them, everybody is."""

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        # Digests have one length, so that comparing takes as long for a key of the wrong length.
        self._digests = [sha256(key.get_secret_value().strip().encode()).digest() for key in keys]

    def __repr__(self) -> str:
        return f"BearerKeys({len(self._digests)})"

    def check(self, authorization: bytes | None) -> None:
        """Let the caller in.

        Args:
            authorization: Value of the ``Authorization`` header as it came, or None.

        Raises:
            ApiError: 401; the key is missing or wrong.
        """
        if not self._digests:
            return
        scheme, _, key = (authorization or b"").strip().partition(b" ")
        key = key.strip()
        if scheme.lower() != b"bearer" or not key:
            raise _refused("no key was sent; send it as a bearer token in the Authorization header")
        given = sha256(key).digest()
        # Every key is compared, whichever fits: the time taken tells nothing.
        fits = False
        for digest in self._digests:
            fits |= hmac.compare_digest(given, digest)
        if not fits:
            raise _refused("the key is not known here")


def _refused(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
