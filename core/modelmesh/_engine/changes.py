"""Whose figures moved since somebody last looked: what lets a strategy keep an order instead of making one."""

from __future__ import annotations

import threading
from collections import deque

KEPT = 256
"""Moves that are remembered; whoever looks more rarely than that reads everything anew, which is then as cheap."""


class Changes:
    """The moves of one mesh's models, counted; the last ones by name.

    Attributes:
        count: Moves so far. Comparing it with the count of one's last look tells whether there is anything to read.
    """

    __slots__ = ("_last", "_lock", "count")

    def __init__(self) -> None:
        self.count = 0
        self._last: deque[tuple[str, bool]] = deque(maxlen=KEPT)
        # Of its own, because moves are noted on several event loops and threads, and counting and naming are two steps.
        # It may be taken twice: the garbage collector may end a request in the middle of a note.
        self._lock = threading.RLock()

    def note_model(self, model_id: str) -> None:
        """Note that a model's latency, errors, cost or price are not what they were."""
        self._note(model_id, False)

    def note_provider(self, provider_id: str) -> None:
        """Note that figures which all models of a provider share are not what they were."""
        self._note(provider_id, True)

    def since(self, count: int) -> tuple[set[str], set[str]] | None:
        """Return the IDs of the models and of the providers that moved after the count stood at this.

        Returns:
            None when that is longer ago than anybody remembers.
        """
        models: set[str] = set()
        providers: set[str] = set()
        with self._lock:
            missed = self.count - count
            if missed > len(self._last):
                return None
            for place in range(1, missed + 1):
                name, is_provider = self._last[-place]
                (providers if is_provider else models).add(name)
        return models, providers

    def _note(self, name: str, is_provider: bool) -> None:
        with self._lock:
            self._last.append((name, is_provider))
            self.count += 1
