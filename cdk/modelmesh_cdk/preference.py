"""Preferences: whom a pool would rather use, by lists of models and of providers."""

from __future__ import annotations

from collections.abc import Sequence

from modelmesh.interfaces.strategy import Candidate, CandidateSequence


class Preferences:
    """An order of models and, after them, of providers; who is in neither list comes last, in pool order.

    Args:
        models: Model IDs, the most preferred first.
        providers: Provider IDs, the most preferred first; a provider's models stand in pool order.
    """

    def __init__(self, models: Sequence[str], providers: Sequence[str]) -> None:
        self._models = {name: place for place, name in enumerate(models)}
        self._providers = {name: place for place, name in enumerate(providers)}

    def __bool__(self) -> bool:
        return bool(self._models or self._providers)

    def first(self, placed: CandidateSequence) -> tuple[Candidate, str] | None:
        """Return the most preferred candidate and which list names it; None when no list names any."""
        for name in self._models:
            listed = placed.get(name)
            if listed is not None:
                return listed, "model_priority"
        for provider in self._providers:
            offered = placed.of_provider(provider)
            if offered:
                return offered[0], "provider_priority"
        return None

    def listed(self, placed: CandidateSequence) -> list[Candidate]:
        """Return the candidates that a list names, the most preferred first."""
        listed = {name: found for name in self._models if (found := placed.get(name)) is not None}
        for provider in self._providers:
            for each in placed.of_provider(provider):
                listed.setdefault(each.model_id, each)
        return list(listed.values())

    def ranked(self, placed: CandidateSequence, without: str) -> Sequence[Candidate]:
        """Return all candidates but one: the listed by preference, then the rest in pool order."""
        preferred = [each for each in self.listed(placed) if each.model_id != without]
        rest = placed.without({without, *(each.model_id for each in preferred)})
        led_by = getattr(rest, "led_by", None)
        ranked: Sequence[Candidate] = led_by(preferred) if led_by is not None else [*preferred, *rest]
        return ranked

    def score(self, candidate: Candidate) -> float:
        """Rate by place in the lists: 1000 + (n - i) for models, 500 + (n - i) for providers, below 1 for the rest."""
        place = self._models.get(candidate.model_id)
        if place is not None:
            return 1000.0 + len(self._models) - place
        place = self._providers.get(candidate.provider_id)
        if place is not None:
            return 500.0 + len(self._providers) - place
        return 1.0 - candidate.error_rate
