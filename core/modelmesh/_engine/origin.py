"""Where an exception of a connector comes from: a place in its code, and nothing of the values there."""

from __future__ import annotations

import traceback

_OURS = frozenset({"modelmesh", "builtins", "abc", "typing"})


def origin_of(error: BaseException, connector: object) -> str:
    """Return file, line and function of the innermost frame that is the connector's, such as ``wire.py:12 in parse``.

    The connector's is what its own package holds; without a frame there, what the packages of its base classes hold,
    and after them the innermost frame of all. Empty for an exception that was never raised.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return ""
    packages = [each.__module__.partition(".")[0] for each in type(connector).__mro__]
    own, inherited = set(packages[:1]), set(packages) - _OURS
    for wanted in (own, inherited):
        found = [
            each for each in frames if str(each[0].f_globals.get("__name__", "")).partition(".")[0] in wanted - _OURS
        ]
        if found:
            break
    frame, line = (found or frames)[-1]
    return f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
