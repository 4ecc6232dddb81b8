"""The datasets of the results, made again from their seeds and held against what was published."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from attnprobe.records import write_records
from attnprobe.tasks.sequences import SequenceSettings, generate
from attnprobe.types import Record

SEED = 2000
"""Of the test problems; training drew no sequence of a test split, whatever its seed."""
PER_FAMILY = 50
TRAIN_PER_FAMILY = 300
"""Problems of each trained family that an adapter is trained on."""

TEST, TRAIN = "sequences-test.jsonl", "sequences-train.jsonl"


def _test() -> Iterator[Record]:
    """The three test splits; the random walk is left out, since nothing can predict it."""
    for split in ("seen", "unseen-parameters", "unseen"):
        yield from generate(SequenceSettings(split=split, n_per_family=PER_FAMILY, seed=SEED))


def _train() -> Iterator[Record]:
    return generate(SequenceSettings(split="train", n_per_family=TRAIN_PER_FAMILY))


DATASETS: dict[str, Callable[[], Iterator[Record]]] = {TEST: _test, TRAIN: _train}


def make(names: list[str], folder: Path, published: Path) -> None:
    """Write datasets and compare their bytes with the published hashes.

    Args:
        names: Which of `DATASETS`.
        folder: Where to.
        published: A file as `sha256sum` writes and checks it.

    Raises:
        SystemExit: If the bytes are not the published ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected = read_hashes(published)
    for name in names:
        write_records(DATASETS[name](), folder / name)
        found = digest(folder / name)
        if expected.get(name) != found:
            raise SystemExit(
                f"{folder / name}: the data is not what was published: got SHA-256 {found}, "
                f"expected {expected.get(name, 'none')} ({published}); if the data was changed on "
                "purpose, run with --accept-data"
            )


def publish(folder: Path, published: Path) -> None:
    """Write all datasets and their hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, records in DATASETS.items():
        write_records(records(), folder / name)
        lines.append(f"{digest(folder / name)}  {name}\n")
    published.write_text("".join(lines), encoding="utf-8")


def read_hashes(path: Path) -> dict[str, str]:
    """Read file names and their SHA-256."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: found for found, name in (line.split(maxsplit=1) for line in lines)}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def first_items(records: list[Record], per_family: dict[bool, int]) -> list[Record]:
    """Take the first problems of each family: `per_family[True]` of those that are held out."""
    return [
        record
        for record in records
        if int(record.item.rpartition("-")[2]) < per_family[record.split == "unseen"]
    ]
