"""What runs inside the server: each script is one step that nobody else comes between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files

SERVER_CLOCK = """
local function clock() -- microseconds, by the server
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000000 + tonumber(now[2])
end
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest a server that has seen it knows it by."""

    text: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class Scripts:
    """All scripts of the store."""

    ledger: Script
    save: Script
    delete: Script
    lock: Script
    unlock: Script


@cache
def scripts(clock: str = SERVER_CLOCK) -> Scripts:
    """Read the scripts.

    Args:
        clock: Lua that defines ``clock``.
    """
    return Scripts(
        ledger=_script(clock, "numbers.lua", "ledger.lua"),
        save=_script(clock, "save.lua"),
        delete=_script("", "delete.lua"),
        lock=_script(clock, "lock.lua"),
        unlock=_script("", "unlock.lua"),
    )


def _script(clock: str, *names: str) -> Script:
    here = files(__package__)
    text = "".join([clock, *(here.joinpath(name).read_text(encoding="utf-8") for name in names)]).encode()
    # Redis names scripts by SHA-1; nothing is kept safe by it.
    return Script(text, sha1(text, usedforsecurity=False).hexdigest())
