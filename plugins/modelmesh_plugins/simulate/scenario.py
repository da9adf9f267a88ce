"""Reads a scenario: how much traffic there is, how providers behave, and what happens to them when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from modelmesh.config.durations import parse_duration
from modelmesh.config.reader import Document, read_file
from modelmesh.errors import ConfigurationError, Problem, unknown_name

MOST_REQUESTS = 2_000_000
"""More would take hours: an hour of a thousand requests a second tells no more than one of a hundred."""


def _share(value: object) -> object:
    """Read ``30%`` as 0.3."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100.0
        except ValueError:
            raise ValueError(f"no share: {value!r}; write a number such as 0.3, or 30%") from None
    return value


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"no time zone is called {name!r}; write a name such as UTC or Europe/Berlin") from None
    return name


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, allow_inf_nan=False)]
Span = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)]
Zone = Annotated[str, AfterValidator(_zone)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Requests(_Section):
    """What is asked."""

    prompt_tokens: int = Field(default=200, ge=1, description="Tokens of each prompt.")
    max_tokens: int | None = Field(default=None, ge=1, description="Most tokens of an answer; left open by default.")
    stream: Share = Field(default=0.0, description="Share of requests that are streamed.")
    deadline: Span | None = Field(default=None, description="Deadline of each request; the pool's by default.")


class Allowance(_Section):
    """What a provider gives in a period, by its own clock."""

    requests: int = Field(ge=0, description="Requests in a period.")
    per: Literal["day", "month"] = Field(default="day", description="Its period.")
    timezone: Zone = Field(default="UTC", description="Where days and months begin.")


class Behaviour(_Section):
    """How a provider behaves while nothing happens to it."""

    latency: Duration = Field(default=0.5, description="Until a whole answer, or the first word of a stream.")
    jitter: Duration = Field(default=0.1, description="How much more or less it may be.")
    answer_tokens: int = Field(default=100, ge=1, description="Tokens of an answer, if the request allows so many.")
    tokens_per_second: Annotated[float, Field(gt=0)] = Field(default=100.0, description="Pace of its streams.")
    error_rate: Share = Field(default=0.0, description="Share of calls that it answers with HTTP 500.")
    quota: Allowance | None = Field(default=None, description="What it gives in a period.")


class Event(_Section):
    """Something that happens; give one of ``outage``, ``error_rate``, ``latency``, ``quota``, ``price``, ``rate``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    at: Duration = Field(description="When, from the start.")
    provider: str | None = Field(default=None, description="To whom; of a change of the rate, nobody.")
    lasting: Span | None = Field(default=None, alias="for", description="For how long; to the end by default.")
    outage: Span | None = Field(default=None, description="It answers nobody, for so long.")
    error_rate: Share | None = Field(default=None, description="Share of calls that it answers with HTTP 500.")
    latency: Duration | None = Field(default=None, description="What its latency becomes.")
    quota: int | None = Field(default=None, ge=0, description="What its quota in a period becomes, in requests.")
    price: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="By how much its price is multiplied."
    )
    rate: Rate | None = Field(default=None, description="What the rate of requests becomes, per second.")

    @property
    def kind(self) -> str:
        """The one thing that it changes."""
        return next(name for name in _CHANGES if getattr(self, name) is not None)

    @property
    def ends(self) -> float:
        """When it is over, in seconds."""
        return self.at + (self.outage or self.lasting or float("inf"))

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        value = getattr(self, self.kind)
        said = {
            "outage": "outage",
            "error_rate": f"error rate {value:.0%}" if self.error_rate is not None else "",
            "latency": f"latency {value:g} s",
            "quota": f"quota {value}",
            "price": f"price × {value:g}",
            "rate": f"{value:g} requests/s",
        }[self.kind]
        return f"{self.provider}: {said}" if self.provider else said

    @model_validator(mode="after")
    def _changes_one_thing(self) -> Event:
        given = [name for name in _CHANGES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"an event changes one of {', '.join(_CHANGES)}; here are {', '.join(given) or 'none'}")
        if given == ["rate"] and self.provider is not None:
            raise ValueError("rate is of all requests; leave out provider")
        if given != ["rate"] and self.provider is None:
            raise ValueError(f"{given[0]} needs a provider")
        if self.outage is not None and self.lasting is not None:
            raise ValueError("an outage says itself how long it lasts; leave out for")
        return self


_CHANGES = ("outage", "error_rate", "latency", "quota", "price", "rate")


class Scenario(_Section):
    """A scenario."""

    duration: Span = Field(description="How long it goes on.")
    rate: Rate = Field(default=1.0, description="Requests a second, on average.")
    pool: str | None = Field(default=None, description="What is asked for; the first pool by default.")
    seed: int = Field(default=0, description="Of everything that is drawn.")
    start: float = Field(
        default=1_767_225_600.0, description="Unix time of the start; 2026-01-01 00:00 UTC by default."
    )
    requests: Requests = Field(default_factory=Requests, description="What is asked.")
    providers: Mapping[str, Behaviour] = Field(default_factory=dict, description="How providers behave.")
    events: tuple[Event, ...] = Field(default=(), description="What happens.")

    @model_validator(mode="after")
    def _can_be_run(self) -> Scenario:
        rates = [self.rate, *(event.rate for event in self.events if event.rate is not None)]
        if max(rates) * self.duration > MOST_REQUESTS:
            raise ValueError(
                f"{max(rates) * self.duration:,.0f} requests are too many, {MOST_REQUESTS:,} may be; "
                "lower the rate or the duration"
            )
        return self


def load_scenario(path: Path, *, providers: list[str], pools: list[str]) -> Scenario:
    """Read a scenario for a configuration.

    Args:
        path: A YAML file.
        providers: Names of the configuration's providers.
        pools: Names of its pools.

    Raises:
        ConfigurationError: Lists every problem, with file and line.
    """
    document = read_file(path, needs="duration, such as 1h")
    problems: list[Problem] = []
    try:
        scenario = Scenario.model_validate(document.data)
    except ValidationError as error:
        problems = [_problem(document, each) for each in error.errors(include_input=False, include_url=False)]
        raise ConfigurationError.from_problems(problems) from None
    for name in scenario.providers:
        if name not in providers:
            problems.append(document.problem(("providers", name), unknown_name("provider", name, providers)))
    for place, event in enumerate(scenario.events):
        if event.provider is not None and event.provider not in providers:
            where = ("events", place, "provider")
            problems.append(document.problem(where, unknown_name("provider", event.provider, providers)))
        if event.at >= scenario.duration:
            message = f"it comes {event.at:g} s after the start, and the scenario is over after {scenario.duration:g} s"
            problems.append(document.problem(("events", place, "at"), message))
    if scenario.pool is not None and scenario.pool not in pools:
        problems.append(document.problem(("pool",), unknown_name("pool", scenario.pool, pools)))
    if problems:
        raise ConfigurationError.from_problems(problems)
    return scenario


def _problem(document: Document, error: Any) -> Problem:
    path = tuple(part for part in error["loc"] if part != "[key]")
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should", "must")
    if error["type"] == "missing":
        message = "is missing; add it"
    elif error["type"] == "extra_forbidden":
        section = _section_of(path[:-1])
        message = unknown_name("key", str(path[-1]), section)
    found = document.problem(path, message)
    return found if found.line is not None else replace(found, line=1)  # it is missing from the whole document


def _section_of(path: tuple[str | int, ...]) -> list[str]:
    """Return the keys that may stand at a path."""
    if not path:
        model: type[BaseModel] = Scenario
    elif path[0] == "events":
        model = Event
    elif path[0] == "requests":
        model = Requests
    else:
        model = Allowance if path[-1] == "quota" else Behaviour
    return [field.alias or name for name, field in model.model_fields.items()]
