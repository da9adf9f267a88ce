"""The SQLite store in a process that forks: nothing that was confirmed is lost, whoever closes first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

# Programs of their own, since a process with the threads of other tests shall not be forked. In each, ``store`` is a
# store on the file that is named to it.
BEGIN = """
import asyncio, os, sys, threading
from modelmesh.errors import StateStoreError
from modelmesh_plugins.state_stores.sqlite import SQLiteConfig, SQLiteStateStore, forks

def make():
    return SQLiteStateStore(SQLiteConfig(path=sys.argv[1], busy_timeout=1.0))

def wait_for(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

async def hear(store):
    channel = f"news/{os.getpid()}"  # parent and child hear one another
    listener = store.subscribe(channel)
    waiting = asyncio.ensure_future(anext(listener))
    await store.publish(channel, b"message")
    assert await asyncio.wait_for(waiting, 5.0) == b"message"
    return listener

store = make()
"""

PARENT_CLOSES_FIRST = """
async def begin():
    await store.save("parent", b"")
    global listener
    listener = await hear(store)

async def go_on(store):
    assert await store.save("early", b"") is not None
    os.write(ready[1], b"!")
    os.read(closed[0], 1)
    assert await store.save("late", b"") is not None
    await store.close()

async def look():
    print(*await make().list())

ready, closed = os.pipe(), os.pipe()
loop = asyncio.new_event_loop()
loop.run_until_complete(begin())
child = os.fork()
if not child:
    asyncio.run(go_on(make() if sys.argv[2] == "its own store" else store))
    os._exit(0)
os.read(ready[0], 1)
asyncio.run(store.close())
os.write(closed[1], b"!")
wait_for(child)
asyncio.run(look())
loop.run_until_complete(listener.aclose())
loop.close()
"""

LISTEN = """
loop = asyncio.new_event_loop()
listener = loop.run_until_complete(hear(store))
child = os.fork()
asyncio.run(hear(store))
asyncio.run(store.close())
if not child:
    os._exit(0)
wait_for(child)
print("both have heard")
loop.run_until_complete(listener.aclose())
loop.close()
"""

CHILD_CLOSES_FIRST = """
async def save(key):
    assert await store.save(key, b"") is not None

async def end():
    print(*await store.list())
    await store.close()

asyncio.run(save("parent"))
child = os.fork()
if not child:
    asyncio.run(save("child"))
    asyncio.run(store.close())
    os._exit(0)
wait_for(child)
asyncio.run(save("parent-later"))
asyncio.run(end())
"""

AT_WORK = """
inside, go = threading.Event(), threading.Event()

def slow(page):
    inside.set()
    assert go.wait(5.0)
    return page.save("slow", b"", None)

async def begin():
    global job
    job = store._thread.submit(slow)
    await asyncio.to_thread(inside.wait)

async def use(store):
    try:
        assert await store.save("child", b"") is not None
        print("child: saved", flush=True)
    except StateStoreError as error:
        print("child:", error.message, flush=True)
    await store.close()

async def end():
    assert await job is not None
    print("parent:", *await store.list())
    await store.close()

if sys.argv[2] == "short":
    os.register_at_fork(before=go.set)  # that is done first, then forks wait for the transaction
else:
    forks.PATIENCE = 0.01
loop = asyncio.new_event_loop()
loop.run_until_complete(begin())
child = os.fork()
if not child:
    asyncio.run(use(store))
    asyncio.run(use(make()))
    os._exit(0)
wait_for(child)
go.set()
loop.run_until_complete(end())
"""


def run(program: str, *arguments: object) -> str:
    """Run a program to its end and return what it printed."""
    # From Python 3.12 on a fork beside threads is warned of; that it goes well here is what is tested.
    command = [
        sys.executable,
        "-W",
        "ignore:This process:DeprecationWarning",
        "-c",
        BEGIN + program,
        *map(str, arguments),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


@pytest.mark.parametrize("which", ["its own store", "the inherited store"])
def test_what_a_child_saves_is_there_after_the_parent_has_closed(tmp_path: Path, which: str) -> None:
    """The parent does not take the child's file for one that nobody uses, and delete its log."""
    assert run(PARENT_CLOSES_FIRST, tmp_path / "state.sqlite", which) == "early late parent\n"


def test_what_a_parent_saves_is_there_after_the_child_has_closed(tmp_path: Path) -> None:
    """Nor the other way around; the parent goes on as if nothing had been."""
    assert run(CHILD_CLOSES_FIRST, tmp_path / "state.sqlite") == "child parent parent-later\n"


def test_a_fork_waits_for_the_transaction_that_has_begun(tmp_path: Path) -> None:
    """Its child then is one like all others."""
    written = run(AT_WORK, tmp_path / "state.sqlite", "short")

    assert written == "child: saved\nchild: saved\nparent: child slow\n"


def test_a_child_that_was_forked_inside_a_transaction_is_refused(tmp_path: Path) -> None:
    """Where waiting did not help, SQLite cannot be used in the child any more, and it says what to do."""
    path = tmp_path / "state.sqlite"

    refused = (
        f"child: {path} cannot be used by this process: SQLite was at work when it was forked;"
        " fork before the store is used, or start processes by spawn\n"
    )
    assert run(AT_WORK, path, "long") == f"{refused}{refused}parent: slow\n"


def test_a_child_hears_messages(tmp_path: Path) -> None:
    """Where its parent listened before the fork, it begins to listen itself."""
    assert run(LISTEN, tmp_path / "state.sqlite") == "both have heard\n"
