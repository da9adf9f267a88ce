"""Operations on the books, as the server's functions take them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.sql import SQL, Composed, Identifier

from modelmesh.interfaces.ledger import Claim, WindowClaim
from modelmesh_cdk.ledger import MICROSECONDS

RESERVE, SETTLE, LEDGER = b"modelmesh_reserve", b"modelmesh_settle", b"modelmesh_ledger"
"""Statements that a connection for the books prepares: one reservation, one settlement or release, any operations."""

_PREPARED = (
    "PREPARE modelmesh_reserve AS SELECT {s}.reserve_alone($1, $2, $3, $4, $5, $6, $7, $8, $9);"
    "PREPARE modelmesh_settle AS SELECT {s}.settle_alone($1, $2);"
    "PREPARE modelmesh_ledger AS SELECT {s}.ledger($1, $2, $3, $4)"
)


@dataclass(frozen=True, slots=True)
class Posting:
    """One operation on the books.

    Attributes:
        operation: As the server's function takes it.
        windows: Window accounts it claims on.
        rates: Rate accounts it claims on.
        closing: Reservation it settles or releases.
        repeatable: Whether carrying it out twice does what once does.
    """

    operation: tuple[Any, ...]
    windows: tuple[str, ...] = ()
    rates: tuple[str, ...] = ()
    closing: str = ""
    repeatable: bool = False


def reservation(name: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Posting:
    """Claim all or nothing."""
    # Accounts are locked in one order by everybody: windows, then rates, each by name.
    ordered = sorted(claims, key=_rank) if len(claims) > 1 else claims
    places = [1] if len(claims) == 1 else [1 + ordered.index(claim) for claim in claims]
    windows = [each for each in ordered if isinstance(each, WindowClaim)]
    rates = [each for each in ordered if not isinstance(each, WindowClaim)]
    operation = (
        "reserve",
        name,
        microseconds(lease),
        dispatched,
        _names(each.account for each in ordered),
        _numbers([each.amount for each in ordered]),
        _numbers([each.limit for each in ordered]),
        _numbers([microseconds(each.keep) for each in windows] + [microseconds(each.period) for each in rates]),
        _numbers([0] * len(windows) + [each.burst for each in rates]),
        _numbers(places),
    )
    return Posting(
        operation,
        windows=tuple([each.account for each in windows]),
        rates=tuple([each.account for each in rates]),
        # A reservation that is there already is granted again.
        repeatable=True,
    )


def settlement(name: str, actual: Mapping[str, int]) -> Posting:
    """Replace what was reserved by what was spent."""
    return Posting(("settle", name, dict(actual)), closing=name)


def release(name: str) -> Posting:
    """Give everything back."""
    return Posting(("release", name, None), closing=name)


def balances(accounts: Sequence[str]) -> Posting:
    """Read windows."""
    return Posting(("balances", list(accounts)), repeatable=True)


def prepared(schema: str) -> Composed:
    """What prepares the statements on a connection."""
    return SQL(_PREPARED).format(s=Identifier(schema))


def statement(batch: Sequence[Posting]) -> tuple[bytes, list[bytes | None]]:
    """Return what carries out a batch, and its parameters; one operation alone costs less than one of many."""
    first = batch[0].operation
    if len(batch) == 1 and first[0] == "reserve":
        return RESERVE, [str(word).encode() for word in first[1:]]
    if len(batch) == 1 and batch[0].closing:
        return SETTLE, [first[1].encode(), _json(first[2]) if first[0] == "settle" else None]
    return LEDGER, [
        _json([posting.operation for posting in batch]),
        *(
            _names(sorted(names)).encode()
            for names in (
                {account for posting in batch for account in posting.windows},
                {account for posting in batch for account in posting.rates},
                {posting.closing for posting in batch if posting.closing},
            )
        ),
    ]


def answers(name: bytes, value: bytes) -> Sequence[Any]:
    """Read what a statement returned: the answer to each operation."""
    if value == b"true":
        return [True]
    found: Any = json.loads(value)
    return [found] if name != LEDGER else found


def microseconds(seconds: float) -> int:
    """Return whole microseconds."""
    return int(seconds * MICROSECONDS)


def _rank(claim: Claim) -> tuple[bool, str]:
    return not isinstance(claim, WindowClaim), claim.account


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _numbers(values: Iterable[int]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


def _names(names: Iterable[str]) -> str:
    """Return the text of an array of texts."""
    return "{" + ",".join(['"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in names]) + "}"
