"""The file store when things go wrong: the file, the disk, a second process."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import ValidationError

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Balance, WindowClaim
from modelmesh.interfaces.observability import Severity
from modelmesh_cdk.testing import FakeClock, context
from modelmesh_plugins.state_stores.file import FileConfig, FileStateStore

Result = TypeVar("Result")
MONEY = [WindowClaim("money", 6, 10, 3_600.0)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state is."""
    return tmp_path / "state.json"


def use(
    path: Path,
    scenario: Callable[[FileStateStore], Awaitable[Result]],
    *,
    backup: bool = False,
    traces: list[tuple[Severity, str]] | None = None,
) -> Result:
    """Open a store, use it, and close it."""

    async def run() -> Result:
        store = FileStateStore(FileConfig(path=str(path), backup=backup))
        store.bind(context("storage", clock=FakeClock(), traces=traces))
        try:
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(run())


async def spend(store: FileStateStore) -> None:
    """Have six of ten spent and one record saved."""
    await store.reserve("a", MONEY, lease=60.0)
    await store.settle("a", {})
    await store.save("key", b"data")


async def seen(store: FileStateStore) -> tuple[bytes | None, Balance]:
    """Return what `spend` left."""
    record = await store.load("key")
    return record.data if record is not None else None, (await store.balances(["money"]))["money"]


def test_books_records_and_fences_outlive_the_process(path: Path) -> None:
    """All that was confirmed is there again; a lock's next fence is larger than its last."""

    async def before(store: FileStateStore) -> int:
        await spend(store)
        lock = await store.lock("probe", expires_in=60.0)
        assert lock is not None
        await store.unlock(lock)
        return lock.fence

    async def after(store: FileStateStore) -> int:
        assert await seen(store) == (b"data", Balance(6, 0))
        lock = await store.lock("probe", expires_in=60.0)
        assert lock is not None
        return lock.fence

    assert use(path, before) < use(path, after)


def test_text_is_readable_in_the_file(path: Path) -> None:
    """Whoever opens it sees what was saved; only bytes that are no text are coded."""

    async def save(store: FileStateStore) -> None:
        await store.save("models/gpt", '{"Grüße": 1}'.encode())
        await store.save("binary", b"\xff\x00")

    use(path, save)
    records = json.loads(path.read_text(encoding="utf-8"))["records"]

    assert records["models/gpt"]["text"] == '{"Grüße": 1}'
    assert records["binary"]["base64"] == "/wA="


def test_looking_writes_nothing(path: Path) -> None:
    """A file that is only read is not made."""
    use(path, seen)

    assert not path.exists()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"format": "modelmesh-state", "version": 1}', b"\xff\xfe\x00", b"null trailing"]
)
def test_a_damaged_file_is_kept_aside_and_told(path: Path, damage: bytes) -> None:
    """State begins empty, with one warning that names both files; nothing of the old one is lost."""
    use(path, spend)
    path.write_bytes(damage)
    traces: list[tuple[Severity, str]] = []

    found = use(path, seen, traces=traces)

    assert found == (None, Balance())
    assert path.with_name("state.json.corrupt").read_bytes() == damage
    ((severity, message),) = traces
    assert severity is Severity.WARNING
    assert "state.json is damaged" in message
    assert "state.json.corrupt" in message
    assert "begins empty" in message


@pytest.mark.parametrize(
    "content",
    [b"# my notes", b"providers: {}\n", b"SQLite format 3\0\x10", b"[1, 2]"],
    ids=["text", "yaml", "database", "json"],
)
def test_a_file_that_never_was_a_state_is_left_alone(path: Path, content: bytes) -> None:
    """A slip of the pen under ``storage.path`` costs nobody their notes; looking again says the same."""
    path.write_bytes(content)

    for _ in range(2):
        with pytest.raises(StateStoreError, match=r"state\.json is no state of ModelMesh; name another file"):
            use(path, seen)

    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "left", [b"", b"\0" * 4096, b'{"format": "modelmesh-state", "version": 1, "rec'], ids=["empty", "zeros", "cut"]
)
def test_what_a_crash_leaves_of_a_state_is_put_aside_wherever_it_came_from(path: Path, left: bytes) -> None:
    """It was copied here from another machine, say, without its lock file."""
    path.write_bytes(left)

    assert use(path, seen) == (None, Balance())
    assert path.with_name("state.json.corrupt").read_bytes() == left


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_what_is_no_file_is_refused_and_left_alone(path: Path) -> None:
    """A device would be replaced by a file, and some are read for ever."""
    os.mkfifo(path)

    with pytest.raises(StateStoreError, match="is a device or a pipe; name a file"):
        use(path, seen)

    assert path.is_fifo()


def test_a_second_damaged_file_does_not_replace_the_first(path: Path) -> None:
    """Evidence stays."""
    use(path, spend)
    for damage in (b"one", b"two"):
        path.write_bytes(damage)
        use(path, seen)

    assert path.with_name("state.json.corrupt").read_bytes() == b"one"
    assert path.with_name("state.json.corrupt-2").read_bytes() == b"two"


def test_a_backup_stands_in_for_a_damaged_file(path: Path) -> None:
    """It is the state before the last change, and that is told."""
    use(path, spend, backup=True)
    path.write_bytes(path.read_bytes()[:-20])
    traces: list[tuple[Severity, str]] = []

    found = use(path, seen, backup=True, traces=traces)

    assert found == (None, Balance(6, 0))
    assert "taken from state.json.bak" in traces[0][1]


def test_a_file_from_the_future_is_refused_and_untouched(path: Path) -> None:
    """The message says which version it has and which is known."""
    body = b'{"format": "modelmesh-state", "version": 2, "news": true}'
    path.write_bytes(body)

    with pytest.raises(StateStoreError, match="has format 2, written by a newer ModelMesh; this one reads 1") as caught:
        use(path, spend)

    assert "Upgrade modelmesh-router" in caught.value.message
    assert path.read_bytes() == body


def test_another_programs_file_is_refused_and_untouched(path: Path) -> None:
    """A path that names the wrong file costs nobody that file."""
    path.write_bytes(b'{"name": "my-package"}')

    with pytest.raises(StateStoreError, match="is no state of ModelMesh; name another file"):
        use(path, spend)

    assert path.read_bytes() == b'{"name": "my-package"}'


HOLD = """
import asyncio, sys
from modelmesh_plugins.state_stores.file import FileConfig, FileStateStore
async def main():
    store = FileStateStore(FileConfig(path=sys.argv[1]))
    await store.save("key", b"theirs")
    print("ready", flush=True)
    sys.stdin.read()
asyncio.run(main())
"""


def test_a_second_process_is_refused_until_the_first_ends(path: Path) -> None:
    """It is told who has the file; when that one is killed, the file is free with all that it had confirmed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"ready\n"
        with pytest.raises(StateStoreError, match=f"in use by process {first.pid}.*use modelmesh.sqlite.v1"):
            use(path, spend)
        first.kill()
        first.wait()

    assert use(path, seen)[0] == b"theirs"


# A program of its own, since a process with the threads of other tests shall not be forked.
FORK = """
import asyncio, os, sys
from modelmesh.errors import StateStoreError
from modelmesh_plugins.state_stores.file import FileConfig, FileStateStore

def make():
    return FileStateStore(FileConfig(path=sys.argv[1]))

async def use(who, store):
    try:
        await store.save(who, b"")
        print(who, *await store.list(), flush=True)
    except StateStoreError as error:
        print(who, error.message.partition(" is ")[2].partition(",")[0], flush=True)

store, closed, used = make(), os.pipe(), os.pipe()
asyncio.run(use("parent", store))
child = os.fork()
if not child:
    asyncio.run(use("child", store))
    os.write(used[1], b"!")
    os.read(closed[0], 1)
    asyncio.run(use("child", store))
    asyncio.run(store.close())
    os._exit(0)
os.read(used[0], 1)
asyncio.run(use("parent again", store))
asyncio.run(store.close())
other = make()
asyncio.run(use("another", other))
asyncio.run(other.close())
os.write(closed[1], b"!")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(os.getpid())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_keeps_nobody_from_the_file(path: Path) -> None:
    """The file is the parent's until that closes it, then anybody's: another store's, and the child's."""
    # From Python 3.12 on a fork beside threads is warned of; that it goes well here is what is tested.
    program = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", FORK, str(path)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=30, check=False)

    assert (ended.returncode, ended.stderr) == (0, "")
    *lines, parent = ended.stdout.splitlines()
    assert lines == [
        "parent parent",
        f"child in use by process {parent}",
        "parent again parent parent again",
        "another another parent parent again",
        "child another child parent parent again",
    ]


def test_a_second_store_of_this_process_is_refused(path: Path) -> None:
    """Two meshes on one file would overwrite each other as well."""

    async def scenario(store: FileStateStore) -> None:
        await spend(store)
        other = FileStateStore(FileConfig(path=str(path)))
        with pytest.raises(StateStoreError, match=f"in use by process {os.getpid()}"):
            await other.load("key")
        await other.close()

    use(path, scenario)


class Disk:
    """Stands between a store and its disk, and fails when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, *, folders_only: bool = False) -> None:
        self.is_failing = False
        real = os.fsync

        def fsync(handle: int) -> None:
            if self.is_failing and (stat.S_ISDIR(os.fstat(handle).st_mode) or not folders_only):
                raise OSError(number, os.strerror(number))
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)  # a full disk cannot be had without mounting one


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left for .*state.json: free some on its disk; nothing was changed"),
        (errno.EROFS, "state.json cannot be written: let this user write"),
        (errno.EIO, "state.json cannot be read or written"),
    ],
    ids=["full", "read-only", "broken"],
)
def test_what_could_not_be_written_has_not_happened(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """The caller is told why, what was there stays, in memory too, and the next write works when the disk does."""
    disk = Disk(monkeypatch, number)

    async def scenario(store: FileStateStore) -> None:
        await spend(store)
        disk.is_failing = True
        with pytest.raises(StateStoreError, match=words):
            await store.save("key", b"lost")
        with pytest.raises(StateStoreError, match=words):
            await store.reserve("b", [WindowClaim("money", 4, 10, 3_600.0)], lease=60.0)
        assert await seen(store) == (b"data", Balance(6, 0))
        disk.is_failing = False
        assert (await store.reserve("b", [WindowClaim("money", 4, 10, 3_600.0)], lease=60.0)).granted

    use(path, scenario)

    assert use(path, seen) == (b"data", Balance(6, 4))
    assert [each.name for each in path.parent.iterdir() if each.suffix == ".tmp"] == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP], ids=["invalid", "not supported"])
def test_a_file_system_that_cannot_sync_folders_is_served(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The file was forced to the disk, so it is saved, in memory too."""
    Disk(monkeypatch, number, folders_only=True).is_failing = True

    async def scenario(store: FileStateStore) -> None:
        await spend(store)
        assert await seen(store) == (b"data", Balance(6, 0))

    use(path, scenario)

    assert use(path, seen) == (b"data", Balance(6, 0))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """With what to do about it."""
    with pytest.raises(StateStoreError, match=r"the folder of .*state.json does not exist; make it, or name another"):
        use(tmp_path / "no" / "state.json", spend)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A path that names one is told so."""
    with pytest.raises(StateStoreError, match=r"is a folder; name a file under storage\.path"):
        use(tmp_path, spend)


def test_a_path_with_a_nul_is_refused() -> None:
    """No system has such a file."""
    with pytest.raises(ValidationError, match="pattern"):
        FileConfig(path="a\0b")


def test_a_closed_store_says_so(path: Path) -> None:
    """Instead of opening the file again behind somebody's back."""

    async def scenario(store: FileStateStore) -> None:
        await store.close()
        with pytest.raises(StateStoreError, match="the state store is closed"):
            await store.load("key")

    use(path, scenario)


def test_many_changes_share_a_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand at once cost a few writes, not a thousand."""
    writes: list[int] = []
    monkeypatch.setattr(os, "fsync", writes.append)

    async def scenario(store: FileStateStore) -> None:
        await asyncio.gather(*(store.save(f"key-{number}", b"data") for number in range(1_000)))

    use(path, scenario)

    assert len(writes) < 100
