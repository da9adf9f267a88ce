"""A strategy put together in the configuration: whom to consider, how to compare them, how to pick.

::

    strategy:
      filter:
        - headroom: {over: 10%}
      score:
        - cost: {within: 5%}
      pick: {power_of_two: latency}
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from modelmesh.config.durations import PositiveDuration
from modelmesh.errors import NoActiveModelError, unknown_name
from modelmesh.interfaces.strategy import Candidate, SelectionRequest, SelectionResult
from modelmesh_cdk.figures import HeadroomReader, neutral, price_per_token
from modelmesh_cdk.ordering import Board, Order, OrderedStrategy, Ranked

_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*", re.ASCII)


def parse_share(value: object) -> float:
    """Return a share: ``10%`` and 0.1 are the same.

    Raises:
        ValueError: It is neither, or not between nothing and the whole.
    """
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        share = float(match[1]) / 100.0
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        share = float(value)
    else:
        raise ValueError("is no share; write a number from 0 to 1, or a percentage such as 10%")
    if not 0.0 <= share <= 1.0:
        raise ValueError("must be from 0 to 1, or from 0% to 100%")
    return share


Share = Annotated[
    float,
    BeforeValidator(parse_share),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$"}]}
    ),
]
"""A part of a whole; written as a number from 0 to 1 or as a percentage."""


class Part(BaseModel):
    """Base of what a composed strategy is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


# --- filters ----------------------------------------------------------------------------


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Names(Part):
    """Some names, or all but some."""

    included: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] | None = Field(
        default=None, alias="in", description="Only these."
    )
    excluded: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        default=(), alias="not_in", description="All but these."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"in": (value,)}
        if isinstance(value, Mapping):
            for key in value:
                if key not in ("in", "not_in"):
                    raise ValueError(unknown_name("key", str(key), ("in", "not_in")))
            return value
        return {"in": value}

    @model_validator(mode="after")
    def _says_something(self) -> Names:
        if self.included is None and not self.excluded:
            raise ValueError("names nobody; give in or not_in")
        return self

    def accepts(self, name: str) -> bool:
        """Whether a name is meant."""
        return name not in self.excluded and (self.included is None or name in self.included)


_NAMES = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
SomeNames = Annotated[
    Names,
    WithJsonSchema(
        {
            "anyOf": [
                *_NAMES["anyOf"],
                {"type": "object", "properties": {"in": _NAMES, "not_in": _NAMES}, "additionalProperties": False},
            ]
        }
    ),
]
"""Names; a name or a list alone means only these."""


class OverShare(Part):
    """More than a share."""

    over: Share = Field(description="Share of the limit that has to be left.")


class BelowPrice(Part):
    """Less than a price."""

    below: float = Field(gt=0, description="USD per 1,000 tokens, half of them input.")


class BelowSeconds(Part):
    """Less than a time."""

    below: PositiveDuration = Field(description="Mean latency (duration).")


class BelowShare(Part):
    """Less than a share."""

    below: Share = Field(description="Share of the last answers that failed.")


class Filter(Part):
    """One condition on candidates."""

    headroom: OverShare | None = Field(
        default=None, description="What is left of the provider's limit; who has not said passes."
    )
    price: BelowPrice | None = Field(default=None, description="Price; a model without a known one does not pass.")
    latency: BelowSeconds | None = Field(default=None, description="Mean latency; a model without any passes.")
    error_rate: BelowShare | None = Field(default=None, description="Failures among the last answers.")
    provider: SomeNames | None = Field(default=None, description="Providers, by name.")
    model: SomeNames | None = Field(default=None, description="Models, by name.")
    feature: str | None = Field(default=None, description="A feature the model declares, such as vision.")

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return _one_entry("filter", value, tuple(cls.model_fields), bare=False)

    @property
    def kind(self) -> str:
        """What it looks at, such as ``price``."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    def passes(self, candidate: Candidate, facts: Facts) -> bool:
        """Whether a candidate meets the condition."""
        if self.headroom is not None:
            share = facts.share(candidate)
            return share is None or share > self.headroom.over
        if self.price is not None:
            price = price_per_token(candidate.pricing)
            return price is not None and price * 1_000.0 < self.price.below
        if self.latency is not None:
            seconds = candidate.latency_avg
            return seconds is None or seconds < self.latency.below
        if self.error_rate is not None:
            return candidate.error_rate < self.error_rate.below
        if self.provider is not None:
            return self.provider.accepts(candidate.provider_id)
        if self.model is not None:
            return self.model.accepts(candidate.model_id)
        return bool(candidate.features.get(self.feature or ""))


# --- scores -----------------------------------------------------------------------------


class Tolerance(Part):
    """When two figures count as equal; at most one of both."""

    within: Share | None = Field(default=None, description="As good as the best: at most this share worse.")
    band: PositiveDuration | None = Field(
        default=None,
        description="Figures in the same band are equal; its width is in the figure's unit (USD per 1,000 tokens,"
        " seconds or a duration, a share).",
    )

    @model_validator(mode="after")
    def _not_both(self) -> Tolerance:
        if self.within is not None and self.band is not None:
            raise ValueError("within and band are two ways to say when figures are equal; keep one")
        return self


class Score(Part):
    """One comparison; the next one decides among those that are equal in it."""

    cost: Tolerance | None = Field(default=None, description="Price of a token, the lowest first; unknown ones last.")
    latency: Tolerance | None = Field(
        default=None, description="Mean latency, the lowest first; the unknown count as the median."
    )
    headroom: Tolerance | None = Field(
        default=None, description="Share of the limit that is left, the highest first; the unknown count as the median."
    )
    error_rate: Tolerance | None = Field(default=None, description="Failures among the last answers, fewest first.")
    priority: tuple[str, ...] | None = Field(
        default=None, description="Models and providers, the most preferred first; the rest come last."
    )

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return _one_entry("score", value, tuple(cls.model_fields), bare=True)

    @property
    def figure(self) -> str:
        """What is compared."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def tolerance(self) -> Tolerance:
        """When figures count as equal."""
        chosen = getattr(self, self.figure)
        return chosen if isinstance(chosen, Tolerance) else Tolerance()


_FIGURES = ("cost", "latency", "headroom", "error_rate")
SomeScore = Annotated[
    Score,
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(_FIGURES)},
                {
                    "type": "object",
                    "properties": {
                        **{
                            name: {
                                "type": "object",
                                "properties": {"within": {"type": ["number", "string"]}, "band": {}},
                                "additionalProperties": False,
                            }
                            for name in _FIGURES
                        },
                        "priority": {"type": "array", "items": {"type": "string"}},
                    },
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
"""A comparison; the name of a figure alone compares it exactly."""


# --- picks ------------------------------------------------------------------------------

PICKS = ("best", "power_of_two", "weighted", "round_robin")
BY = ("cost", "latency", "headroom", "error_rate", "in_flight")


class Pick(Part):
    """How one is taken among those that are equal in every score."""

    kind: Literal["best", "power_of_two", "weighted", "round_robin"] = "best"
    by: Literal["cost", "latency", "headroom", "error_rate", "in_flight"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {value: None}
        if not isinstance(value, Mapping) or len(value) != 1:
            raise ValueError(f"expected one of {', '.join(PICKS)}, or one of them with what it goes by")
        [(kind, by)] = value.items()
        if kind not in PICKS:
            raise ValueError(unknown_name("pick", str(kind), PICKS))
        if by is not None and kind in ("best", "round_robin"):
            raise ValueError(f"{kind} goes by nothing; write pick: {kind}")
        known = BY if kind == "power_of_two" else BY[:-1]
        if by is not None and by not in known:
            raise ValueError(unknown_name(f"figure for {kind}", str(by), known))
        return {"kind": kind, "by": by or {"power_of_two": "in_flight", "weighted": "headroom"}.get(kind)}


_PICK_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"enum": list(PICKS)},
            {
                "type": "object",
                "properties": {"power_of_two": {"enum": list(BY)}, "weighted": {"enum": list(BY[:-1])}},
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": False,
            },
        ]
    }
)


class ComposedConfig(Part):
    """Settings of a composed strategy: the mapping under ``strategy``."""

    filter: tuple[Filter, ...] = Field(default=(), description="Conditions; a candidate has to meet them all.")
    score: tuple[SomeScore, ...] = Field(
        default=(), description="Comparisons, the most important first. Without any all candidates are equal."
    )
    pick: Annotated[Pick, _PICK_SCHEMA] = Field(
        default_factory=lambda: Pick.model_validate("best"),
        description="Among equals: best takes the first in pool order; power_of_two the better of two drawn at random,"
        " by in_flight or what it is given; weighted draws by headroom or what it is given; round_robin goes in turn.",
    )
    if_none: Literal["ignore_filters", "error"] = Field(
        default="ignore_filters",
        description="When no candidate meets the conditions: ignore_filters lets all stand, error refuses the request.",
    )


def _one_entry(kind: str, value: Any, known: Sequence[str], *, bare: bool) -> Any:
    """Check that a list's item is a mapping with one known key, or where ``bare`` allows it a name alone."""
    if isinstance(value, BaseModel):
        return value
    if isinstance(value, str):
        value = {value: {}}
        [name] = value
        if name in known and (not bare or name == "priority"):
            raise ValueError(f"{kind} {name!r} needs to be told more, such as {_EXAMPLES[kind, name]}")
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(f"expected one {kind}, such as {_EXAMPLES[kind, known[0]]}")
    [name] = value
    if name not in known:
        raise ValueError(unknown_name(kind, str(name), known))
    return {name: {} if value[name] is None else value[name]}


_EXAMPLES: Mapping[tuple[str, str], str] = {
    ("filter", "headroom"): "headroom: {over: 10%}",
    ("filter", "price"): "price: {below: 0.01}",
    ("filter", "latency"): "latency: {below: 2s}",
    ("filter", "error_rate"): "error_rate: {below: 20%}",
    ("filter", "provider"): "provider: {not_in: [acme]}",
    ("filter", "model"): "model: {in: [small, large]}",
    ("filter", "feature"): "feature: vision",
    ("score", "cost"): "cost",
    ("score", "priority"): "priority: [small, large]",
}


# --- at work ----------------------------------------------------------------------------


class Facts:
    """Reads figures off candidates; None where one is not known."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.headroom = HeadroomReader()

    def share(self, candidate: Candidate) -> float | None:
        """Return what is left of the provider's limit."""
        left = self.headroom.read(candidate, self._now())
        return None if left is None else left.share

    def read(self, name: str, candidate: Candidate) -> float | None:
        """Return a figure so that the smaller is the better; headroom therefore as the share that is used."""
        if name == "cost":
            price = price_per_token(candidate.pricing)
            return math.inf if price is None else price * 1_000.0
        if name == "latency":
            return candidate.latency_avg
        if name == "headroom":
            share = self.share(candidate)
            return None if share is None else 1.0 - share
        if name == "error_rate":
            return candidate.error_rate
        return float(candidate.in_flight)


Row = tuple[bool, tuple[float | None, ...], float | None]
"""Of a candidate: whether it passes, its figure for each score, and that of the pick."""


class Composition(Order):
    """Candidates in groups of equals, best group first, those that do not pass last.

    Attributes:
        passing: How many pass.
        best: Those among whom is picked, in pool order.
        ends: Their weights added up, when the pick needs them; else empty.
    """

    def __init__(self, figures: Mapping[str, Row], config: ComposedConfig) -> None:
        passing = [name for name, row in figures.items() if row[0]]
        rest = [name for name, row in figures.items() if not row[0]]
        groups = _groups(passing, figures, config.score) if passing else []
        lower = _groups(rest, figures, config.score) if rest and config.if_none == "ignore_filters" else []
        super().__init__(name for group in [*groups, *lower] for name in group)
        self.passing = len(passing)
        self.best = [*groups, *lower][0] if groups or lower else []
        self.ends: list[float] = []
        if config.pick.kind == "weighted":
            self.ends = list(accumulate(_weights([figures[name][2] for name in self.best])))


def _groups(names: list[str], figures: Mapping[str, Row], scores: Sequence[Score]) -> list[list[str]]:
    """Split names into groups of equals, the best first; inside a group they keep their order."""
    groups = [names]
    for place, score in enumerate(scores):
        known = [value for name in names if (value := figures[name][1][place]) is not None]
        middle = neutral(known)
        values = {name: middle if (value := figures[name][1][place]) is None else value for name in names}
        groups = [part for group in groups for part in _split(group, values, score.tolerance)]
    return groups


def _split(names: list[str], values: Mapping[str, float], tolerance: Tolerance) -> list[list[str]]:
    if len(names) < 2:
        return [names]
    if tolerance.band is not None:
        width = tolerance.band
        values = {
            name: math.floor(values[name] / width + 1e-9) if values[name] < math.inf else math.inf for name in names
        }
    groups: list[list[str]] = []
    limit = -math.inf
    for name in sorted(names, key=values.__getitem__):
        if values[name] > limit:
            limit = values[name] * (1.0 + (tolerance.within or 0.0))
            groups.append([])
        groups[-1].append(name)
    if tolerance.within:
        place = {name: number for number, name in enumerate(names)}
        for group in groups:
            group.sort(key=place.__getitem__)
    return groups


def _weights(known: Sequence[float | None]) -> list[float]:
    """Return weights with the median in place of those that are not known."""
    middle = neutral([weight for weight in known if weight is not None])
    return [middle if weight is None else weight for weight in known]


class Composed(OrderedStrategy[ComposedConfig, Row]):
    """Leaves candidates that pass all filters, sorts them by the scores, and picks among those that are equal in all.

    Where nobody passes the filters stand back, unless ``if_none`` is error: rather a model that is dear than none. The
    score is minus the first score's figure (headroom: the share that is left), or what the error rate leaves.
    """

    config_model = ComposedConfig

    def __init__(self, config: ComposedConfig | None = None) -> None:
        super().__init__(config)
        self._facts = Facts(self._now)
        self._figures = tuple(score.figure for score in self.config.score)
        self._listed = tuple(
            {name: float(number) for number, name in enumerate(score.priority or ())} for score in self.config.score
        )
        self._draws: tuple[float, float] | None = None
        self._last: str | None = None
        self._place: dict[str, int] = {}

    def pool_changed(self, pool_order: Sequence[str]) -> None:
        """Forget members that left."""
        super().pool_changed(pool_order)
        self._place = {name: number for number, name in enumerate(pool_order)}
        self._facts.headroom.forget_all_but(frozenset(pool_order))

    def _now(self) -> float:
        return self.context.clock.monotonic()

    # --- figures ------------------------------------------------------------------

    def read(self, candidate: Candidate) -> Row:
        """Return whether a candidate passes, and its figures."""
        passes = all(condition.passes(candidate, self._facts) for condition in self.config.filter)
        figures = tuple(self._compared(number, candidate) for number in range(len(self._figures)))
        return passes, figures, self._weight(candidate) if self.config.pick.kind == "weighted" else None

    def _compared(self, number: int, candidate: Candidate) -> float | None:
        name, listed = self._figures[number], self._listed[number]
        if name != "priority":
            return self._facts.read(name, candidate)
        last = float(len(listed))
        return min(listed.get(candidate.model_id, last), listed.get(candidate.provider_id, last))

    def _weight(self, candidate: Candidate) -> float | None:
        """Return a figure as a weight: shares by what they leave, prices and times inversely."""
        by = self.config.pick.by or "headroom"
        figure = self._facts.read(by, candidate)
        if figure is None:
            return None
        return 1.0 - figure if by in ("headroom", "error_rate") else 1.0 / max(figure, 1e-9)

    def stale_at(self) -> float:
        """Return when the next provider's window ends."""
        return self._facts.headroom.next_end(self._now())

    def arrange(self, figures: Mapping[str, Row]) -> Order:
        """Filter and group."""
        return Composition(figures, self.config)

    # --- choosing -----------------------------------------------------------------

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        """Pick one of the best.

        Raises:
            NoActiveModelError: Nobody passes the filters, and ``if_none`` is error.
        """
        board = self.board(candidates)
        order = board.order
        assert isinstance(order, Composition)
        if not order.best:
            raise NoActiveModelError(
                f"no active model of pool {self.context.name!r} passes the strategy's filters, and if_none is error",
                pool_name=self.context.name,
            )
        kind = self.config.pick.kind
        reason = kind.replace("_", " ") if order.passing else "filters ignored"
        return board.candidate(self._picked(order, board, kind)), reason

    def _picked(self, order: Composition, board: Board[Row], kind: str) -> str:
        best = order.best
        if kind == "best" or len(best) == 1:
            return best[0]
        if kind == "round_robin":
            last = -1 if self._last is None else self._place.get(self._last, -1)
            beyond = len(self._place)
            return best[bisect_right(best, last, key=lambda name: self._place.get(name, beyond)) % len(best)]
        if self._draws is None:
            # Drawn once for looking and choosing: an explanation shows the choice that is made next.
            self._draws = (self.context.random.random(), self.context.random.random())
        if kind == "weighted":
            if order.ends[-1] <= 0:
                return best[int(self._draws[0] * len(best))]
            return best[min(bisect_right(order.ends, self._draws[0] * order.ends[-1]), len(best) - 1)]
        return self._better_of_two(best, board, self._draws)

    def _better_of_two(self, best: Sequence[str], board: Board[Row], draws: tuple[float, float]) -> str:
        """Return the better of two different ones; what is not known beats what is, so that it gets known."""
        one = int(draws[0] * len(best))
        other = int(draws[1] * (len(best) - 1))
        other += other >= one
        by = self.config.pick.by or "in_flight"
        figures = {place: self._facts.read(by, board.candidate(best[place])) for place in sorted((one, other))}
        return best[min(figures, key=lambda place: -1.0 if figures[place] is None else figures[place] or 0.0)]

    def commit(self, chosen: Candidate, request: SelectionRequest) -> None:
        """Use up the draws, and note whose turn it was."""
        self._draws = None
        self._last = chosen.model_id

    def rank(
        self, candidates: Sequence[Candidate], request: SelectionRequest, selected: SelectionResult
    ) -> Sequence[Candidate]:
        """Order the others by the scores; those that do not pass last, or under ``if_none: error`` not at all."""
        ranked: Ranked = self.board(candidates).without(selected.model_id)
        return ranked

    def remarks(self, candidates: Sequence[Candidate], request: SelectionRequest) -> dict[str, str]:
        """Say of candidates that do not pass which filter they fail, by model ID; for explanations."""
        failed = {
            candidate.model_id: [each.kind for each in self.config.filter if not each.passes(candidate, self._facts)]
            for candidate in candidates
        }
        return {name: f"does not pass the filter {', '.join(kinds)}" for name, kinds in failed.items() if kinds}

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        """Rate by minus the first score's figure."""
        if not self._figures:
            return 1.0 - candidate.error_rate
        figure = self._compared(0, candidate)
        if self._figures[0] == "headroom":
            return 1.0 if figure is None else 1.0 - figure
        return 0.0 if figure is None else -min(figure, 1e9)
