"""Facts that processes tell one another over the store they share: gathered, kept as long as they hold, and heard.

What is told within a quarter of a second goes out as one message. Facts that are to be ``kept`` stand in one record of
the store besides, each under the record's version that brought it: versions order facts whoever told them, and a
process that starts later, or missed a message, reads there what holds. The record has a name: one that was lost with
its store or deleted begins anew at version 1, and what was heard of the old one orders nothing in the new one.

Nothing here is on a request's path, and nothing depends on it: a process that hears nothing learns the same by itself.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from modelmesh.errors import ModelMeshError
from modelmesh.interfaces.observability import Severity
from modelmesh.state_manager import ROUTING_KEY

if TYPE_CHECKING:
    from modelmesh._engine.loop_thread import LoopThread
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.interfaces.runtime import Clock, Random
    from modelmesh.interfaces.state_store import StateStore

CHANNEL = "routing"

PACE_SECONDS = 0.25
"""Between two messages of one process; what is told meanwhile goes with the next one."""

LOOK_SECONDS = 5.0
"""Between two looks at the record's version, for messages that were lost."""

AGAIN_SECONDS = 1.0
"""Before facts that the store did not take are told once more, and before listening is tried again."""

HEARING_SECONDS = 2.0
"""After a store was down, how long others may not hear yet: what is told meanwhile is told again."""

KEPT_SECONDS = 86_400.0
"""How long a fact without an end of its own is kept if it only says that all is well."""

_TRIES = 20
"""How often a record that others write at the same time is tried."""

CLOCK_SECONDS = 5.0
"""How far a clock may be from the store's without a word about it."""

_NAME = "record"
"""Under what the record keeps its own name, as a fact that nobody takes."""

Fact = Mapping[str, Any]
Make = Callable[[], Fact | None]
Lost = Callable[[Fact], None]


class SharedFacts:
    """Tells other processes facts, and hands theirs to whoever asked for that kind.

    A fact is plain data. Its ``rest``, if it has one, says for how many seconds from now it holds, None for as long as
    nobody says otherwise; its ``ago``, if it has one, for how many seconds it has held.
    """

    def __init__(self, store: StateStore, clock: Clock, random: Random, telemetry: Telemetry, loop: LoopThread) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._telemetry = telemetry
        self._loop = loop
        self._own = f"{int(random.random() * 2**48):012x}"
        self._takers: dict[str, Callable[[Fact], None]] = {}
        self._echoed: set[str] = set()
        self._guard = threading.Lock()
        self._pending: dict[str, tuple[Make, bool, Lost | None]] = {}
        self._unheard: list[tuple[Lost, Fact]] = []
        self._is_heard_from = float("-inf")
        self._is_sending = False
        self._sent_at = float("-inf")
        self._read_at = 0, 0.0
        self._name = ""
        self._names = 0
        self._has_warned = False
        self._heard: dict[str, int] = {}

    def on(self, kind: str, take: Callable[[Fact], None], *, own: bool = False) -> None:
        """Hand over what others tell of a kind; ``take`` runs on the mesh's own loop.

        Args:
            kind: As in `tell`.
            take: Called with each fact.
            own: Whether it takes what this process told as well, in the order in which the store passed it on to all.
        """
        self._takers[kind] = take
        if own:
            self._echoed.add(kind)

    def tell(self, kind: str, name: str, make: Make, *, kept: bool = False, lost: Lost | None = None) -> None:
        """Tell others, soon; called on any thread, returns at once.

        Args:
            kind: Who takes it there.
            name: What it is about: a later fact of the same kind and name takes the place of one that waits.
            make: Returns the fact as it is when the message goes out, or None when it is no news any more.
            kept: Whether it is there for those who hear of it later, too.
            lost: Called with a fact that is not kept, on the mesh's own loop, when others may not have heard it: the
                store did not take it, or has only just come back. Who wants it known tells it again.
        """
        with self._guard:
            self._pending[f"{kind}:{name}"] = make, kept, lost
            if self._is_sending:
                return
            self._is_sending = True
        self._begin(self._sent_at + PACE_SECONDS - self._clock.monotonic())

    def _begin(self, wait: float) -> None:
        with suppress(ModelMeshError):  # the mesh is being shut down: there is nobody left to tell
            self._loop.start(self._send(wait))

    async def _send(self, wait: float) -> None:
        if wait > 0:
            await self._clock.sleep(wait)
        self._sent_at = self._clock.monotonic()
        with self._guard:
            pending, self._pending = self._pending, {}
        passing: list[tuple[Lost, Fact]] = []
        try:
            await self._pass_on(pending, passing)
            wait = PACE_SECONDS
            self._passed(passing)
        except Exception as error:  # a store may raise anything: what comes next is still told
            self._trace_trouble("others could not be told of a move", error)
            wait = AGAIN_SECONDS
            self._is_heard_from = float("inf")
            self._hand_back(passing)
            with self._guard:
                for key, told in pending.items():
                    if told[1]:
                        self._pending.setdefault(key, told)
        with self._guard:
            self._is_sending = bool(self._pending)
        if self._is_sending:
            self._begin(wait)

    def _passed(self, told: list[tuple[Lost, Fact]]) -> None:
        """Note what the store took while others may not hear it yet, and see to it that it is told again then."""
        now = self._clock.monotonic()
        if self._is_heard_from == float("inf"):
            self._is_heard_from = now + HEARING_SECONDS
        if told and now < self._is_heard_from:
            if not self._unheard:
                self._loop.start(self._tell_again(self._is_heard_from - now))
            self._unheard += told

    async def _tell_again(self, wait: float) -> None:
        await self._clock.sleep(wait)
        unheard, self._unheard = self._unheard, []
        self._hand_back(unheard)

    def _hand_back(self, told: list[tuple[Lost, Fact]]) -> None:
        for lost, fact in told:
            try:
                lost(fact)
            except Exception as error:  # a plugin's: what comes next is still told
                self._trace_trouble("news that others may not have heard are not told again", error)

    async def _pass_on(
        self, pending: Mapping[str, tuple[Make, bool, Lost | None]], told: list[tuple[Lost, Fact]]
    ) -> None:
        """Publish what there is to tell; what may be lost is put into ``told``, whatever comes of it."""
        kept: dict[str, Fact] = {}
        passing: dict[str, Fact] = {}
        for key, (make, keep, lost) in pending.items():
            try:
                fact = make()
            except Exception as error:  # it would raise again each time: the others are told without it
                self._trace_trouble(f"news of the kind {key.partition(':')[0]!r} could not be put together", error)
                continue
            if fact is not None:
                (kept if keep else passing)[key] = fact
                if lost is not None:
                    told.append((lost, fact))
        said = [[key, 0, fact] for key, fact in passing.items()]
        if kept:
            version, news = await self._keep(kept)
            said += [[key, version, fact] for key, fact in news.items()]
        if said:
            message = {"from": self._own, _NAME: self._name, "facts": said}
            await self._store.publish(CHANNEL, json.dumps(message).encode())

    async def _keep(self, facts: Mapping[str, Fact]) -> tuple[int, Mapping[str, Fact]]:
        """Write facts into the record; return its version, 0 if that did not succeed, and those that were news."""
        for _ in range(_TRIES):
            record = await self._store.load(ROUTING_KEY)
            now = self._clock.time()
            book = {key: each for key, each in _read(record.data if record else b"").items() if each["until"] > now}
            news = {key: fact for key, fact in facts.items() if not _is_known(book.get(key), fact, now)}
            if not news:
                return 0, {}
            version = (0 if record is None else record.version) + 1
            if not _name_of(book):
                self._names += 1
                itself = {"name": f"{self._own}.{self._names}", "rest": None}
                book[_NAME] = {"version": version, "until": now + _length(itself), "fact": itself}
            for key, fact in news.items():
                book[key] = {"version": version, "until": now + _length(fact), "fact": fact}
            saved = await self._store.save(ROUTING_KEY, json.dumps(book).encode(), expected_version=version - 1)
            if saved is not None:
                self._compare_clocks(saved.modified_at)
                self._is_about(_name_of(book))
                for key in news:
                    self._heard[key] = version
                return version, news
            await self._clock.sleep(self._random.uniform(0.0, 0.02))
        return 0, facts

    def _compare_clocks(self, stores: float) -> None:
        """Say once that this process's clock is not the store's: its days and months begin at another time."""
        ahead = self._clock.time() - stores
        if abs(ahead) > CLOCK_SECONDS and not self._has_warned:
            self._has_warned = True
            self._telemetry.trace(
                Severity.WARNING,
                "storage",
                f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the state store's:"
                " its days and months begin at another time than those of other processes; set it right",
            )

    def _trace_trouble(self, what: str, error: Exception) -> None:
        """Trace what went wrong; of an exception that is none of ours, which may say anything, only its type."""
        if isinstance(error, ModelMeshError):
            self._telemetry.trace(Severity.WARNING, "storage", what, error=str(error))
        else:
            self._telemetry.trace(Severity.ERROR, "storage", what, {"error_type": type(error).__name__})

    # --- hearing ----------------------------------------------------------------

    async def run(self) -> None:
        """Take over what others tell, for as long as it runs."""
        await asyncio.gather(self._listen(), self._look())

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(self._store.subscribe(CHANNEL)) as messages:
                    async for message in messages:
                        self._hear(message)
            except Exception as error:  # as when telling
                self._trace_trouble("moves of others are not heard", error)
            await self._clock.sleep(AGAIN_SECONDS)

    async def _look(self) -> None:
        wait = AGAIN_SECONDS  # the first message may come before anybody listens
        while True:
            try:
                await self.catch_up()
            except ModelMeshError:
                pass  # whoever claims limits there says so
            except Exception as error:
                self._trace_trouble("moves of others could not be read", error)
            await self._clock.sleep(wait)
            wait = LOOK_SECONDS

    def _hear(self, message: bytes) -> None:
        try:
            said = json.loads(message)
            is_own = said["from"] == self._own
            if not is_own:
                self._is_about(str(said.get(_NAME, "")))
            for key, version, fact in said["facts"]:
                if not is_own or key.partition(":")[0] in self._echoed:
                    self._take(str(key), int(version), fact)
        except (KeyError, ValueError, TypeError, AttributeError):
            return  # of another version

    async def catch_up(self) -> None:
        """Read the record, if it has changed, and take over what was not heard."""
        found = await self._store.stat(ROUTING_KEY)
        if found is None or (found.version, found.modified_at) == self._read_at:
            return
        record = await self._store.load(ROUTING_KEY)
        if record is None:
            return
        book = _read(record.data)
        self._is_about(_name_of(book))
        if record.version < self._read_at[0]:
            self._heard.clear()  # it began anew, and whoever began it gives it no name yet
        self._read_at = record.version, record.modified_at
        now = self._clock.time()
        for key, each in book.items():
            # Where clocks differ, a fact holds no longer than it would have if it had been told just now.
            left = min(_length(each["fact"]), each["until"] - now)
            fact = dict(each["fact"])
            if fact.get("rest") is not None:
                fact["rest"] = left
            if "ago" in fact:
                fact["ago"] += _length(each["fact"]) - left
            if left > 0 and key not in self._pending:
                self._take(key, each["version"], fact)

    def _is_about(self, name: str) -> None:
        """Note which record versions are of from now on, if it says so."""
        if name and name != self._name:
            self._name = name
            self._heard.clear()

    def _take(self, key: str, version: int, fact: Fact) -> None:
        take = self._takers.get(key.partition(":")[0])
        if version:
            if version <= self._heard.get(key, 0):
                return
            self._heard[key] = version
        if take is not None:
            try:
                take(fact)
            except (KeyError, ValueError, TypeError, AttributeError):
                pass  # of a process with another configuration
            except Exception as error:  # a plugin's: whatever it is, what comes next is still heard
                facts = {"kind": key.partition(":")[0], "error_type": type(error).__name__}
                self._telemetry.trace(Severity.ERROR, "storage", "news of others could not be taken over", facts)


def _length(fact: Fact) -> float:
    """Return for how many seconds a fact is kept."""
    if "rest" not in fact:
        return KEPT_SECONDS
    return 400 * 86_400.0 if fact["rest"] is None else float(fact["rest"])


def _is_known(entry: Mapping[str, Any] | None, fact: Fact, now: float) -> bool:
    """Whether the record says the same already: many processes meet one failure at once."""
    if entry is None:
        return False
    known = entry["fact"]
    timeless = {"rest": None, "ago": None}
    if {**known, **timeless} != {**fact, **timeless} or (known.get("rest") is None) != (fact.get("rest") is None):
        return False
    # What would hold for longer than it ever was to was told by a clock that is ahead, who knows when.
    return bool(now + _length(fact) * 0.9 - 1.0 <= entry["until"] <= now + _length(known) + 1.0)


def _name_of(book: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the record's name; one that an earlier version began has none."""
    return str(book[_NAME]["fact"].get("name", "")) if _NAME in book else ""


def _read(data: bytes) -> dict[str, dict[str, Any]]:
    """Read the record; what cannot be read is as if it were not there."""
    try:
        book = json.loads(data or b"{}")
        return {
            str(key): {"version": int(each["version"]), "until": float(each["until"]), "fact": dict(each["fact"])}
            for key, each in book.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
