"""What the server answers instead of a result, as `StateStoreError` with a remedy."""

from __future__ import annotations

import re
import ssl

from redis import exceptions

from modelmesh.errors import StateStoreError

_REMEDIES: dict[str, tuple[str, bool]] = {
    "READONLY": ("is a replica and takes no writes; name the primary in storage.url", True),
    "MOVED": (
        "is a node of a cluster that does not hold the slot of storage.key_prefix; name the node that does, or a"
        " proxy of the cluster, in storage.url",
        True,
    ),
    "ASK": ("is moving the slot of storage.key_prefix to another node; it works again when that is done", True),
    "TRYAGAIN": ("is moving the slot of storage.key_prefix to another node; it works again when that is done", True),
    "CLUSTERDOWN": ("belongs to a cluster that is down; see CLUSTER INFO there", True),
    "MASTERDOWN": ("is a replica that lost its primary; name the primary in storage.url", True),
    "OOM": ("has no memory left; raise its maxmemory, with the policy noeviction", True),
    "LOADING": ("is still loading its data; it works again when that is done", True),
    "BUSY": ("is busy with another's script; see SCRIPT KILL there", True),
    "MISCONF": ("takes no writes because it cannot save to its disk; see its log and free the disk", True),
    "NOREPLICAS": ("takes no writes for want of replicas; see min-replicas-to-write there", True),
    "NOPERM": (
        "does not allow this user what the store needs: EVALSHA, SCRIPT LOAD, PUBLISH and SUBSCRIBE, and the commands"
        " on strings, hashes and sorted sets, with the keys and channels of storage.key_prefix; see ACL SETUSER there",
        False,
    ),
    "DB index": ("has no database of this number; correct it in storage.url", False),
    "max number of clients": ("takes no more connections; raise its maxclients, or use fewer processes", True),
    "WRONGTYPE": ("has other keys under storage.key_prefix; choose another prefix", False),
    "NOAUTH": ("wants a password; set storage.password", False),
    "WRONGPASS": ("refused the user or the password; see storage.url, storage.username and storage.password", False),
}
_CODE = re.compile(rf"(?:^|[\s-])({'|'.join(_REMEDIES)})\b")


def failure(place: str, error: BaseException) -> StateStoreError:
    """Describe what befell a call.

    Args:
        place: Where the server is.
        error: redis-py's, the system's, or `TimeoutError`.
    """
    code = code_of(error)
    if code:
        what, retryable = _REMEDIES[code]
    elif isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        what, retryable = _REMEDIES["WRONGPASS"]
    elif isinstance(error, exceptions.ResponseError):
        what, retryable = f"refused a command of the store's: {error}", False
    elif isinstance(error, TimeoutError | exceptions.TimeoutError):
        what, retryable = "did not answer in time; is it overloaded or cut off?", True
    elif "CERTIFICATE_VERIFY_FAILED" in str(error):
        what, retryable = "shows a certificate that is not trusted here; set storage.tls_ca_file", False
    elif _misses_a_file(place, error):
        what, retryable = (
            "cannot be asked over TLS: a certificate file cannot be read; see storage.tls_ca_file and the ssl_ options"
            " of storage.url",
            False,
        )
    elif isinstance(error, exceptions.RedisError | OSError):
        what, retryable = "cannot be reached; is it running, and is storage.url right?", True
    else:
        what, retryable = f"could not be used: {type(error).__name__}", False
    return StateStoreError(
        f"Redis at {place} {what}", details={"code": code or type(error).__name__}, retryable=retryable
    )


def code_of(error: BaseException) -> str:
    """The code of the server's refusal, wherever in its words: scripts wrap what their commands answer."""
    if isinstance(error, StateStoreError):
        return str(error.details.get("code", ""))
    if isinstance(error, exceptions.AuthenticationError) and "required" in str(error):
        return "NOAUTH"
    found = _CODE.search(f"{_KINDS.get(type(error).__name__, '')} {error}")
    return found.group(1) if found else ""


def _misses_a_file(place: str, error: BaseException) -> bool:
    """Whether a file that TLS needs is not there, or holds something else; of a unix socket it would be the socket."""
    before = error.__context__
    if isinstance(before, ssl.SSLError):
        return before.library in ("X509", "PEM")
    return isinstance(before, FileNotFoundError | IsADirectoryError | PermissionError) and not place.startswith("unix:")


_KINDS = {
    # redis-py drops the code from the words of some of its errors.
    "ReadOnlyError": "READONLY",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "TryAgainError": "TRYAGAIN",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "OutOfMemoryError": "OOM",
    "BusyLoadingError": "LOADING",
    "NoPermissionError": "NOPERM",
    "AuthenticationError": "WRONGPASS",
}
