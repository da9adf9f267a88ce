"""Worlds out of seeds: who serves, who asks, what goes wrong."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from modelmesh_cdk.testing.simulation.world import Ask, Fault, FaultKind, ProviderSpec, World

ZONES = ("UTC", "America/Los_Angeles", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe")
"""Where days begin: with and without changes of the clock, by halves of an hour and by whole ones."""

_STRATEGIES = (
    "stick-until-failure",
    "round-robin",
    "latency-first",
    "cost-first",
    "load-balanced",
    "rate-limit-aware",
    "priority-selection",
)
_ON_PROVIDERS: tuple[FaultKind, ...] = (
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
)
_MIDNIGHTS = (
    (2026, 3, 8),
    (2026, 3, 29),
    (2026, 10, 4),
    (2026, 10, 25),
    (2026, 11, 1),
    (2026, 12, 31),
    (2027, 2, 28),
    (2028, 2, 29),
    (2026, 6, 15),
)
"""Days near which something happens to clocks and calendars, and one on which nothing does."""


def draw_world(seed: int) -> World:
    """Return the world of a seed; always the same."""
    lot = random.Random(f"world {seed}")  # noqa: S311 (repeatable draws for tests)
    processes = lot.choice((1, 1, 2, 3, 4))
    shared = processes > 1 and lot.random() < 0.75
    span = lot.choice((5.0, 20.0, 60.0))
    zone = lot.choice(ZONES)
    providers = tuple(_provider(lot, name, zone) for name in "abcdef"[: lot.choice((1, 2, 2, 3, 3, 4, 5, 6))])
    pool = _pool(lot, zone)
    asks = _asks(lot, span, processes, deadline=float(pool["deadline"]))
    return World(
        seed=seed,
        epoch=_epoch(lot, zone, span),
        providers=providers,
        pool=pool,
        processes=processes,
        shared=shared,
        storage=_storage(lot, processes) if shared else {},
        skews=tuple(lot.choice((0.0, 0.0, 3_600.0, -3_600.0, 7.5)) for _ in range(processes)),
        asks=asks,
        faults=_faults(lot, span, providers, processes, shared),
    )


def _epoch(lot: random.Random, zone: str, span: float) -> float:
    """Return a moment shortly before something happens to the calendar of a zone, or any other."""
    moment = datetime(*lot.choice(_MIDNIGHTS), tzinfo=ZoneInfo(zone))
    if lot.random() < 0.5:
        moment += timedelta(days=1)
    return moment.timestamp() - lot.choice((span / 2, span / 2, 3 * 3_600.0, 11 * 3_600.0))


def _provider(lot: random.Random, name: str, zone: str) -> ProviderSpec:
    price = lot.choice((0.5, 1.0, 3.0))
    settings: dict[str, Any] = {}
    if lot.random() < 0.3:
        settings["budget"] = {
            "daily_limit": round(lot.choice((0.03, 0.1, 0.5)) * price, 3),
            "timezone": zone,
        }
    if lot.random() < 0.2:
        settings["quota"] = {
            "requests": lot.choice((2, 5, 15)),
            "reset_schedule": lot.choice(("daily", "daily", "monthly")),
            "timezone": zone,
        }
    if lot.random() < 0.25:
        settings["rate_limit"] = lot.choice(
            (
                {"rpm": 30, "burst": 0.1},
                {"rpm": 120, "burst": 0.5},
                {"tpm": 600, "burst": 0.5},
                {"concurrency": 2},
                {"rpm": 60, "concurrency": 1},
            )
        )
    return ProviderSpec(
        name,
        models=lot.choice((1, 1, 1, 2)),
        latency=lot.choice((0.02, 0.1, 0.4, 1.5)),
        pace=lot.choice((0.0, 0.02, 0.1)),
        words=lot.choice((1, 4, 12, 60)),
        price=price,
        quota=lot.choice((None, None, None, 3, 10)),
        rate=lot.choice((None, None, None, 5, 20)),
        zone=zone,
        says_limits=lot.random() < 0.5,
        settings=settings,
    )


def _pool(lot: random.Random, zone: str) -> dict[str, Any]:
    total = lot.choice((2.0, 5.0, 10.0))
    cooldown = lot.choice((1.0, 5.0, 30.0))
    pool: dict[str, Any] = {
        "strategy": lot.choice(_STRATEGIES),
        "deadline": lot.choice((3.0, 20.0, 60.0, 120.0)),
        "timeouts": {"first_token": min(total, 3.0), "idle": 2.0, "total": total},
        "recovery": {"cooldown": cooldown},
        "retry": {
            "max_attempts": lot.choice((0, 1, 3)),
            "max_delay": lot.choice((1.0, 3.0)),
            "initial_delay": lot.choice((0.1, 0.5)),
            "prefer": lot.choice(("rotate", "rotate", "rotate", "retry")),
        },
        "retry_budget": {"percent": lot.choice((0, 20)), "minimum": lot.choice((1, 3))},
        "deactivation": {"retry_limit": lot.choice((1, 2, 3)), "error_rate_min_samples": lot.choice((4, 10))},
        "on_stream_failure": lot.choice(("error", "error", "hold", "continue")),
        "hold_time": 0.2,
        "provider_deactivation": lot.choice((["on_auth_failure"], ["on_auth_failure", "on_api_outage"])),
    }
    if lot.random() < 0.3:
        pool["recovery"]["probe_interval"] = cooldown / 2
    if lot.random() < 0.15:
        pool["deactivation"] |= {"request_limit": 10, "quota_window": "daily", "timezone": zone}
    if lot.random() < 0.15:
        pool["deactivation"] |= {"budget_limit": 0.2, "quota_window": "daily", "timezone": zone}
    if lot.random() < 0.2:
        pool["on_budget_exceeded"] = "error"
    return pool


def _storage(lot: random.Random, processes: int) -> dict[str, Any]:
    storage: dict[str, Any] = {"processes": processes, "on_store_error": {"quota": lot.choice(("closed", "local"))}}
    if lot.random() < 0.2:
        storage["lease_share"] = lot.choice((0.1, 0.5))
    return storage


def _asks(lot: random.Random, span: float, processes: int, *, deadline: float) -> tuple[Ask, ...]:
    count = lot.choice((5, 15, 30))
    in_a_burst = lot.random() < 0.4
    bounded = lot.random() < 0.8
    burst_at = lot.uniform(0.0, span)
    asks = []
    for number in range(count):
        at = lot.uniform(0.0, span)
        if in_a_burst and lot.random() < 0.6:
            at = burst_at + lot.choice((0.0, 0.0, 0.001, 0.05))
        asks.append(
            Ask(
                number,
                at=round(at, 3),
                process=lot.randrange(processes),
                stream=lot.random() < 0.5,
                max_tokens=lot.choice((3, 20, 60)) if bounded else lot.choice((None, 20)),
                deadline=lot.choice((None, None, None, 0.5, deadline)),
                leave_after=round(lot.choice((0.0, lot.uniform(0.0, 3.0))), 3) if lot.random() < 0.15 else None,
                words=lot.choice((1, 5, 40)),
            )
        )
    return tuple(sorted(asks, key=lambda ask: (ask.at, ask.number)))


def _faults(
    lot: random.Random, span: float, providers: tuple[ProviderSpec, ...], processes: int, shared: bool
) -> tuple[Fault, ...]:
    faults = []
    for provider in providers:
        for _ in range(lot.choice((0, 0, 1, 1, 2))):
            kind = lot.choice(_ON_PROVIDERS)
            lasting = lot.choice((span / 10, span / 3, 2 * span))
            faults.append(Fault(kind, round(lot.uniform(-1.0, span), 3), lasting, provider.name, _value(lot, kind)))
    if shared and lot.random() < 0.25:
        slow = lot.random() < 0.5
        kind = "store_slow" if slow else "store_down"
        value = lot.choice((0.05, 0.2, 1.0)) if slow else lot.choice((0.0, 1.0))
        faults.append(Fault(kind, round(lot.uniform(0.0, span), 3), lot.choice((0.5, span / 3)), "", value))
    for process in range(processes):
        if lot.random() < 0.15:
            jump = lot.choice((3_600.0, -3_600.0, 86_400.0, -86_400.0, 30.0))
            faults.append(Fault("jump", round(lot.uniform(0.0, span), 3), 0.0, str(process), jump))
        if shared and process and lot.random() < 0.1:
            faults.append(Fault("crash", round(lot.uniform(0.0, span), 3), 0.0, str(process)))
    return tuple(sorted(faults, key=lambda fault: fault.at))


def _value(lot: random.Random, kind: FaultKind) -> float:
    if kind == "error":
        return lot.choice((500.0, 502.0, 503.0, 529.0))
    if kind == "grey":
        return lot.choice((0.05, 0.3, 0.7))
    if kind == "flap":
        return lot.choice((0.5, 2.0, 7.0))
    if kind == "slow":
        return lot.choice((3.0, 20.0, 100.0))
    if kind == "limited":
        return lot.choice((0.0, 1.0, 5.0, 40.0, 36_000.0, 1e300, -5.0))
    if kind in ("cut", "stall", "break"):
        return float(lot.choice((0, 1, 3)))
    return 0.0
