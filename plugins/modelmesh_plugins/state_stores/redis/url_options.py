"""What may follow the host and the question mark of a Redis URL, and what to write instead of the rest.

redis-py takes what is no number for database 0, where another installation's limits may be; and whatever stands behind
the question mark as an argument of its own, so that a connection would fail when it is first needed, or answer in
another form than the store reads.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

from modelmesh.errors import unknown_name

_ANYWHERE = frozenset({"db", "username", "password", "socket_read_size", "health_check_interval"})
_TLS = frozenset(
    f"ssl_{name}"
    for name in [
        "ca_certs",
        "ca_data",
        "ca_path",
        "cert_reqs",
        "certfile",
        "check_hostname",
        "ciphers",
        "exclude_verify_flags",
        "include_verify_flags",
        "keyfile",
        "min_version",
        "password",
    ]
)
_TAKEN = {"redis": _ANYWHERE | {"socket_keepalive"}, "unix": _ANYWHERE}
_TAKEN["rediss"] = _TAKEN["redis"] | _TLS

_DATABASE = re.compile(r"/?[0-9]*")

_STORES_OWN = "leave it out: the store sets it itself"
_NOT_AGAIN = "leave it out: the store itself decides what is tried again"
_REMEDIES = {
    "socket_timeout": "set storage.timeout instead",
    "timeout": "set storage.timeout instead",
    "socket_connect_timeout": "set storage.connect_timeout instead",
    "max_connections": "leave it out: the store needs one or two connections of each event loop",
    "retry": _NOT_AGAIN,
    "retry_on_error": _NOT_AGAIN,
    "retry_on_timeout": _NOT_AGAIN,
    "host": "write it before the question mark",
    "port": "write it before the question mark",
    "path": "write it before the question mark",
    "ssl": "begin the URL with rediss:// instead",
    "socket_keepalive": "leave it out: it is nothing of a unix socket's",
    **dict.fromkeys(_TLS, "begin the URL with rediss://, or leave it out"),
    **dict.fromkeys(
        [
            "client_name",
            "connection_class",
            "credential_provider",
            "decode_responses",
            "driver_info",
            "encoder_class",
            "encoding",
            "encoding_errors",
            "event_dispatcher",
            "legacy_responses",
            "lib_name",
            "lib_version",
            "parser_class",
            "protocol",
            "redis_connect_func",
            "socket_keepalive_options",
            "socket_type",
        ],
        _STORES_OWN,
    ),
}


def wrong_options(url: str) -> str | None:
    """Say what in a URL connections cannot be made with, and what to do; None when all is well.

    What it says holds no value, and no name that might be a piece of a password.
    """
    parts = urlsplit(url)
    if parts.fragment:
        return "nothing follows a # in it; in a password write # as %23"
    if parts.scheme != "unix" and not _DATABASE.fullmatch(unquote(parts.path)):
        return "what follows the host is the number of a database, such as /0; in a password write / as %2F"
    taken = _TAKEN[parts.scheme]
    names = parse_qs(parts.query)
    wrong = [name for name in names if name not in taken]
    if "@" in parts.query and (not names or any(name not in _REMEDIES for name in wrong)):
        return "what follows its question mark are no options; in a password write ? as %3F, # as %23 and / as %2F"
    problems = [
        f"option {name!r} cannot stand in the URL: {_REMEDIES[name]}"
        if name in _REMEDIES
        else unknown_name("option in the URL", name, sorted(taken), limit=len(taken))
        for name in wrong
    ]
    return "; ".join(problems) or None
