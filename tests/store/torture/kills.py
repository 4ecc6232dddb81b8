"""SIGKILL at random moments: no sealed record is lost, and the run ends as if nothing happened."""

import random
import time
from pathlib import Path

from attnprobe import store
from attnprobe.errors import AttnprobeError
from tests.store.torture.reference import (
    Outcome,
    differing,
    files,
    fingerprint,
    fingerprints,
    sealed,
    write_run,
)
from tests.store.torture.zygote import Zygote

TRIES = 50
"""Kills of one run after which it is let be."""


def torture_by_kills(folder: Path, n_kills: int, seed: int) -> Outcome:
    """Kill writers until `n_kills` were hit, resuming each run until it is done."""
    outcome, rng = Outcome("SIGKILL at random moments"), random.Random(seed)
    write_run(folder / "undisturbed")
    expected, read = files(folder / "undisturbed"), fingerprints(folder / "undisturbed")
    with Zygote() as zygote:
        zygote.write(folder / "warm")
        started = time.perf_counter()
        zygote.write(folder / "timed")
        seconds = time.perf_counter() - started
        number = 0
        while outcome.n_done < n_kills:
            path, number = folder / f"run-{number}", number + 1
            _kill_until_done(zygote, path, (n_kills, seconds), rng, outcome, read)
            outcome.count("runs resumed to their end")
            for name in differing(files(path), expected):
                outcome.violations.append(f"{path.name}: {name} differs from the undisturbed run")
    return outcome


def _kill_until_done(
    zygote: Zygote,
    path: Path,
    limits: tuple[int, float],
    rng: random.Random,
    outcome: Outcome,
    read: dict[str, str],
) -> None:
    n_kills, seconds = limits
    known: dict[str, object] = {}
    for attempt in range(TRIES + 1):
        last = attempt == TRIES or outcome.n_done >= n_kills
        code = zygote.write(path, None if last else rng.uniform(0, seconds))
        if code not in (0, -9):
            outcome.violations.append(f"{path.name}: a writer ended with {code}")
            return
        now = sealed(path)
        outcome.count("sealed files found whole", len(known))
        for name in known:
            if now.get(name) != known[name]:
                outcome.violations.append(f"{path.name}: sealed {name} is gone or changed")
        if code == 0:
            return
        outcome.n_done += 1
        known = now
        _read_what_is_there(path, known, outcome, read)


def _read_what_is_there(
    path: Path, known: dict[str, object], outcome: Outcome, read: dict[str, str]
) -> None:
    try:
        with store.open_run(path) as run:
            ids = list(run.records.index)
            wrong = [name for name in ids if fingerprint(run, name) != read[name]]
            lacking = len([n for n in known if n.endswith(".h5")]) - len(run.receipts)
    except AttnprobeError as error:
        if known:
            outcome.violations.append(f"{path.name}: sealed records cannot be read: {error}")
        outcome.count("kills before there was a run")
        return
    outcome.count("records read between kills", len(ids))
    if wrong or lacking:
        outcome.violations.append(f"{path.name}: {wrong or lacking} wrong or missing after a kill")
