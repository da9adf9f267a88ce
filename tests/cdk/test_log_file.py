"""LogFile: rotates, survives being moved away, and keeps lines whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmesh_cdk.log_file import LogFile

DAY = 86_400.0
NOON = 1_767_268_800.0  # 2026-01-01 12:00 UTC


class Time:
    """Clocks that stand still until they are moved."""

    def __init__(self) -> None:
        self.now = NOON
        self.passed = 0.0


class Folder:
    """Log files in a folder of their own, closed when the test is over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.time = Time()
        self.files: list[LogFile] = []

    def open(self, name: str = "log", **settings: Any) -> LogFile:
        file = LogFile(self.path / name, monotonic=lambda: self.time.passed, now=lambda: self.time.now, **settings)
        self.files.append(file)
        return file

    def write(self, file: LogFile, *lines: str) -> None:
        """Add and flush each line."""
        for line in lines:
            file.add(line)
            file.flush()

    def __getitem__(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """An empty folder."""
    folder = Folder(tmp_path)
    yield folder
    for file in folder.files:
        file.close()


def test_lines_reach_the_file_when_they_are_flushed(folder: Folder) -> None:
    """And not before."""
    file = folder.open()
    file.add("one")
    file.add("zwei ü")

    before = folder["log"]
    file.flush()

    assert (before, folder["log"]) == ("", "one\nzwei ü\n")


def test_what_is_there_stays_or_goes_as_asked(folder: Folder) -> None:
    """``append`` is about the start alone."""
    (folder.path / "log").write_text("old\n")
    folder.write(folder.open(append=True), "new")
    appended = folder["log"]

    folder.write(folder.open(append=False), "newer")

    assert (appended, folder["log"]) == ("old\nnew\n", "newer\n")


def test_missing_folders_are_made(folder: Folder) -> None:
    """However deep."""
    folder.write(folder.open("a/b/log"), "one")

    assert folder["a/b/log"] == "one\n"


# --- rotation ----------------------------------------------------------------------------


def test_a_full_file_is_moved_aside_before_it_grows_too_large(folder: Folder) -> None:
    """The newest of the old ones is ``.1``, and only so many stay."""
    file = folder.open(rotation="size", max_size=8, max_files=3)

    folder.write(file, "aaa", "bbb", "ccc", "ddd", "eee", "fff", "ggg")

    assert folder.names == ["log", "log.1", "log.2"]
    assert (folder["log"], folder["log.1"], folder["log.2"]) == ("ggg\n", "eee\nfff\n", "ccc\nddd\n")


def test_lines_that_wait_count_too(folder: Folder) -> None:
    """A batch that does not fit is spread over files, each line whole."""
    file = folder.open(rotation="size", max_size=8, max_files=5)
    for line in ("aaa", "bbb", "ccc", "ddd", "üü"):
        file.add(line)
    file.flush()

    assert (folder["log.2"], folder["log.1"], folder["log"]) == ("aaa\nbbb\n", "ccc\nddd\n", "üü\n")


def test_a_line_larger_than_a_file_gets_one_of_its_own(folder: Folder) -> None:
    """It is neither cut nor dropped."""
    file = folder.open(rotation="size", max_size=4)

    folder.write(file, "a" * 100, "b")

    assert (folder["log.1"], folder["log"]) == ("a" * 100 + "\n", "b\n")


def test_keeping_one_file_begins_it_anew(folder: Folder) -> None:
    """``max_files: 1`` bounds the disk to one file."""
    file = folder.open(rotation="size", max_size=8, max_files=1)

    folder.write(file, "aaa", "bbb", "ccc")

    assert (folder.names, folder["log"]) == (["log"], "ccc\n")


def test_what_was_in_the_file_before_counts(folder: Folder) -> None:
    """A restart does not let it grow beyond its size."""
    (folder.path / "log").write_text("old old\n")
    folder.write(folder.open(rotation="size", max_size=8), "new")

    assert (folder["log.1"], folder["log"]) == ("old old\n", "new\n")


def test_each_day_has_a_file(folder: Folder) -> None:
    """Old ones are named by the day (UTC) they are about; the oldest go."""
    file = folder.open(rotation="daily", max_files=3)
    for day in ("thursday", "friday", "saturday", "sunday"):
        folder.write(file, day)
        folder.time.now += DAY

    assert folder.names == ["log", "log.2026-01-02", "log.2026-01-03"]
    assert (folder["log"], folder["log.2026-01-03"]) == ("sunday\n", "saturday\n")


def test_an_empty_day_leaves_no_file(folder: Folder) -> None:
    """Only what has lines is moved aside."""
    file = folder.open(rotation="daily")
    folder.time.now += 3 * DAY

    folder.write(file, "one")

    assert folder.names == ["log"]


def test_a_day_that_was_rotated_before_gets_a_number(folder: Folder) -> None:
    """Nothing is written over."""
    (folder.path / "log.2026-01-01").write_text("earlier\n")
    file = folder.open(rotation="daily")
    folder.write(file, "one")
    folder.time.now += DAY

    folder.write(file, "two")

    assert (folder["log.2026-01-01"], folder["log.2026-01-01.2"]) == ("earlier\n", "one\n")


def test_other_files_beside_are_left_alone(folder: Folder) -> None:
    """However alike their names."""
    for name in ("log.2026-01-01.gz", "log.txt", "logs.2025-01-01"):
        (folder.path / name).write_text("mine")
    file = folder.open(rotation="daily", max_files=2)
    for _ in range(4):
        folder.write(file, "one")
        folder.time.now += DAY

    assert {"log.2026-01-01.gz", "log.txt", "logs.2025-01-01"} <= set(folder.names)


def test_never_is_never(folder: Folder) -> None:
    """Neither size nor days matter."""
    file = folder.open(rotation="never", max_size=1)
    folder.write(file, "a" * 100)
    folder.time.now += DAY
    folder.write(file, "b" * 100)

    assert folder.names == ["log"]


def test_a_rotation_that_fails_is_put_off(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines go on into the old file, and after a minute it is tried again."""
    file = folder.open(rotation="size", max_size=4)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        folder.write(file, "aaa", "bbb")
    folder.write(file, "ccc")
    whole = folder["log"]
    folder.time.passed += 61

    folder.write(file, "ddd")

    assert (whole, folder["log.1"], folder["log"]) == ("aaa\nbbb\nccc\n", "aaa\nbbb\nccc\n", "ddd\n")


# --- what others do to the file -------------------------------------------------------------


@pytest.mark.parametrize("away", [lambda path: path.rename(f"{path}.old"), Path.unlink], ids=["moved", "removed"])
def test_a_file_that_went_away_is_opened_anew(folder: Folder, away: Callable[[Path], Any]) -> None:
    """As ``logrotate`` has it; within a second."""
    file = folder.open()
    folder.write(file, "one")
    away(folder.path / "log")
    folder.time.passed += 1.1

    folder.write(file, "two")

    assert folder["log"] == "two\n"


def test_a_file_put_in_its_place_is_written_to(folder: Folder) -> None:
    """``logrotate`` with ``create``: the new one is there already."""
    file = folder.open()
    folder.write(file, "one")
    (folder.path / "log").rename(folder.path / "log.old")
    (folder.path / "log").write_text("made\n")
    folder.time.passed += 1.1

    folder.write(file, "two")

    assert (folder["log"], folder["log.old"]) == ("made\ntwo\n", "one\n")


def test_a_file_that_was_emptied_counts_from_nothing(folder: Folder) -> None:
    """``logrotate`` with ``copytruncate``."""
    file = folder.open(rotation="size", max_size=8)
    folder.write(file, "aaa", "bbb")
    os.truncate(folder.path / "log", 0)
    folder.time.passed += 1.1
    file.flush()

    folder.write(file, "ccc")
    folder.write(file, "ddd")

    assert folder["log"].endswith("ccc\nddd\n")


# --- trouble ------------------------------------------------------------------------------


def refuse(*_: Any) -> Any:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_raised_and_later_lines_come_through(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is lost, once."""
    file = folder.open()
    file.add("lost")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(OSError, match="No space"):
            file.flush()

    folder.write(file, "found")

    assert folder["log"] == "found\n"


def test_a_line_that_was_cut_off_ends_before_the_next(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers of JSON lines lose that line and no other."""
    file = folder.open()
    write = os.write

    def fill(descriptor: int, data: Any) -> int:
        monkeypatch.setattr(os, "write", refuse)
        return write(descriptor, bytes(data)[:6])

    with monkeypatch.context():
        monkeypatch.setattr(os, "write", fill)
        file.add("one")
        file.add("second")
        with pytest.raises(OSError, match="No space"):
            file.flush()
        monkeypatch.setattr(os, "write", write)
    folder.write(file, "third")

    assert folder["log"] == "one\nse\nthird\n"


def test_a_closed_file_is_opened_by_the_next_line(folder: Folder) -> None:
    """Closing twice does no harm either."""
    file = folder.open()
    file.close()
    file.close()

    folder.write(file, "one")

    assert folder["log"] == "one\n"


def test_a_named_pipe_is_refused(folder: Folder) -> None:
    """To open it would wait for a reader, possibly for ever."""
    os.mkfifo(folder.path / "pipe")

    with pytest.raises(OSError, match="named pipe"):
        folder.open("pipe")


def test_what_is_no_file_is_written_to_and_never_rotated(folder: Folder) -> None:
    """``/dev/stdout`` in a container, say."""
    (folder.path / "null").symlink_to("/dev/null")
    file = folder.open("null", rotation="size", max_size=1)

    folder.write(file, "one", "two")

    assert folder.names == ["null"]
