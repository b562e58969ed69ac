"""Replacing a file so that at any moment either the old one or the new one is there whole."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

__all__ = ["read_regular", "replace_file"]

_CHUNK = 16 * 2**20  # bytes per write call, so that huge files do not hit the kernel's 2 GiB limit


def replace_file(path: str | os.PathLike[str], parts: Iterable[bytes | memoryview]) -> None:
    """Write ``parts`` to a temporary file beside ``path``, sync it, and rename it into place.

    A symbolic link stays a link; what it points at is replaced. The permissions of an existing
    file are kept, a new one gets those of the umask. After a kill the temporary file
    ``.<name>.<random>.tmp`` may be left over; it is never read.

    Raises:
        OSError: the folder can not be written or the disk is full; the old file is untouched.
        ValueError: ``path`` exists and is no regular file.
    """
    target = Path(os.path.realpath(path))
    mode = None
    with contextlib.suppress(FileNotFoundError):
        status = target.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{os.fspath(path)!r} exists and is not a regular file")
        mode = stat.S_IMODE(status.st_mode)
    temporary = target.parent / f".{target.name[:200]}.{secrets.token_hex(8)}.tmp"
    try:
        _write(temporary, parts, mode)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a regular file, read once.

    Read rather than mapped: a mapped file that another process cuts short kills this one.

    Raises:
        OSError: the file can not be read.
        ValueError: it is a folder, a pipe or a device.
    """
    # Without O_NONBLOCK opening a pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{os.fspath(path)!r} is not a regular file")
        return file.read()


def _write(path: Path, parts: Iterable[bytes | memoryview], mode: int | None) -> None:
    """A new file with this content, on the disk when the call returns."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
        for part in parts:
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(descriptor, rest[:_CHUNK]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the rename durable; some network file systems can not, and say EINVAL."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
