"""BoundedLabels: names of models, pools and the like as metric labels, only so many of them."""

from __future__ import annotations

from collections.abc import Callable

OTHER = "other"
"""What stands for every value that came after the limit was reached."""


class BoundedLabels:
    """Lets the first so many values of each label pass; every later one becomes ``other``.

    A time series lives as long as the process, in every system that collects it: one label whose values are without
    number fills all of their memories. For use by one thread at a time.

    Args:
        limit: Values a label may have, ``other`` not counted.
        clean: Applied to each value that is seen for the first time, to take secrets out for instance.
    """

    def __init__(self, limit: int, *, clean: Callable[[str], str] = str) -> None:
        self._limit = limit
        self._clean = clean
        self._known: dict[str, dict[str, str]] = {}

    def value(self, label: str, value: str | None) -> str:
        """Return what to write for a label's value; None is written as an empty text."""
        if value is None:
            return ""
        known = self._known.get(label)
        if known is None:
            known = self._known[label] = {}
        written = known.get(value)
        if written is None:
            if len(known) >= self._limit:
                return OTHER
            written = known[value] = self._clean(value)
        return written

    def counts(self) -> dict[str, int]:
        """Return how many values each label has."""
        return {label: len(known) for label, known in self._known.items()}
