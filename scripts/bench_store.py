"""What a run costs on disk and in time, with real attention.

    python scripts/bench_store.py [--only size,errors,write,...] [--records 10000]

SmolLM2-135M-Instruct on number sequences in two styles (up to 400 tokens), rows and step masses of
every layer and head. Small figures come from these records as they are. The long run holds
`--records` records of step masses: each is one of the real ones with its layers and heads in an
order of its own, so that no two shards hold the same bytes, under an id of its own. One thread;
times are CPU seconds of this process. Let nothing else run meanwhile. Parts: size, errors, write,
decode, map, long (overhead, memory, listing, step masses), refuse.
"""

import argparse
import dataclasses
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from attnprobe import Encoding, load_model, store
from attnprobe.capturing import CaptureSettings, capture
from attnprobe.encode import encode
from attnprobe.errors import FormatError
from attnprobe.store.codes import CODES
from attnprobe.store.codes import decode as decoded
from attnprobe.store.codes import encode as coded
from attnprobe.tasks.sequences import SequenceSettings, generate
from attnprobe.types import Capture, Masses

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the attacks of the tests

from tests.store.attacks import DATA, STRUCTURE
from tests.store.builders import make_run

PER_CHUNK, N_REAL = 64, 24
MEGABYTE = 1e6


def real_captures() -> list[Capture]:
    """Run the model over a few records."""
    loaded = load_model("smollm2-135m-instruct", device="cpu", dtype="float32")
    settings = SequenceSettings(styles=("stepwise", "coarse"), n_per_family=1)
    encodings = [encode(record, loaded.tokenizer) for record in generate(settings)]
    encodings = [one for one in encodings if one.n_tokens <= 400][:N_REAL]
    captures: list[Capture] = []
    capture(loaded, encodings, CaptureSettings(keep=("rows", "steps")), captures)
    tokens = [one.encoding.n_tokens for one in captures]
    print(f"{len(captures)} real records of {min(tokens)} to {max(tokens)} tokens")
    return captures


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def show(name: str, value: str, target: str) -> None:
    print(f"{name:62s} {value:>26s}   {target}", flush=True)


def write(
    path: Path, captures: Iterator[Capture], encodings: Sequence[Encoding], keep: str, code: str
) -> tuple[float, int]:
    """Write a run; return CPU seconds without the making of the captures, and its float32 size."""
    planned = [store.PlannedRecord.of(encoding) for encoding in encodings]
    chunks = [planned[at : at + PER_CHUNK] for at in range(0, len(planned), PER_CHUNK)]
    writer = store.RunWriter.open(
        path, {"keep": [keep], "encoding": code}, {"id": "smollm2"}, range(30), range(9), chunks
    )
    spent, n_bytes = 0.0, 0
    for number, chunk in enumerate(chunks):
        with writer.chunk(number) as sink:
            for _ in chunk:
                one = next(captures)
                part = one.rows.weights if keep == "rows" else one.step_mass.mass  # pyright: ignore[reportOptionalMemberAccess]
                n_bytes += part.nbytes
                spent += seconds(lambda sink=sink, one=one: sink.append(one))
    spent += seconds(writer.complete)
    return spent, n_bytes


def folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def payload(path: Path) -> int:
    """Stored bytes of a run's attention, certificates, tokens and texts: what is no overhead."""
    n_bytes = 0
    names = ("weights", "step_mass", "visible", "record/json", "record/generated", "record/error",
             "token/id", "token/text", "step/log_prob", "step/predicted")  # fmt: skip
    for shard in (path / "shards").glob("*.h5"):
        with h5py.File(shard) as file:
            n_bytes += sum(file[name].id.get_storage_size() for name in names if name in file)
    return n_bytes


def size(captures: list[Capture], folder: Path) -> None:
    n_weights = sum(one.rows.weights.size for one in captures if one.rows)
    for code, target in (("u16", "≤ 1.60"), ("u8", "≤ 0.60"), ("f32", "")):
        path = folder / code
        write(path, iter(captures), [one.encoding for one in captures], "rows", code)
        with h5py.File(next((path / "shards").glob("*.h5"))) as file:
            stored = file["weights"].id.get_storage_size()
        show(f"bytes per causal weight, {code}", f"{stored / n_weights:.3f}", target)
    for dtype in ("<f2", "<f4"):
        stored = gzipped(captures, dtype, folder / "plain.h5")
        show(
            f"bytes per causal weight, {dtype} with shuffle and gzip 4",
            f"{stored / n_weights:.3f}",
            "",
        )


def gzipped(captures: list[Capture], dtype: str, path: Path) -> int:
    """Store the same weights as plain floats, in the same chunks."""
    pairs = np.concatenate([one.rows.weights for one in captures if one.rows], axis=-1)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            "w", data=pairs.astype(dtype), chunks=(1, 1, 16384), shuffle=True, compression="gzip",
            compression_opts=4, fletcher32=True,
        )  # fmt: skip
        return dataset.id.get_storage_size()


def errors(captures: list[Capture], folder: Path) -> None:
    for code, target in (("u16", "≤ 1.6e-5; row sum ≤ 5e-5"), ("u8", "≤ 4e-3")):
        worst = drift = 0.0
        for one in captures:
            assert one.rows is not None
            weights = one.rows.weights
            back = decoded(coded(weights, CODES[code]), CODES[code])
            worst = max(worst, float(abs(back.astype(float) - weights).max()))
            starts = np.cumsum(one.rows.length) - one.rows.length
            sums = np.add.reduceat(back.astype(float) - weights, starts, axis=-1)
            drift = max(drift, float(abs(sums).max()))
        show(f"largest error, {code}: weight; row sum", f"{worst:.2e}; {drift:.2e}", target)


def write_speed(captures: list[Capture], folder: Path) -> None:
    rates = []
    for turn in range(3):
        spent, n_bytes = write(
            folder / f"write-{turn}", iter(captures), [one.encoding for one in captures], "rows",
            "u16",
        )  # fmt: skip
        rates.append(n_bytes / spent / MEGABYTE)
    show("write, MB/s of float32", f"{statistics.median(rates):.0f}", "≥ 100")


def rows_run(captures: list[Capture], folder: Path) -> Path:
    path = folder / "rows"
    if not path.exists():
        write(path, iter(captures), [one.encoding for one in captures], "rows", "u16")
    return path


def decode(captures: list[Capture], folder: Path) -> None:
    path = rows_run(captures, folder)
    n_bytes = sum(one.rows.weights.nbytes for one in captures if one.rows)
    pairs, dense = [], []
    for _ in range(3):
        with store.open_run(path) as run:
            pairs.append(seconds(lambda run=run: every_pair(run)))
        with store.open_run(path) as run:
            dense.append(seconds(lambda run=run: [array.sum() for _, array in run.iter_weights()]))
    rate = n_bytes / statistics.median(pairs) / MEGABYTE
    show("decode, MB/s of float32", f"{rate:.0f}", "≥ 450")
    rate = n_bytes / statistics.median(dense) / MEGABYTE
    show("  the same as labelled squares, each summed", f"{rate:.0f}", "")


def every_pair(run: store.Run) -> None:
    """Decode all weights, record by record, without labels."""
    chosen = run._select(None, None)
    for place in run._places(None):
        place.probabilities("/weights", chosen)


def maps(captures: list[Capture], folder: Path) -> None:
    rng, spent = np.random.default_rng(0), []
    with store.open_run(rows_run(captures, folder)) as run:
        ids = run.records.index.tolist()
        run.weights(ids[0], layer=0, head=0)
        for _ in range(500):
            record, layer, head = rng.choice(ids), int(rng.integers(30)), int(rng.integers(9))
            spent.append(seconds(lambda r=record, la=layer, h=head: run.weights(r, la, h)))
    p95 = float(np.quantile(spent, 0.95)) * 1e3
    show("one (record, layer, head) map at random, p95", f"{p95:.2f} ms", "≤ 1.5 ms")


def copies(captures: list[Capture], n_records: int) -> Iterator[Capture]:
    """Real captures again and again, layers and heads in another order each time."""
    rng = np.random.default_rng(0)
    for number, encoding in enumerate(copied_encodings(captures, n_records)):
        one = captures[number % len(captures)]
        assert one.step_mass is not None
        layers, heads = rng.permutation(30), rng.permutation(9)
        mass = np.ascontiguousarray(one.step_mass.mass[layers][:, heads])
        yield dataclasses.replace(
            one, encoding=encoding, rows=None, step_mass=Masses(one.step_mass.queries, mass)
        )


def copied_encodings(captures: list[Capture], n_records: int) -> list[Encoding]:
    encodings = []
    for number in range(n_records):
        encoding = captures[number % len(captures)].encoding
        record = dataclasses.replace(encoding.record, id=f"{encoding.record.id}~{number:05d}")
        encodings.append(dataclasses.replace(encoding, record=record))
    return encodings


def resident() -> float:
    """Return the resident memory now, in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MEGABYTE


def watched(captures: Iterator[Capture], seen: list[float]) -> Iterator[Capture]:
    for number, one in enumerate(captures):
        if number % PER_CHUNK == 0:
            seen.append(resident())
        yield one


def long(captures: list[Capture], folder: Path, n_records: int) -> None:
    path, seen = folder / "long", []
    encodings, before = copied_encodings(captures, n_records), resident()
    write(path, watched(copies(captures, n_records), seen), encodings, "steps", "u16")
    show(
        f"memory of the writer over {n_records} records: largest; last − tenth shard",
        f"{max(seen) - before:.0f} MB; {seen[-1] - seen[min(10, len(seen) - 1)]:+.0f} MB",
        "flat, ≤ 250 MB",
    )
    whole, data = folder_bytes(path), payload(path)
    show(
        f"index and format, a record of {whole / n_records / 1e3:.0f} kB",
        f"{(whole - data) / n_records:.0f} B, {(whole - data) / whole:.2%}", "≤ 500 B, ≤ 0.5 %",
    )  # fmt: skip
    listing = [seconds(lambda: store.open_run(path).records) for _ in range(5)]
    show("open and list", f"{statistics.median(listing) * 1e3:.0f} ms", "≤ 50 ms")
    firsts, later = [], []
    for turn in range(3):
        with store.open_run(path) as run:
            firsts.append(seconds(lambda run=run: run.step_masses(layer=3, head=1)))
            later += [seconds(lambda run=run, t=turn: run.step_masses(t, 2)) for _ in range(3)]
    show(
        "one head's step masses, first time (with checks); after",
        f"{statistics.median(firsts) * 1e3:.0f}; {statistics.median(later) * 1e3:.0f} ms",
        "≤ 500; ≤ 100 ms",
    )


def refuse(folder: Path) -> None:
    good, spent = make_run(folder / "good", tasks=1), {}
    for name, attack in (STRUCTURE | DATA).items():
        place = folder / name
        place.mkdir()
        run = Path(shutil.copytree(good, place / "run"))
        attack.apply(run)
        spent[name] = min(seconds(lambda r=run, a=attack: refused(r, a.read)) for _ in range(3))
    for name, value in sorted(spent.items(), key=lambda entry: -entry[1])[:5]:
        show(f"  refusing: {name}", f"{value * 1e3:.2f} ms", "")
    show(
        f"slowest refusal of {len(spent)} attacks", f"{max(spent.values()) * 1e3:.2f} ms", "≤ 5 ms"
    )


def refused(path: Path, read: str) -> None:
    with store.open_run(path) as run:
        try:
            getattr(run, read)("task0-000/coarse")
        except FormatError:
            return
    raise SystemExit(f"{path}: not refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="size,errors,write,decode,map,long,refuse")
    parser.add_argument("--records", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = options.only.split(",")
    captures = real_captures() if set(parts) != {"refuse"} else []
    works: dict[str, Callable[[Path], None]] = {
        "size": lambda folder: size(captures, folder),
        "errors": lambda folder: errors(captures, folder),
        "write": lambda folder: write_speed(captures, folder),
        "decode": lambda folder: decode(captures, folder),
        "map": lambda folder: maps(captures, folder),
        "long": lambda folder: long(captures, folder, options.records),
        "refuse": refuse,
    }
    for part in parts:
        if part not in works:
            parser.error(f"no part '{part}'; there is: {', '.join(works)}")
        with tempfile.TemporaryDirectory() as folder:
            works[part](Path(folder))


if __name__ == "__main__":
    main()
