"""State in one readable file: for a single process that shall find its state again."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakSet

from pydantic import BaseModel, ConfigDict, Field

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Balance, Claim, Verdict
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateRecord, StoreGuarantees, StoreLock
from modelmesh_cdk.batches import outcomes_of
from modelmesh_cdk.commit_thread import CommitThread, Job
from modelmesh_cdk.ledger import Books
from modelmesh_cdk.locks import LockTable
from modelmesh_cdk.state_store import BaseStateStore

FORMAT = "modelmesh-state"
VERSION = 1
"""Of the file's format."""
FOREIGN = "is no state of ModelMesh; name another file under storage.path"
_OPENING = b'{"format": "%s"' % FORMAT.encode()


class FileConfig(BaseModel):
    """Settings of one ``modelmesh.file.v1`` state store."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    path: str = Field(
        default="./mesh-state.json",
        min_length=1,
        pattern=r"^[^\x00]*$",
        description="The file; made if missing. Its folder is not.",
    )
    backup: bool = Field(
        default=False,
        description="Keep the file as it was before the last change beside it, as .bak; read when the file is damaged.",
    )


class FileStateStore(BaseStateStore[FileConfig]):
    """Keeps everything in memory and, before any change is confirmed, in a file that is replaced as a whole.

    The file is written to a temporary one, forced to the disk and renamed, so there is never half of it. Changes that
    come while it is written share the next writing. A lock file beside it keeps other processes away. Every writing
    costs as much as there is state: beyond some thousands of keys, or for several processes, take SQLite.
    """

    config_model = FileConfig
    guarantees = StoreGuarantees(
        survives_restart=True, shared_between_processes=False, note="one process at a time; for more, take SQLite"
    )

    def __init__(self, config: FileConfig | None = None) -> None:
        super().__init__(config)
        self._disk = _StateFile(Path(self.config.path), backup=self.config.backup)
        self._state: _State | None = None
        self._written = b""
        self._thread: CommitThread[_State] = CommitThread("modelmesh-file", self._commit, self._disk.release)
        self._moment = time.time

    def bind(self, context: ConnectorContext) -> None:
        """Receive clock and trace."""
        super().bind(context)
        clock, start, begin = context.clock, context.clock.time(), context.clock.monotonic()
        # Unix time, since it must mean something after a restart, but without the jumps of a clock that is put right.
        self._moment = lambda: start + clock.monotonic() - begin

    # --- records ----------------------------------------------------------------------------

    async def _load(self, key: str) -> StateRecord | None:
        return await self._thread.run(lambda state: state.records.get(key), writes=False)

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        def save(state: _State) -> StateRecord | None:
            before = state.records.get(key)
            version = before.version if before is not None else 0
            if expected_version is not None and expected_version != version:
                return None
            record = state.records[key] = StateRecord(key, data, version + 1, self._moment())
            return record

        return await self._thread.run(save)

    async def _delete(self, key: str) -> bool:
        return await self._thread.run(lambda state: state.records.pop(key, None) is not None)

    async def _list(self, prefix: str) -> Sequence[str]:
        return await self._thread.run(
            lambda state: [key for key in state.records if key.startswith(prefix)], writes=False
        )

    # --- books and locks ----------------------------------------------------------------------

    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        return await self._thread.run(
            lambda state: state.books.reserve(self._moment(), reservation, claims, lease=lease, dispatched=dispatched)
        )

    async def _settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        return await self._settling(reservation, actual)

    async def _settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Sequence[bool | Exception]:
        return await outcomes_of([self._settling(*each) for each in settlements.items()])

    def _settling(self, reservation: str, actual: Mapping[str, int]) -> asyncio.Future[bool]:
        return self._thread.submit(lambda state: state.books.settle(self._moment(), reservation, actual))

    async def _release(self, reservation: str) -> bool:
        return await self._thread.run(lambda state: state.books.release(self._moment(), reservation))

    async def _balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        return await self._thread.run(lambda state: state.books.balances(self._moment(), accounts), writes=False)

    async def _lock(self, name: str, expires_in: float) -> StoreLock | None:
        return await self._thread.run(lambda state: state.locks.lock(self._moment(), name, expires_in))

    async def _unlock(self, lock: StoreLock) -> bool:
        return await self._thread.run(lambda state: state.locks.unlock(self._moment(), lock))

    async def close(self) -> None:
        """Write what waits and let others have the file."""
        await super().close()
        await self._thread.close()

    # --- the writer's thread ----------------------------------------------------------------------

    def _commit(self, jobs: Sequence[Job[_State]]) -> None:
        """Carry out a batch and write the file once; when that fails, nothing has happened."""
        try:
            state = self._opened()
            for job in jobs:
                job.carry_out(state)
            if not any(job.writes for job in jobs):
                return
            body = state.encode()
            if body != self._written:
                self._disk.write(body)
                self._written = body
        except OSError as error:
            self._state = None
            for job in jobs:  # each awaits an exception of its own
                job.error = self._disk.explain(error)
                job.error.__cause__ = error
        except StateStoreError as error:
            for job in jobs:
                job.error = StateStoreError(error.message)
        except BaseException:
            self._state = None  # half changed: the next begins from what is on the disk
            raise

    def _opened(self) -> _State:
        """Return the state in memory; read it, once this process owns the file.

        Raises:
            StateStoreError: Another process owns it, or it is none of ours, or of a newer version.
            OSError: It cannot be read.
        """
        if self._disk.own():
            self._state, self._written = None, self._disk.read(_State.decode, self._trace)
        if self._state is None:
            self._state = _State.decode(self._written) if self._written else _State()
        return self._state

    def _trace(self, message: str) -> None:
        if hasattr(self, "context"):
            self.context.trace(Severity.WARNING, message)


class _State:
    """Everything that is kept."""

    def __init__(self) -> None:
        self.records: dict[str, StateRecord] = {}
        self.books = Books()
        self.locks = LockTable()

    def encode(self) -> bytes:
        """Write it as JSON."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "records": {
                key: {**_written(record.data), "version": record.version, "modified_at": record.modified_at}
                for key, record in self.records.items()
            },
            "books": self.books.dump(),
            "locks": self.locks.dump(),
        }
        return json.dumps(document, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, body: bytes) -> _State:
        """Read what `encode` wrote.

        Raises:
            StateStoreError: It is another program's file, or of a newer version.
            ValueError: It is damaged.
        """
        document = json.loads(body)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise StateStoreError(FOREIGN)
        if document.get("version") != VERSION:
            raise StateStoreError(
                f"has format {document.get('version')!r}, written by a newer ModelMesh; this one reads {VERSION}."
                " Upgrade modelmesh-router, or name another file under storage.path"
            )
        state = cls()
        try:
            state.books = Books.read(document["books"])
            state.locks = LockTable.read(document["locks"])
            for key, each in document["records"].items():
                record = StateRecord(key, _read(each), int(each["version"]), float(each["modified_at"]))
                state.records[key] = record
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a part is missing or of the wrong kind: {error}") from error
        return state


def _written(data: bytes) -> dict[str, str]:
    """Write bytes as the text they are, for people who look into the file, else in base64."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _read(record: Mapping[str, Any]) -> bytes:
    if "text" in record:
        return str(record["text"]).encode()
    return base64.b64decode(record["base64"], validate=True)


class _StateFile:
    """The file on the disk, and this process's right to it."""

    def __init__(self, path: Path, *, backup: bool) -> None:
        self._named = path
        self._backup = backup
        self._path = path
        self._owner: FileIO | None = None
        self._was_used = False  # by a store, before this one
        _FILES.add(self)

    def own(self) -> bool:
        """Keep other processes away from the file; return whether this call was the one that did.

        Raises:
            StateStoreError: Another process, or another store of this one, has it.
            OSError: The lock file cannot be written.
        """
        if self._owner is not None:
            return False
        # A symbolic link stays one: what it points to is replaced.
        self._path = Path(os.path.realpath(self._named))
        if self._path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if self._path.exists() and not self._path.is_file():
            raise StateStoreError(f"{self._named} is a device or a pipe; name a file under storage.path")
        self._was_used = self._beside(".lock").exists()
        # The lock file stays when it is released: were it deleted, two could hold locks on two files of its name.
        # Without a buffer: a fork in the midst of this would copy it, and its lock.
        owner = self._owner = self._beside(".lock").open("a+b", buffering=0)
        try:
            if not _lock(owner):
                owner.seek(0)
                holder = (owner.read(20) or b"").decode(errors="replace").strip() or "unknown"
                is_own = holder == str(os.getpid())
                whose, remedy = (", this one", "shut down the mesh that has it") if is_own else ("", "end that one")
                raise StateStoreError(
                    f"{self._named} is in use by process {holder}{whose}, and modelmesh.file.v1 serves one mesh alone;"
                    f" {remedy}, name another file under storage.path, or use modelmesh.sqlite.v1 for both"
                )
            owner.truncate(0)
            owner.write(b"%d" % os.getpid())
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Let others have the file."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.close()

    def read(self, decode: Callable[[bytes], object], trace: Callable[[str], None]) -> bytes:
        """Return what the file holds, nothing if there is none.

        A damaged one is put aside, and its backup read if there is one; one that never was a store's is left alone.

        Args:
            decode: Raises ValueError for a damaged file, StateStoreError for one that is not to be touched.
            trace: Told of a damaged file.

        Raises:
            StateStoreError: Names the file.
            OSError: It cannot be read.
        """
        try:
            body = self._path.read_bytes()
        except FileNotFoundError:
            return b""
        try:
            return self._checked(body, decode)
        except ValueError as error:
            if not self._is_ours(body):
                self._leave_alone()
                raise StateStoreError(f"{self._named} {FOREIGN}") from error
            aside = self._put_aside()
            found = f"{self._named} is damaged ({error}); it was kept as {aside.name}"
        with suppress(FileNotFoundError, ValueError):
            body = self._checked(self._beside(".bak").read_bytes(), decode) if self._backup else b""
            if body:
                trace(f"{found}, and the state before the last change is taken from {self._named.name}.bak")
                return body
        trace(f"{found}, and state begins empty: what was spent before is not known any more")
        return b""

    def write(self, body: bytes) -> None:
        """Replace the file as a whole: after a crash there is the old one or the new one.

        Raises:
            OSError: It could not be; the old one is still there.
        """
        temporary = self._beside(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            if self._backup:
                self._back_up()
            temporary.replace(self._path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(self._path.parent)

    def explain(self, error: OSError) -> StateStoreError:
        """Say what happened to which file, and what to do."""
        path = self._named
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return StateStoreError(
                f"no space left for {path}: free some on its disk; nothing was changed", retryable=True
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StateStoreError(f"{path} cannot be written: let this user write the file and its folder")
        if error.errno == errno.EISDIR:
            return StateStoreError(f"{path} is a folder; name a file under storage.path")
        if not self._path.parent.is_dir():
            return StateStoreError(
                f"the folder of {path} does not exist; make it, or name another file under storage.path"
            )
        return StateStoreError(f"{path} cannot be read or written: {error.strerror or error}", retryable=True)

    def _checked(self, body: bytes, decode: Callable[[bytes], object]) -> bytes:
        try:
            decode(body)
        except StateStoreError as error:
            self._leave_alone()
            raise StateStoreError(f"{self._named} {error.message}") from error
        return body

    def _leave_alone(self) -> None:
        """Let go of a file that is not to be touched, and leave nothing beside it that was not there before."""
        self.release()
        if not self._was_used:
            with suppress(OSError):
                self._beside(".lock").unlink()

    def _is_ours(self, body: bytes) -> bool:
        """Whether what cannot be read was written by a store, or is what a crash leaves of that."""
        return self._was_used or body.startswith(_OPENING) or not body.strip(b"\0")

    def _put_aside(self) -> Path:
        """Rename the file; earlier ones put aside stay."""
        for number in count(1):
            aside = self._beside(".corrupt" if number == 1 else f".corrupt-{number}")
            if not aside.exists():
                break
        return self._path.replace(aside)

    def _back_up(self) -> None:
        """Keep the present file under another name; it is never missing under its own."""
        temporary = self._beside(".bak.tmp")
        with suppress(FileNotFoundError):
            temporary.unlink()
        with suppress(FileNotFoundError):
            try:
                temporary.hardlink_to(self._path)
            except (OSError, NotImplementedError):
                if not self._path.exists():
                    return
                shutil.copyfile(self._path, temporary)  # this file system has no links
            temporary.replace(self._beside(".bak"))

    def _beside(self, ending: str) -> Path:
        return self._path.with_name(self._path.name + ending)


_FILES: WeakSet[_StateFile] = WeakSet()
"""Of this process."""


def _release_inherited() -> None:
    """Leave the files to the process this one was forked from.

    A lock lasts as long as anybody has its descriptor open: with the child's, nobody could have a file that the parent
    has closed, not even the child.
    """
    for file in list(_FILES):
        file.release()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_release_inherited)


def _lock(file: FileIO) -> bool:
    """Lock a file against all others, until it is closed or the process ends; return whether nobody had."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # Far beyond its content, which others want to read.
            file.seek(1 << 30)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def _sync_folder(folder: Path) -> None:
    """Force a rename to the disk, where folders can be."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and FUSE file systems have no such thing. The file itself was forced to the disk, and renamed.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(handle)
