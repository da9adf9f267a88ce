"""Where an exception of a connector comes from: a place in its code, and nothing of the values there.

`told` alone gives its text as well, once a redactor has been over it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import PurePath
from types import FrameType

from modelmesh.errors import StateStoreError

_OURS = frozenset({"modelmesh", "builtins", "abc", "typing"})

_LONGEST = 300
"""Characters of an exception's text that are told at most."""


def origin_of(error: BaseException, connector: object) -> str:
    """Return file, line and function of the innermost frame that is the connector's, such as ``/wire.py:12 in parse``.

    The connector's is what its own package holds; without a frame there, what the packages of its base classes hold,
    and after them the innermost frame of all. Empty for an exception that was never raised.
    """
    found = _innermost(error, type(connector))
    return "" if found is None else f"{found[0].f_code.co_filename}:{found[1]} in {found[0].f_code.co_name}"


def class_name(cls: type) -> str:
    """Return a class's full name."""
    return f"{cls.__module__}.{cls.__qualname__}"


def type_and_place(error: BaseException, cls: type) -> str:
    """Return what an exception is and where a connector class raised it: ``KeyError at acme/wire.py:12 in parse``.

    The file is told as it stands in its package: where that is installed is nobody's business who reads a message.
    """
    found = _innermost(error, cls)
    name = type(error).__name__
    return name if found is None else f"{name} at {_in_package(found[0])}:{found[1]} in {found[0].f_code.co_name}"


def told(error: BaseException, cls: type, redact: Callable[[str], str]) -> str:
    """Return type and place, and the first line of the exception's own text without what looks like a secret."""
    return ": ".join(part for part in (type_and_place(error, cls), redacted_text(error, redact)) if part)


def store_erred(
    error: Exception, cls: type, *, during: str = "", redact: Callable[[str], str] | None = None
) -> StateStoreError:
    """Build the error for what a state store raised and its author did not foresee.

    Args:
        error: What it raised; the cause of what is returned.
        cls: The store's class.
        during: What was done, such as ``reading the state from``.
        redact: Takes secrets out of the exception's text; without it the text stays in the cause.
    """
    said = type_and_place(error, cls) if redact is None else told(error, cls, redact)
    erred = StateStoreError(f"{during} state store {class_name(cls)} raised {said}".lstrip())
    erred.__cause__ = error
    return erred


def redacted_text(error: BaseException, redact: Callable[[str], str]) -> str:
    """Return the first line of an exception's text without what looks like a secret; empty when it has none."""
    try:
        text = str(error).strip()
    except Exception:  # one whose own text raises
        return ""
    # Redacted as a whole, since what marks a secret may stand on another line than the secret.
    return redact(text).partition("\n")[0][:_LONGEST]


def has_frame_of(error: BaseException, cls: type) -> bool:
    """Whether the class's own package was being carried out when the exception was raised."""
    return any(_package_of(frame) == _own_package(cls) for frame, _ in traceback.walk_tb(error.__traceback__))


def _innermost(error: BaseException, cls: type) -> tuple[FrameType, int] | None:
    """Return the innermost frame that is a connector class's, and its line."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return None
    own = {_own_package(cls)}
    inherited = {each.__module__.partition(".")[0] for each in cls.__mro__}
    for wanted in (own, inherited):
        found = [each for each in frames if _package_of(each[0]) in wanted - _OURS]
        if found:
            return found[-1]
    return frames[-1]


def _own_package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _in_package(frame: FrameType) -> str:
    """Return a frame's file from its top-level package on."""
    file = PurePath(frame.f_code.co_filename)
    depth = str(frame.f_globals.get("__name__", "")).count(".") + (file.stem == "__init__")
    return "/".join(file.parts[-depth - 1 :])
