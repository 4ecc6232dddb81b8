"""Ctrl-C while HDF5 writes is neither lost nor half-way."""

import os
import signal

import pytest

from attnprobe import store
from attnprobe.store.exporting import export
from attnprobe.store.stickyfile import StickyFile, uninterrupted
from tests.store.builders import make_captures, make_run, open_writer, write_missing


@pytest.fixture(autouse=True)
def _heeded():
    """Heed interrupts, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("call", ["seek", "write", "tell"])
def test_an_interrupt_within_a_callback_stops_the_writer(tmp_path, monkeypatch, call):
    captures = make_captures(tasks=1)
    writer, plain, pressed = open_writer(tmp_path / "run", captures), getattr(StickyFile, call), []

    def interrupted(self, *arguments):
        if not pressed:
            pressed.append(call)
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, *arguments)

    monkeypatch.setattr(StickyFile, call, interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        write_missing(writer, captures)
    assert pressed
    assert signal.getsignal(signal.SIGINT) is before
    write_missing(writer, captures)
    assert store.verify(tmp_path / "run", full=True).good


@pytest.mark.parametrize("ending", [".h5", ".nc"])
@pytest.mark.parametrize("call", ["seek", "write"])
def test_an_interrupt_within_a_callback_stops_an_export(tmp_path, monkeypatch, ending, call):
    make_run(tmp_path / "run", tasks=1)
    out = tmp_path / f"one{ending}"
    plain, pressed, done = getattr(StickyFile, call), [], []

    def interrupted(self, *arguments):
        if not pressed:
            pressed.append(call)
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, *arguments)

    monkeypatch.setattr(StickyFile, call, interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "run", out, on_progress=lambda n, total: done.append(n))
    assert pressed
    assert not done, "it went on to the end"
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    export(tmp_path / "run", out)
    assert out.is_file()


def test_an_error_is_not_replaced_by_the_interrupt():
    def fail_when_interrupted():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("this")

    with pytest.raises(ValueError, match="this"):
        fail_when_interrupted()
