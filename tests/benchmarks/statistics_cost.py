"""What `StatisticsCollector` costs: CPU for a record, memory for models that are busy for a week.

Run: ``python tests/benchmarks/statistics_cost.py`` (about two minutes; ``--quick`` for a tenth of it). Every model
answers in every hour of the seven days, with latencies spread over four octaves; memory is what the process holds more
than before, after the caller's own objects are gone.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from statistics import median

from modelmesh.statistics import RequestMetrics, StatisticsCollector, StatsScope

HOUR, WEEK = 3_600.0, 7 * 24


class Hours:
    """A clock that is set by hand."""

    now = 1_767_225_600.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def resident() -> float:
    """Return the process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6


def measure_record(rounds: int = 40, calls: int = 2_000) -> None:
    """Print the CPU time of one record, at all three scopes, over 100 models in turn."""
    random = Random(1)
    collector = StatisticsCollector(lambda stats: None)
    ids = [(f"model-{n}", f"provider-{n % 10}", "chat") for n in range(100)]
    metrics = [RequestMetrics(random.lognormvariate(6, 1), 200, 50, 0.001) for _ in range(500)]
    figures: list[float] = []
    for _ in range(rounds):
        started = time.process_time_ns()
        for n in range(calls):
            collector.record(*ids[n % 100], metrics[n % 500])
        figures.append((time.process_time_ns() - started) / calls / 1000.0)
    print(f"record                        {median(figures):8.2f} µs   (goal: ≤ 5)")


def measure_memory(models: int, requests: int, goal: int, hours: int = WEEK) -> None:
    """Fill a week of so many models with so many requests an hour each, and print what that takes."""
    random = Random(2)
    clock = Hours()
    latencies = [random.lognormvariate(6, 0.7) for _ in range(10_000)]
    gc.collect()
    before = resident()
    collector = StatisticsCollector(lambda stats: None, clock=clock)
    place = 0
    for _ in range(hours):
        for model in range(models):
            for _ in range(requests):
                place = (place + 1) % 10_000
                collector.record(
                    f"model-{model}", f"provider-{model % 50}", "chat", RequestMetrics(latencies[place], 200, 50, 0.001)
                )
            if model % 10 == 0:
                collector.record_rotation(f"model-{model}", f"provider-{model % 50}", "chat")
        clock.now += HOUR
        collector.flush()
    gc.collect()
    taken = resident() - before
    print(
        f"{models:6,} models × {hours} h × {requests:3} requests {taken:8.1f} MB   (goal: < {goal}), "
        f"{len(collector.names(StatsScope.MODEL)):,} names",
        flush=True,
    )
    slowest = max(_query_seconds(collector, name) for name in collector.names(StatsScope.MODEL)[:20])
    print(f"       slowest of 20 queries  {slowest * 1000:8.2f} ms")


def _query_seconds(collector: StatisticsCollector, name: str) -> float:
    started = time.perf_counter()
    collector.model(name)
    return time.perf_counter() - started


def main() -> None:
    """Measure each case in a process of its own, since memory that was freed is not always given back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the hours")
    parser.add_argument("--case", nargs=3, type=int, metavar=("MODELS", "REQUESTS", "GOAL"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    hours = WEEK // 10 if asked.quick else WEEK
    if asked.case:
        models, requests, goal = asked.case
        measure_memory(models, requests, goal, hours)
        return
    measure_record()
    for case in (("10000", "4", "250"), ("100", "200", "40")):
        again = [sys.executable, __file__, "--case", *case, *(["--quick"] if asked.quick else [])]
        subprocess.run(again, check=True)


if __name__ == "__main__":
    main()
