"""What the server answers instead of a result, as `StateStoreError` with a remedy."""

from __future__ import annotations

import re

import psycopg

from modelmesh.errors import StateStoreError

AGAIN = frozenset({"40001", "40P01", "23505"})
"""Refusals that a second try gets past: serialization failure, deadlock, and two who created the same at once."""

NOT_DONE = frozenset({"57P01", "57P02", "57P03", "57P05"})
"""The server ended the connection before the statement was done."""

ELSEWHERE = frozenset({"25006"})
"""Refusals that another connection may not meet: the name may lead to another server by now, and what a role or a
database is allowed is read when a session begins."""

_REMEDIES: dict[str, tuple[str, bool]] = {
    "28P01": ("refused the password; see storage.url and storage.password", False),
    "28000": ("does not let this user in; see storage.url and the server's pg_hba.conf", False),
    "3D000": ("has no such database; create it, or name another in storage.url", False),
    "42501": (
        "does not allow this user what the store needs: its own schema (CREATE SCHEMA ... AUTHORIZATION this user, or"
        " GRANT CREATE ON DATABASE)",
        False,
    ),
    "25006": ("takes no writes: it is a standby or read-only; name the primary in storage.url", True),
    "53100": ("has no room left on its disk; free it there", True),
    "53200": ("has no memory left; see its log", True),
    "53300": ("takes no more connections; raise its max_connections, or use fewer processes", True),
    "57014": ("took too long for a statement and stopped it", True),
    "55P03": ("took too long to get at rows that others hold", True),
    "57P01": ("is shutting down, or ended this connection", True),
    "57P02": ("is recovering from a crash", True),
    "57P03": ("is starting up, or shutting down", True),
    "42939": ("keeps names that begin with pg_ for itself; name another schema in storage.schema", False),
    "42P07": ("has tables of others in the store's schema; name another in storage.schema", False),
    "42P01": ("lacks tables of the store's schema; drop the schema to have it made again", False),
    "42883": ("lacks functions of the store's schema; drop the schema to have it made again", False),
}


def failure(place: str, error: BaseException) -> StateStoreError:
    """Describe what befell a call.

    Args:
        place: Where the database is.
        error: psycopg's, the system's, or `TimeoutError`.
    """
    if isinstance(error, StateStoreError):
        return StateStoreError(error.message, details=error.details, retryable=error.retryable)
    state = state_of(error)
    if state in _REMEDIES:
        what, retryable = _REMEDIES[state]
    elif state in AGAIN:
        what, retryable = "is too busy: others change the same rows all the time", True
    elif isinstance(error, psycopg.OperationalError) and not state:
        what, retryable = _connecting(error)
    elif isinstance(error, TimeoutError):
        what, retryable = "did not answer in time; is it overloaded or cut off?", True
    elif isinstance(error, OSError | UnicodeError | psycopg.InterfaceError):
        what, retryable = "cannot be reached; is it running, and is storage.url right?", True
    else:
        what, retryable = f"refused a statement of the store's: {type(error).__name__} {state}", False
    code = state or type(error).__name__
    return StateStoreError(f"PostgreSQL at {place} {what}", details={"code": code}, retryable=retryable)


def state_of(error: BaseException) -> str:
    """The server's five-letter code; empty when the error is not the server's."""
    return (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""


def _connecting(error: psycopg.OperationalError) -> tuple[str, bool]:
    """Of failures to connect the library passes on the server's words without its code."""
    words = str(error)
    if "certificate verify failed" in words or "root certificate file" in words:
        return "shows a certificate that is not trusted here; name its authority by sslrootcert in storage.url", False
    if "does not support SSL" in words:
        return "speaks no TLS, which sslmode in storage.url asks for; turn it on there, or change sslmode", False
    if refused := _REFUSED.search(words):
        # Not its value, which may be a piece of a password.
        return (
            f"cannot be asked: storage.url has a value for {refused[1] or refused[2]} that is none; correct it",
            False,
        )
    if "certificate file" in words or "private key file" in words:
        return "cannot be asked: a certificate file cannot be read; see sslcert and sslkey in storage.url", False
    if "does not exist" in words:
        return _REMEDIES[
            "3D000" if "database" in words.partition("does not exist")[0].rpartition("FATAL")[2] else "28000"
        ]
    for part, state in _WORDS.items():
        if part in words:
            return _REMEDIES[state]
    if "FATAL:" in words:
        return "answers, but refuses connections; see its log, and the parameters of storage.url", False
    return "cannot be reached; is it running, and is storage.url right?", True


_REFUSED = re.compile(r'invalid (?:integer value ".*" for connection option "(\w+)"|(\w+)(?: number| value)?: ")')
"""What the library says of a parameter whose value it does not take."""

_WORDS = {
    "password authentication failed": "28P01",
    "no password supplied": "28P01",
    "no pg_hba.conf entry": "28000",
    "too many clients": "53300",
    "remaining connection slots": "53300",
    "too many connections": "53300",
    "starting up": "57P03",
    "shutting down": "57P03",
    "in recovery mode": "57P02",
    "not yet accepting connections": "57P03",
}
