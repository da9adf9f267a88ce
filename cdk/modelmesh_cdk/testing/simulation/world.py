"""A simulated world as plain values: who serves, who asks, what goes wrong. A seed draws one; a script shows it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

FaultKind = Literal[
    "down",
    "error",
    "grey",
    "flap",
    "slow",
    "hang",
    "revoked",
    "limited",
    "cut",
    "stall",
    "break",
    "store_down",
    "store_slow",
    "jump",
    "crash",
]
"""What can go wrong.

Of a provider: ``down`` refuses connections, ``error`` answers with a status (``value``), ``grey`` does so for a share
of calls (``value``), ``flap`` is down every other ``value`` seconds, ``slow`` takes ``value`` times as long, ``hang``
never answers, ``revoked`` refuses the key, ``limited`` answers 429 with ``Retry-After: value``. Of its streams:
``cut``, ``stall`` and ``break`` end, fall silent, or raise after ``value`` words. Of the shared store: ``store_down``
and ``store_slow`` (``value`` seconds a call). Of a process: ``jump`` puts its wall clock forward by ``value`` seconds,
``crash`` ends it.
"""


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """A provider: how it behaves, and what the mesh is told about it.

    Attributes:
        name: Of the provider and of its model; further models have a number behind it.
        models: How many models it has.
        latency: Seconds to an answer, or to a stream's first word.
        pace: Seconds between two words of a stream.
        words: Of an answer.
        price: USD per 1,000 tokens, input and output alike.
        quota: Requests a day that the provider gives, in its own zone; None for any number.
        rate: Requests a minute that the provider takes, in fixed windows; None for any number.
        zone: Where its days begin.
        says_limits: Whether its answers tell what is left.
        settings: Its section of the configuration besides the connector: ``budget``, ``quota``, ``rate_limit``.
    """

    name: str
    models: int = 1
    latency: float = 0.1
    pace: float = 0.02
    words: int = 6
    price: float = 1.0
    quota: int | None = None
    rate: int | None = None
    zone: str = "UTC"
    says_limits: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_names(self) -> list[str]:
        """The names of its models."""
        return [self.name if not number else f"{self.name}{number}" for number in range(self.models)]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: What.
        at: When it begins, in seconds of the simulation.
        lasting: For how long.
        target: A provider's name, a process's number, or empty for the store.
        value: What the kind makes of it.
    """

    kind: FaultKind
    at: float
    lasting: float = 0.0
    target: str = ""
    value: float = 0.0

    def is_on(self, now: float) -> bool:
        """Whether it lasts at a moment."""
        return self.at <= now < self.at + self.lasting

    def overlaps(self, since: float, until: float) -> bool:
        """Whether it lasts at any moment of a span."""
        return self.at <= until and since <= self.at + self.lasting


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        number: Which one.
        at: When it is made.
        process: By which process.
        stream: Whether in chunks.
        max_tokens: Of the answer; None leaves it open.
        deadline: Seconds; None for the pool's.
        leave_after: Seconds after which its caller goes away; None for one who stays.
        words: Of the prompt.
    """

    number: int
    at: float
    process: int = 0
    stream: bool = False
    max_tokens: int | None = 20
    deadline: float | None = None
    leave_after: float | None = None
    words: int = 5


@dataclass(frozen=True, slots=True)
class World:
    """Everything that happens in one simulation.

    Attributes:
        seed: Of the order among what happens at once, and of whatever is drawn while it runs.
        epoch: Unix time at its beginning.
        providers: In pool order.
        pool: The pool's section of the configuration.
        processes: How many meshes there are.
        shared: Whether they share a store; otherwise each keeps its own books.
        storage: Its section of the configuration besides the connector.
        skews: Seconds by which each process's wall clock is ahead.
        asks: By time.
        faults: By time.
    """

    seed: int
    epoch: float
    providers: tuple[ProviderSpec, ...]
    pool: Mapping[str, Any]
    processes: int = 1
    shared: bool = False
    storage: Mapping[str, Any] = field(default_factory=dict)
    skews: tuple[float, ...] = (0.0,)
    asks: tuple[Ask, ...] = ()
    faults: tuple[Fault, ...] = ()

    def script(self) -> str:
        """Return it as JSON, a line for each provider, fault and request; `World.read` takes it back."""
        shown = asdict(self)
        lines = []
        for key, value in shown.items():
            if key in ("providers", "asks", "faults") and value:
                entries = ",\n    ".join(json.dumps(_short(entry)) for entry in value)
                lines.append(f'  "{key}": [\n    {entries}\n  ]')
            else:
                lines.append(f'  "{key}": {json.dumps(value)}')
        return "{\n" + ",\n".join(lines) + "\n}"

    @classmethod
    def read(cls, script: str) -> World:
        """Make the world that a script describes."""
        found = json.loads(script)
        return cls(
            **{
                **found,
                "providers": tuple(ProviderSpec(**each) for each in found["providers"]),
                "asks": tuple(Ask(**each) for each in found["asks"]),
                "faults": tuple(Fault(**each) for each in found["faults"]),
                "skews": tuple(found["skews"]),
            }
        )

    def of(self, provider: str) -> tuple[Fault, ...]:
        """Return the faults of a provider."""
        return tuple(fault for fault in self.faults if fault.target == provider)

    def but(self, **changes: Any) -> World:
        """Return a world that differs in some fields."""
        return replace(self, **changes)


def drawn(seed: int, *key: object) -> float:
    """Draw from [0, 1): always the same for a key, whatever else was drawn before, so that scripts can be shortened."""
    return zlib.crc32(repr((seed, key)).encode()) / 4_294_967_296


def _short(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is empty; all of it is so by default, too."""
    empty: tuple[object, ...] = (None, False, {}, "")
    return {
        key: value
        for key, value in entry.items()
        if key == "max_tokens" or not any(type(value) is type(each) and value == each for each in empty)
    }
