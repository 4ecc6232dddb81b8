"""The families by name, and which of them a split draws from."""

from attnprobe.errors import DatasetError, nearest
from attnprobe.tasks.sequences.family import Family
from attnprobe.tasks.sequences.integer import (
    Arithmetic,
    CopyReverse,
    Interleave,
    Modular,
    Order2Recurrence,
    Order3Recurrence,
    Periodic,
    RandomWalk,
    RunLength,
    SecondDifference,
)
from attnprobe.tasks.sequences.real import (
    DampedOscillator,
    EulerOde,
    Geometric,
    LogisticMap,
    Lorenz,
    TentMap,
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Arithmetic(),
        Geometric(),
        SecondDifference(),
        Order2Recurrence(),
        Order3Recurrence(),
        Modular(),
        Periodic(),
        RunLength(),
        CopyReverse(),
        Interleave(),
        LogisticMap(),
        TentMap(),
        DampedOscillator(),
        EulerOde(),
        Lorenz(),
        RandomWalk(),
    )
}
"""Every family: nine trained, six held out, and the random walk as a negative control."""

SPLITS = ("train", "seen", "unseen-parameters", "unseen")


def find_family(name: str) -> Family:
    """Look a family up by name.

    Raises:
        DatasetError: If there is none, with the nearest name.
    """
    if name not in FAMILIES:
        raise DatasetError("unknown family", got=f"'{name}'", fix=nearest(name, FAMILIES))
    return FAMILIES[name]


def check_split(split: str) -> None:
    """Refuse a split that there is not.

    Raises:
        DatasetError: With the nearest name.
    """
    if split not in SPLITS:
        raise DatasetError("unknown split", got=f"'{split}'", fix=nearest(split, SPLITS))


def families_of(split: str) -> tuple[str, ...]:
    """Return the families of a split: the held-out ones in `unseen`, the trained ones elsewhere.

    The random walk belongs to `unseen` as well, but only where it is asked for by name.
    """
    check_split(split)
    held_out = split == "unseen"
    return tuple(n for n, f in FAMILIES.items() if f.held_out == held_out and not f.control)
