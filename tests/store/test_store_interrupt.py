"""Ctrl-C while HDF5 writes is neither lost nor half-way."""

import os
import signal

import pytest

from attnprobe import store
from attnprobe.store.stickyfile import StickyFile, uninterrupted
from tests.store.builders import make_captures, open_writer, write_missing


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


def test_an_error_is_not_replaced_by_the_interrupt():
    def fail_when_interrupted():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("this")

    with pytest.raises(ValueError, match="this"):
        fail_when_interrupted()
