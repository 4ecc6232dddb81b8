"""What a disk may hold after a crash: anything that was not yet forced onto it may be lost or torn.

The model is as harsh as POSIX allows. The content of a file is safe once the file was synced; a
name in a folder, once the folder was. Of what came after, any part may be there: single writes may
be missing, cut off or torn in sectors, a file may have its length without its data, and names may
have been added or removed in any order. A rename happens whole or not at all.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attnprobe import store
from attnprobe.errors import AttnprobeError
from tests.store.torture.reference import (
    Outcome,
    differing,
    files,
    fingerprint,
    fingerprints,
    write_chunks,
    write_run,
)
from tests.store.torture.zygote import Zygote

SECTOR = 512
State = dict[str, bytes | None]
"""Content of every file by its full name; None for a folder."""


@dataclass
class Inode:
    """A file: what is safe, and what came after."""

    safe: bytes = b""
    pending: list[tuple] = field(default_factory=list)

    def live(self) -> bytes:
        """Return what a program sees."""
        return _applied(self.safe, self.pending)

    def after(self, rng: random.Random | None) -> bytes:
        """Return what may be there after a crash; the least that is sure without `rng`."""
        fate = rng.choice(("nothing", "all", "some", "holes")) if rng else "nothing"
        if fate == "nothing":
            return self.safe
        if fate == "all":
            return self.live()
        survived = [torn for write in self.pending for torn in _torn(write, rng)]
        content = _applied(self.safe, survived)
        whole = len(self.live())
        if fate == "holes":  # the length was written, the data was not
            content = content[:whole].ljust(whole, b"\0")
        return content


def _applied(content: bytes, operations: Sequence[tuple]) -> bytes:
    data = bytearray(content)
    for kind, *what in operations:
        if kind == "truncate":
            [size] = what
            data = data[:size].ljust(size, b"\0")
        else:
            at, new = what
            data = data.ljust(at, b"\0")
            data[at : at + len(new)] = new
    return bytes(data)


def _torn(operation: tuple, rng: random.Random) -> list[tuple]:
    """Return what survives of a write."""
    fate = rng.choice(("lost", "kept", "cut", "sectors"))
    if fate == "lost":
        return []
    if fate == "kept" or operation[0] == "truncate":
        return [operation]
    _, at, data = operation
    if fate == "cut":
        return [("write", at, data[: rng.randrange(len(data) + 1)])]
    starts = range(0, len(data), SECTOR)
    return [("write", at + s, data[s : s + SECTOR]) for s in starts if rng.random() < 0.5]


@dataclass
class Folder:
    """A folder: names that are safe, and what was done to them after."""

    safe: dict[str, int | str] = field(default_factory=dict)
    """Inode of a file, or the full name of a folder."""
    pending: list[tuple] = field(default_factory=list)

    def after(self, rng: random.Random | None) -> dict[str, int | str]:
        """Return the names that may be there after a crash; those that are sure without `rng`."""
        fate = rng.choice(("nothing", "all", "first", "some")) if rng else "nothing"
        if fate == "first":  # as a journal has it
            return _renamed(self.safe, self.pending[: rng.randrange(len(self.pending) + 1)])
        share = {"nothing": 0.0, "all": 1.1, "some": 0.5}[fate]
        survived = [operation for operation in self.pending if rng and rng.random() < share]
        return _renamed(self.safe, survived)


def _renamed(names: dict[str, int | str], operations: Sequence[tuple]) -> dict[str, int | str]:
    names = dict(names)
    for kind, name, what in operations:
        if kind == "add":
            names[name] = what
        elif kind == "remove":
            names.pop(name, None)
        else:
            target, inode = what
            names.pop(name, None)
            names[target] = inode
    return names


class Disk:
    """The files under one folder, as they are and as they may be after a crash."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.inodes: dict[int, Inode] = {}
        self.folders: dict[str, Folder] = {root: Folder()}

    def do(self, operation: tuple) -> None:
        """Apply an operation that was recorded."""
        kind, *what = operation
        getattr(self, f"_{kind.replace(' ', '_')}")(*what)

    def after_crash(self, rng: random.Random | None) -> State:
        """Return files and folders as a crash at this moment may leave them."""
        content = {number: inode.after(rng) for number, inode in self.inodes.items()}
        state: State = {}
        waiting = [self.root]
        while waiting:
            folder = waiting.pop()
            for name, what in self.folders[folder].after(rng).items():
                full = str(Path(folder, name))
                if isinstance(what, str):
                    state[full] = None
                    waiting.append(what)
                else:
                    state[full] = content[what]
        return state

    def replayed(self) -> State:
        """Return files and folders as a program sees them."""
        copy = Disk(self.root)
        copy.inodes = {number: Inode(inode.live()) for number, inode in self.inodes.items()}
        copy.folders = {
            path: Folder(_renamed(folder.safe, folder.pending))
            for path, folder in self.folders.items()
        }
        return copy.after_crash(None)

    def _name(self, path: str, kind: str, what: object) -> None:
        folder, name = os.path.split(path)
        self.folders[folder].pending.append((kind, name, what))

    def _exists(self, path: str, inode: int, content: bytes) -> None:
        self.inodes[inode] = Inode(content)
        folder, name = os.path.split(path)
        self._existing_folder(folder)
        self.folders[folder].safe[name] = inode

    def _existing_folder(self, path: str) -> None:
        if path not in self.folders:
            above, name = os.path.split(path)
            self._existing_folder(above)
            self.folders[path] = Folder()
            self.folders[above].safe[name] = path

    def _create(self, path: str, inode: int) -> None:
        self.inodes[inode] = Inode()
        self._name(path, "add", inode)

    def _write(self, inode: int, at: int, data: bytes) -> None:
        self.inodes[inode].pending.append(("write", at, data))

    def _truncate(self, inode: int, size: int) -> None:
        self.inodes[inode].pending.append(("truncate", size))

    def _sync(self, inode: int) -> None:
        self.inodes[inode] = Inode(self.inodes[inode].live())

    def _sync_folder(self, path: str) -> None:
        folder = self.folders[path]
        self.folders[path] = Folder(_renamed(folder.safe, folder.pending))

    def _link(self, path: str, inode: int) -> None:
        self._name(path, "add", inode)

    def _unlink(self, path: str) -> None:
        self._name(path, "remove", None)

    def _rename(self, source: str, target: str, inode: int) -> None:
        if Path(source).parent != Path(target).parent:
            raise ValueError("a rename between folders is not modelled")
        self._name(source, "rename", (Path(target).name, inode))

    def _mkdir(self, path: str) -> None:
        self.folders[path] = Folder()
        self._name(path, "add", path)

    def _rmdir(self, path: str) -> None:
        self._name(path, "remove", None)


def on_disk(root: Path) -> State:
    """Return files and folders as they really are."""
    return {
        os.fspath(path): path.read_bytes() if path.is_file() else None for path in root.rglob("*")
    }


def torture_by_crashes(folder: Path, n_states: int, seed: int) -> Outcome:
    """Crash a writer at random moments, with random losses, and resume.

    Half of the states come from a run begun anew, half from one that was resumed among leftovers.
    """
    outcome, rng = Outcome("crashes with unsynced writes lost"), random.Random(seed)
    write_run(folder / "whole")
    expected, read = files(folder / "whole"), fingerprints(folder / "whole")
    traces = []
    with Zygote() as zygote:
        for name, prepare in (("begun", None), ("resumed", _leave_half)):
            (folder / name).mkdir()
            if prepare:
                prepare(folder / name / "run")
            root = (folder / name).absolute()
            operations = zygote.record(folder / name / "run", folder / f"{name}.pickle")
            disk = Disk(os.fspath(root))
            for operation in operations:
                disk.do(operation)
            if disk.replayed() != on_disk(root):
                raise RuntimeError("the record of the writer's operations is not whole")
            outcome.count("operations recorded", len(operations))
            traces.append((os.fspath(root), operations))
    for number in range(n_states):
        root, operations = traces[number % len(traces)]
        run = folder / f"state-{number}" / "run"
        safe = _crash(root, operations, run.parent, rng)
        outcome.n_done += 1
        where = f"{run.parent.name} of the run {Path(root).name}"
        _check(run, safe, where, outcome, read)
        _resume(run, where, outcome, expected)
    return outcome


def _leave_half(path: Path) -> None:
    """Begin a run whose second shard lacks its receipt, and whose third is torn as well."""
    write_chunks(path, 3)
    (path / "shards/chunk-00001.json").unlink()
    (path / "shards/chunk-00002.json").unlink()
    os.truncate(path / "shards/chunk-00002.h5", 3000)


def _crash(root: str, operations: Sequence[tuple], folder: Path, rng: random.Random) -> set[str]:
    """Lay out what a crash at a random moment may leave.

    Returns:
        Names of the shards that must be there: their receipts' names were synced.
    """
    n_before = sum(operation[0] == "exists" for operation in operations)
    turns = [i for i in range(n_before, len(operations)) if operations[i][0] != "write"]
    anywhere = rng.randrange(n_before, len(operations) + 1)
    moment = anywhere if rng.random() < 0.3 else rng.choice(turns) + rng.randrange(2)
    disk = Disk(root)
    for operation in operations[:moment]:
        disk.do(operation)
    for path, content in sorted(disk.after_crash(rng).items()):
        place = folder / os.path.relpath(path, root)
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    shards = disk.folders.get(str(Path(root, "run", "shards")), Folder()).safe
    return {name for name in shards if f"{name.removesuffix('.h5')}.json" in shards}


def _check(run: Path, safe: set[str], where: str, outcome: Outcome, read: dict[str, str]) -> None:
    """Hold a state to it: what has a safe receipt is listed, and all that is listed reads right."""
    try:
        opened = store.open_run(run)
    except AttnprobeError as error:
        if safe:
            outcome.violations.append(f"{where}: sealed records cannot be read: {error}")
        outcome.count("states without a run")
        return
    with opened:
        listed = set(opened.records["shard"])
        if not safe <= listed:
            outcome.violations.append(f"{where}: {sorted(safe - listed)} lost")
        for record_id, shard in opened.records["shard"].items():
            try:
                right = fingerprint(opened, record_id) == read[record_id]
            except AttnprobeError as error:
                outcome.violations.append(f"{where}: '{record_id}' is listed, but: {error}")
                continue
            outcome.count("records with a safe receipt read right", int(shard in safe and right))
            if not right:
                outcome.violations.append(f"{where}: '{record_id}' reads wrong")


def _resume(run: Path, where: str, outcome: Outcome, expected: dict[str, object]) -> None:
    try:
        write_run(run)
    except AttnprobeError as error:
        outcome.violations.append(f"{where}: cannot be resumed: {error}")
        return
    outcome.count("runs resumed to their end")
    for name in differing(files(run), expected):
        outcome.violations.append(f"{where}: {name} differs once resumed")
