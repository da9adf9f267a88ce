"""Calls of ``ledger.lua``, the script that keeps the books: the commands a request waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from modelmesh.interfaces.ledger import Claim, WindowClaim
from modelmesh_cdk.ledger import MICROSECONDS
from modelmesh_plugins.state_stores.redis.commands import Command, packed_word
from modelmesh_plugins.state_stores.redis.scripts import Script

_KEPT = 4096
"""Limits whose words are kept packed: of one claim and the next only the amount differs, and how long it counts."""
_NO_BURST = packed_word("")


class LedgerCalls:
    """Makes the commands.

    Args:
        script: ``ledger.lua``.
        prefix: Of all keys.
    """

    def __init__(self, script: Script, prefix: str) -> None:
        self._script = script
        self._prefix = prefix
        self._begin = packed_word("EVALSHA") + packed_word(script.digest)
        self._leases = packed_word(f"{prefix}leases")
        self._then = packed_word(prefix)

    def reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Command:
        """Claim all or nothing. A reservation that is there already is granted again."""
        keys = ""
        words = packed_word(_microseconds(lease)) + packed_word("1" if dispatched else "0")
        for claim in claims:
            if isinstance(claim, WindowClaim):
                key, before, limit = _words_of_window(self._prefix, claim.account, claim.limit)
                after = f"{limit}{packed_word(_microseconds(claim.keep))}{_NO_BURST}"
            else:
                key, before, after = _words_of_rate(self._prefix, claim.account, claim.limit, claim.period, claim.burst)
            keys += key
            words += f"{before}{packed_word(str(claim.amount))}{after}"
        return self._call("reserve", reservation, words, 2 + 6 * len(claims), keys, len(claims), repeatable=True)

    def settle(self, reservation: str, actual: Mapping[str, int]) -> Command:
        """Book what was spent. A reservation that is settled again seems never to have been open: not repeatable."""
        words = "".join([packed_word(account) + packed_word(str(amount)) for account, amount in actual.items()])
        return self._call("settle", reservation, words, 2 * len(actual))

    def release(self, reservation: str) -> Command:
        """Give everything back."""
        return self._call("release", reservation)

    def balances(self, accounts: Sequence[str]) -> Command:
        """Read the books."""
        return self._call("balances", "", "".join(map(packed_word, accounts)), len(accounts), repeatable=True)

    def _call(
        self,
        operation: str,
        reservation: str,
        words: str = "",
        number_of_words: int = 0,
        keys: str = "",
        number_of_keys: int = 0,
        *,
        repeatable: bool = False,
    ) -> Command:
        number_of_keys += 2
        text = (
            f"*{6 + number_of_keys + number_of_words}\r\n{self._begin}{packed_word(str(number_of_keys))}"
            f"{self._leases}{packed_word(f'{self._prefix}r:{reservation}')}{keys}"
            f"{packed_word(operation)}{self._then}{packed_word(reservation)}{words}"
        )
        return Command(text.encode(), self._script, repeatable)


@lru_cache(maxsize=_KEPT)
def _words_of_window(prefix: str, account: str, limit: int) -> tuple[str, str, str]:
    """Return a claim's key, its words before the amount, and the limit, which follows it.

    How long it counts is not among them: that is reckoned from now to the window's end, anew for each claim.
    """
    return packed_word(f"{prefix}w:{account}"), _packed("w", account), packed_word(str(limit))


@lru_cache(maxsize=_KEPT)
def _words_of_rate(prefix: str, account: str, limit: int, period: float, burst: int) -> tuple[str, str, str]:
    """Return a claim's key, and its words before and after the amount."""
    key, before = f"{prefix}q:{account}", ("q", account)
    return packed_word(key), _packed(*before), _packed(str(limit), _microseconds(period), str(burst))


def _packed(*words: str) -> str:
    return "".join(map(packed_word, words))


def _microseconds(seconds: float) -> str:
    return str(int(seconds * MICROSECONDS))
