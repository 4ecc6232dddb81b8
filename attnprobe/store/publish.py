"""Files appear whole or not at all: temporary names, fsync, exclusive publishing."""

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from attnprobe.errors import StoreError

_PROCESS = secrets.token_hex(4)
_TEMPORARY = re.compile(
    r"^(?P<final>.+)\.(?P<host>[A-Za-z0-9-]+)\.(?P<pid>\d+)"
    r"\.(?P<process>[0-9a-f]{8})-[0-9a-f]{6}\.tmp$"
)
_NO_LINKS = {
    errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV,
}  # fmt: skip
_NO_EXCLUSIVE_RENAME = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}
_HERE, _NO_REPLACE, _EXCLUSIVE = -100, 1, 4
"""`AT_FDCWD` and `RENAME_NOREPLACE` of Linux, `RENAME_EXCL` of macOS."""
_FIRST_NAMESPACE = 0xEFFFFFFC
"""Number of the process namespace that a Linux machine starts with."""


def _host() -> str:
    """Name whom process numbers belong to: the host, and the container if this is one."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return name
    return name if namespace == _FIRST_NAMESPACE else f"{name}-{namespace:x}"


def temporary_beside(final: Path) -> Path:
    """Name a temporary file that says who is writing it."""
    return final.with_name(
        f"{final.name}.{_host()}.{os.getpid()}.{_PROCESS}-{secrets.token_hex(3)}.tmp"
    )


def is_temporary(name: str) -> bool:
    """Whether a file name is one that `temporary_beside` made."""
    return _TEMPORARY.match(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files whose writer ran on this host and is gone."""
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _TEMPORARY.match(path.name)
        if match and match["host"] == _host() and _is_dead(int(match["pid"]), match["process"]):
            path.unlink(missing_ok=True)


def _is_dead(pid: int, process: str) -> bool:
    if pid == os.getpid():
        return process != _PROCESS  # an earlier process had our number, as in a container
    if sys.platform == "win32":
        return False  # there, os.kill would end the process that it asks about
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def sync(path: Path) -> None:
    """Force a file, or the list of names in a folder, onto the disk."""
    if path.is_dir() and sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network folders have no fsync
            raise
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, such that a crash does not take their names away."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def publish(temporary: Path, final: Path) -> bool:
    """Give a finished file its name, unless the name is taken.

    Args:
        temporary: The finished file; gone afterwards.
        final: The name it should have, in the same folder.

    Returns:
        Whether the file was published; False if another writer was first.

    Raises:
        StoreError: If this folder knows no safe way, and another writer is about to publish.
    """
    try:
        sync(temporary)
        try:
            return _link(temporary, final)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        try:
            return _rename_exclusively(temporary, final)
        except OSError as error:
            if error.errno not in _NO_EXCLUSIVE_RENAME:
                raise
        return _rename_under_claim(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
        sync(final.parent)


def _link(temporary: Path, final: Path) -> bool:
    try:
        os.link(temporary, final)
    except FileExistsError:  # a network folder may do it, lose its answer, and be asked again
        return final.exists() and final.samefile(temporary)
    return True


def _rename_exclusively(temporary: Path, final: Path) -> bool:
    """Rename in one step that fails if the new name is taken.

    Raises:
        OSError: With `errno.ENOSYS` where the system has no such step.
    """
    if sys.platform == "win32":
        try:
            temporary.rename(final)  # there, it never replaces
        except FileExistsError:
            return False
        return True
    step = _exclusive_step()
    if step is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if step(os.fsencode(temporary), os.fsencode(final)) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    raise OSError(number, os.strerror(number), os.fspath(final))


def _exclusive_step() -> Callable[[bytes, bytes], int] | None:
    """Return the system's own exclusive rename, if it has one."""
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        return lambda old, new: library.renameat2(_HERE, old, _HERE, new, _NO_REPLACE)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return lambda old, new: library.renamex_np(old, new, _EXCLUSIVE)
    return None


def _rename_under_claim(temporary: Path, final: Path) -> bool:
    """Rename where the system has no exclusive way: only whoever makes the claim file may.

    A claim is never taken over: a writer killed in this moment leaves it to a person to remove.
    """
    claim = final.with_name(f"{final.name}.claim")
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        if final.exists():
            return False
        raise StoreError(
            "another writer is publishing this file, or was killed while it did",
            where=str(claim), fix="if nobody writes here, delete the claim, and try again",
        ) from None  # fmt: skip
    try:
        if final.exists():
            return False
        temporary.rename(final)
        return True
    finally:
        claim.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def told_plainly(path: Path):  # noqa: ANN201 - a context manager's type says nothing to the reader
    """Turn the errors of a full disk or a read-only folder into a `StoreError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise _store_error(path, error) from error


def _store_error(path: Path, error: OSError | RuntimeError) -> StoreError:
    code, text = getattr(error, "errno", None), str(error)
    if code in {errno.ENOSPC, errno.EDQUOT} or "No space left" in text or "quota" in text:
        return StoreError(
            "the disk is full",
            where=str(path),
            fix="free some space and give the same command again; what was sealed stays",
        )
    if code == errno.ENAMETOOLONG:
        return StoreError(
            "the name is too long for this disk", where=str(path), fix="choose a shorter name"
        )
    if code in {errno.ENOTDIR, errno.EEXIST}:
        return StoreError(
            "a file is where a folder should be", where=str(path), fix="choose another folder"
        )
    if code in {errno.EACCES, errno.EROFS, errno.EPERM}:
        return StoreError(
            "the folder cannot be written",
            where=str(path),
            fix="choose another folder or change its permissions",
        )
    return StoreError(
        "writing failed", where=str(path), got=text, fix="give the same command again"
    )
