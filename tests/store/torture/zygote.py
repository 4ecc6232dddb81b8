"""A process that has everything imported, and forks writers that live as long as they are let."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
ENTRY = """
import sys
sys.path.insert(0, {root!r})
from tests.store.torture import zygote
zygote.serve()
"""


class Zygote:
    """Starts writers in milliseconds. Use it as a context manager."""

    def __enter__(self) -> "Zygote":
        self.process = subprocess.Popen(
            [sys.executable, "-c", ENTRY.format(root=os.fspath(ROOT))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def write(self, path: Path, kill_after: float | None = None) -> int:
        """Have the run written, or finished.

        Args:
            path: Folder of the run.
            kill_after: Seconds after which the writer is killed.

        Returns:
            Its exit code; −9 if it was killed.
        """
        return self._ask(f"write {kill_after if kill_after is not None else -1} {path}")

    def record(self, path: Path, trace: Path) -> list[tuple]:
        """Have the run written by a process that is gone afterwards.

        Returns:
            Every operation on files within the folder of the run's parent.
        """
        code = self._ask(f"record -1 {path}|{trace}")
        if code:
            raise RuntimeError(f"the recorded writer ended with {code}")
        return pickle.loads(trace.read_bytes())

    def _ask(self, request: str) -> int:
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the process that starts writers is gone")
        return int(answer)


def serve() -> None:
    """Fork a writer for each line of the input, and print how it ended."""
    from tests.store.torture.recording import recorded
    from tests.store.torture.reference import captures, write_run

    captures()
    for line in sys.stdin:
        what, kill_after, place = line.rstrip("\n").split(" ", 2)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                if what == "write":
                    write_run(Path(place))
                else:
                    path, trace = map(Path, place.split("|"))
                    with recorded(path.parent) as operations:
                        write_run(path)
                    trace.write_bytes(pickle.dumps(operations))
                code = 0
            except BaseException:  # the fork must not go on as a server
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        print(_ended(pid, float(kill_after)), flush=True)


def _ended(pid: int, kill_after: float) -> int:
    """Wait for a writer, or kill it. It is not reaped before, so its number is still its own."""
    if kill_after >= 0:
        deadline = time.perf_counter() + kill_after
        while time.perf_counter() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(min(5e-4, max(deadline - time.perf_counter(), 0)))
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
