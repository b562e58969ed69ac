"""Saving is atomic: whatever happens on the way, the old file or the new one is there whole."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sparsekd.io import _atomic
from sparsekd.io._atomic import read_regular, replace_file

OLD, NEW = b"old " * 500, b"new!" * 700


@pytest.fixture
def target(tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(OLD)
    return path


def test_kill_at_every_step_of_a_save_leaves_the_old_file_or_the_new_one(tmp_path):
    script = Path(__file__).with_name("kill_during_save.py")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    *killed, finished = [line.split() for line in run.stdout.splitlines()]
    assert finished == ["finished", "0", "new"]
    assert {line[1] for line in killed} == {str(int(signal.SIGKILL))}
    left = [line[2] for line in killed]
    # Two opens, at least three writes of three moments, two fsyncs and closes, chmod, rename.
    assert len(left) >= 2 * 2 + 3 * 3 + 2 * 2 + 2 * 2 + 2 + 2
    switch = left.index("new")
    assert set(left[:switch]) == {"old"}
    assert set(left[switch:]) == {"new"}
    assert len(left) - switch == 7  # after the rename; then open, fsync and close of the folder


def test_the_content_is_written_and_nothing_else_is_left(target):
    replace_file(target, [NEW[:100], memoryview(NEW)[100:]])
    assert target.read_bytes() == NEW
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("call", range(3))
def test_a_full_disk_leaves_the_old_file_and_no_other(target, monkeypatch, call):
    write, calls = os.write, []

    def full(descriptor, data):
        calls.append(len(data))
        if len(calls) > call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(_atomic, "_CHUNK", 1000)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(target, [NEW])
    monkeypatch.undo()
    assert len(calls) == call + 1
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("step", ["open", "fchmod", "fsync", "close", "replace"])
def test_an_error_at_any_step_leaves_the_old_file_and_no_other(target, monkeypatch, step):
    real = getattr(os, step)

    def fail(*args, **kwargs):
        if step == "close":
            real(*args)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="Input/output error"):
        replace_file(target, [NEW])
    monkeypatch.undo()
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == [target.name]


def test_an_interrupt_cleans_up_too(target, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace_file(target, [NEW])
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == [target.name]


def test_short_writes_are_continued(target, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:37]))
    replace_file(target, [NEW, b"", NEW])
    assert target.read_bytes() == NEW + NEW


def test_data_is_synced_before_the_rename_and_the_folder_after(target, monkeypatch):
    events = []

    def note(name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            kind = name
            if name == "fsync":
                kind = "sync folder" if stat.S_ISDIR(os.fstat(args[0]).st_mode) else "sync file"
            events.append(kind)
            return real(*args, **kwargs)

        return call

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(os, name, note(name))
    replace_file(target, [NEW])
    assert events == ["write", "sync file", "replace", "sync folder"]


def test_a_folder_that_can_not_be_synced_is_no_error_but_a_failing_disk_is(target, monkeypatch):
    real = os.fsync

    def fsync(error):
        def call(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(error, "fsync")
            real(descriptor)

        return call

    monkeypatch.setattr(os, "fsync", fsync(errno.EINVAL))
    replace_file(target, [NEW])
    monkeypatch.setattr(os, "fsync", fsync(errno.EIO))
    with pytest.raises(OSError, match="fsync"):
        replace_file(target, [OLD])


def test_permissions_are_kept_and_new_files_follow_the_umask(target):
    target.chmod(0o640)
    replace_file(target, [NEW])
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    before = os.umask(0o027)
    try:
        replace_file(target.with_name("other"), [NEW])
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.with_name("other").stat().st_mode) == 0o640


def test_a_link_stays_a_link_and_its_target_is_replaced(target):
    folder = target.parent / "links"
    folder.mkdir()
    link = folder / "current"
    link.symlink_to(target)
    replace_file(link, [NEW])
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert os.listdir(folder) == ["current"]


def test_what_is_no_regular_file_is_neither_replaced_nor_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/null")):
        with pytest.raises(ValueError, match="not a regular file"):
            replace_file(path, [NEW])
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(ValueError, match="not a regular file"):
            read_regular(path)
    with pytest.raises(OSError):  # noqa: PT011 - the system's own message
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "missing" / "model", [NEW])


def test_a_long_name_still_fits_beside_its_temporary_one(tmp_path):
    path = tmp_path / ("n" * 250)
    replace_file(path, [NEW])
    assert path.read_bytes() == NEW
