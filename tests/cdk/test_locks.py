"""LockTable: one holder, for a time, with a fence."""

from __future__ import annotations

import json

import pytest

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.state_store import StoreLock
from modelmesh_cdk.locks import LockTable, check_expiry


def test_a_lock_lapses_at_its_moment() -> None:
    """Until then nobody else has it; from then on its holder cannot give it back."""
    table = LockTable()
    first = table.lock(0.0, "a", 10.0)

    assert first == StoreLock("a", 1, 10.0)
    assert table.lock(9.9, "a", 10.0) is None
    assert table.unlock(10.0, first) is False
    assert table.lock(10.0, "a", 10.0) == StoreLock("a", 2, 10.0)


def test_lapsed_locks_take_no_memory() -> None:
    """And yet fences go on growing."""
    table = LockTable()
    for number in range(100):
        table.lock(float(number), f"{number}", 1.0)

    assert list(table.held) == ["99"]
    assert table.fence == 100


def test_a_table_comes_back_as_it_was_written() -> None:
    """Through JSON."""
    table = LockTable()
    table.lock(0.0, "a", 10.0)

    again = LockTable.read(json.loads(json.dumps(table.dump())))

    assert again.dump() == table.dump()
    assert again.lock(5.0, "a", 10.0) is None


@pytest.mark.parametrize("expires_in", [0.0, -1.0, float("inf"), float("nan")])
def test_a_lock_ends(expires_in: float) -> None:
    """Whatever becomes of its holder."""
    with pytest.raises(StateStoreError, match="a lock expires after a positive number of seconds"):
        check_expiry(expires_in)
