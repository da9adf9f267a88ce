"""Which worlds to run: so many, or these again; the options are added in ``tests/conftest.py``."""

from __future__ import annotations

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that takes ``seeds`` the seeds to run, in a few portions."""
    if "seeds" not in metafunc.fixturenames:
        return
    chosen: list[int] | None = metafunc.config.getoption("--sim-seed", None)
    if chosen:
        portions = [range(seed, seed + 1) for seed in chosen]
    else:
        count: int = metafunc.config.getoption("--sim-seeds", 3_000)
        portions = [range(start, min(start + 100, count)) for start in range(0, count, 100)]
    metafunc.parametrize("seeds", portions, ids=[f"{each[0]}-{each[-1]}" for each in portions])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave only the worlds, when seeds were chosen."""
    if not config.getoption("--sim-seed", None):
        return
    worlds = [item for item in items if "seeds" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in worlds])
    items[:] = worlds
