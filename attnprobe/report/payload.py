"""What the page shows of a run, piece by piece, as values that JSON can hold.

The page asks for these pieces by name and never for anything else. In a report they are embedded
in the file; `attnprobe view` answers `api/NAME?…` (relative to the page's own address) with the
same pieces as JSON. `Payload.answer(name, query)` takes such a request.

| request | piece |
|---|---|
| `overview` | everything that is there before a click: the run, the contrast, the grid of heads |
| `records` | the table of records, by columns |
| `head?layer=&head=` | segments in each style, distance profile, best examples of one head |
| `record?id=` | the tokens of a record |
| `attention?id=&layer=&head=` | where its queries look; without layer and head, the mean of all |
| `attribution?id=&method=` | what its predicted tokens are credited to |

Weights and scores come as one byte each (see `coded_rows`); row r of a piece belongs to the query
`queries[r]`, which predicts the token at `queries[r] + 1`. NaN is null. An unknown name, record,
layer, head or method raises SelectionError; what the run does not hold raises MeasureError.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from attnprobe import __version__
from attnprobe.errors import ContrastError, MeasureError, SelectionError, nearest
from attnprobe.measures import find_measure
from attnprobe.report.coding import plain
from attnprobe.report.findings import Findings, Notice
from attnprobe.report.grid import Grid, measure_grid
from attnprobe.report.pairs import Pair, paired, spread
from attnprobe.report.profiles import N_ITEMS, Profiles, head_profiles
from attnprobe.report.rows import attention_rows, attribution_rows, has_rows, text_of
from attnprobe.report.segments import HeadSegments, head_segments
from attnprobe.report.verdict import contrast_facts
from attnprobe.types import Encoding

PIECES = ("overview", "records", "head", "record", "attention", "attribution")
"""Every piece that can be asked for."""


class Payload:
    """The pieces of one open run."""

    def __init__(self, run: Any, findings: Findings) -> None:
        self.run, self.findings = run, findings

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles that are shown: one or two."""
        return (self.findings.a,) if self.findings.b is None else (self.findings.a, self.findings.b)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The items that are in every style shown."""
        return paired(self.run.records, self.styles)

    @cached_property
    def grid(self) -> Grid | None:
        """The measure per item and head; None where the run does not hold it (a notice says so)."""
        return self._grid_and_notice[0]

    @cached_property
    def _grid_and_notice(self) -> tuple[Grid | None, tuple[Notice, ...]]:
        if not self.pairs:
            return None, ()
        try:
            return measure_grid(self.run, self.findings, self.pairs), ()
        except (MeasureError, SelectionError, ContrastError) as error:
            return None, (Notice("no_grid", {"reason": str(error)}),)

    def overview(self) -> dict[str, Any]:
        """Return everything that the page needs before anything is clicked."""
        info, findings = self.run.info(), self.findings
        chosen = find_measure(findings.measure)
        return {
            "made_by": f"attnprobe {__version__}",
            "title": self.run.path.name,
            "run": {
                k: v for k, v in info.items() if k not in ("path", "model", "settings", "bytes")
            },
            "model": info["model"],
            "settings": info["settings"],
            "styles": list(self.styles),
            "n_pairs": len(self.pairs),
            "measure": {
                "name": findings.measure,
                "unit": chosen.unit,
                "description": chosen.description,
                "query": findings.query,
                "key": findings.key if chosen.has_key else None,
            },
            "contrast": findings.contrast and contrast_facts(findings.contrast, findings.alpha),
            "grid": self._grid_facts(),
            "scores": [dict(row) for row in findings.scores],
            "has_rows": has_rows(self.run),
            "attributions": {
                name: {"unit": str(params.get("unit", "")), "target": str(params.get("target", ""))}
                for name, params in self.run.attributions.items()
            },
            "notices": [notice.to_json() for notice in self._notices()],
        }

    def records(self) -> dict[str, Any]:
        """Return the table of records, by columns; `passed` is null where nothing was scored."""
        table = self.run.records
        columns = {name: table[name].tolist() for name in ("item", "style", "task", "split")}
        sizes = {name: table[name].tolist() for name in ("n_prompt", "n_tokens", "n_steps")}
        ids = [str(name) for name in table.index]
        return {
            "id": ids,
            **columns,
            **sizes,
            "worst_error": plain(table["worst_error"].to_numpy(), 2),
            "passed": [self.findings.passed.get(name) for name in ids],
        }

    def head(self, layer: int, head: int) -> dict[str, Any]:
        """Return what a click on a head shows.

        Raises:
            SelectionError: If there is no such layer or head.
        """
        return next(iter(self.heads([layer], [head]).values()))

    def heads(
        self, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None
    ) -> dict[tuple[int, int], dict[str, Any]]:
        """Return what a click shows for many heads, which takes little longer than for one.

        Raises:
            SelectionError: If there is no such layer or head.
        """
        rows, columns = list(layers or self.run.layers), list(heads or self.run.heads)
        for name, asked, there in (
            ("layer", rows, self.run.layers), ("head", columns, self.run.heads)
        ):  # fmt: skip
            if absent := set(asked) - set(there):
                raise SelectionError(
                    f"{name} {min(absent)} is not stored", where=str(self.run.path),
                    expected=", ".join(map(str, there)),
                )  # fmt: skip
        segments, profiles = self._segments(rows, columns), self._profiles(rows, columns)
        return {
            (layer, head): {
                "segments": segments and _segment_facts(segments, row, column),
                "profile": profiles and _profile_facts(profiles, row, column),
                "examples": self.grid.examples(layer, head) if self.grid else [],
            }
            for row, layer in enumerate(rows)
            for column, head in enumerate(columns)
        }

    def record(self, record_id: str) -> dict[str, Any]:
        """Return the tokens of a record.

        Raises:
            SelectionError: If there is no such record.
        """
        log_probs = self.run.predictions(record_id)["log_prob"].values
        return text_of(self.run.encoding(record_id), log_probs)

    def attention(
        self, record_id: str, layer: int | None = None, head: int | None = None
    ) -> dict[str, Any]:
        """Return where a record's queries look: every query that is stored.

        Raises:
            SelectionError: If there is no such record, layer or head.
            MeasureError: If the run holds no rows.
        """
        return attention_rows(self.run, record_id, layer, head, every=True)

    def attribution(self, record_id: str, method: str) -> dict[str, Any]:
        """Return what a record's predicted tokens are credited to.

        Raises:
            SelectionError: If there is no such record or method.
        """
        return attribution_rows(self.run, record_id, method)

    def answer(self, name: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the piece that the page asks for with `api/NAME?QUERY`.

        Raises:
            SelectionError: If there is no such piece, or the query does not name one.
            MeasureError: If the run does not hold it.
        """
        if name not in PIECES:
            raise SelectionError("no such piece", got=f"'{name}'", fix=nearest(name, PIECES))
        if name == "head":
            return self.head(_number(query, "layer"), _number(query, "head"))
        if name == "record":
            return self.record(_text(query, "id"))
        if name == "attribution":
            return self.attribution(_text(query, "id"), _text(query, "method"))
        if name == "attention":
            layer, head = (
                _number(query, which) if which in query else None for which in ("layer", "head")
            )
            return self.attention(_text(query, "id"), layer, head)
        return self.overview() if name == "overview" else self.records()

    @cached_property
    def encodings(self) -> dict[str, Encoding]:
        """The tokens of every record that is shown."""
        return {name: self.run.encoding(name) for pair in self.pairs for name in pair.ids}

    def _segments(self, layers: Sequence[int], heads: Sequence[int]) -> HeadSegments | None:
        if self.grid is None:
            return None
        return head_segments(
            self.run, self.pairs, self.encodings, self.findings.measure, layers, heads
        )

    def _profiles(self, layers: Sequence[int], heads: Sequence[int]) -> Profiles | None:
        if not has_rows(self.run) or not self.pairs:
            return None
        return head_profiles(self.run, spread(self.pairs, N_ITEMS), layers, heads)

    def _grid_facts(self) -> dict[str, Any] | None:
        if self.grid is None:
            return None
        difference = self.grid.difference
        facts = {
            "layers": list(self.grid.layers),
            "heads": list(self.grid.heads),
            "styles": [plain(part) for part in self.grid.means()],
            "difference": None if difference is None else plain(difference),
        }
        if self.findings.contrast is not None:
            effects = self.findings.contrast.effects.transpose("layer", "head")
            facts["effects"] = {
                name: plain(effects[name].values)
                for name in ("estimate", "low", "high", "p", "p_adjusted", "g_z")
            }
        return facts

    def _notices(self) -> list[Notice]:
        """Say first what bears on everything else."""
        run, found = self.run, list(self.findings.notices)
        info = run.info()
        if not run.complete:
            counts = info["records"]
            found.insert(0, Notice("unfinished", counts))
        if not self.pairs:
            found.append(Notice("no_pairs", {"styles": ", ".join(self.styles)}))
        if not has_rows(run):
            found.append(Notice("no_rows", {"keep": ", ".join(run.keep)}))
        if run.settings.get("decode", "gold") == "gold":
            found.append(Notice("gold"))
        return [*found, *self._grid_and_notice[1]]


def _segment_facts(segments: HeadSegments, row: int, column: int) -> dict[str, Any]:
    difference = segments.difference
    return {
        "measure": segments.measure,
        "unit": segments.unit,
        "queries": list(segments.queries),
        "keys": list(segments.keys),
        "styles": [plain(part[row, column]) for part in segments.styles],
        "difference": None if difference is None else plain(difference[row, column]),
    }


def _profile_facts(profiles: Profiles, row: int, column: int) -> dict[str, Any]:
    return {
        "bins": [list(ends) for ends in profiles.bins],
        "styles": [plain(part[row, column]) for part in profiles.values],
        "n_items": profiles.n_items,
    }


def _text(query: Mapping[str, str], name: str) -> str:
    if name not in query:
        raise SelectionError(f"the request lacks '{name}'", got=", ".join(query) or "nothing")
    return query[name]


def _number(query: Mapping[str, str], name: str) -> int:
    text = _text(query, name)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise SelectionError(f"'{name}' is no number", got=f"'{text[:20]}'", expected="such as 3")
    return int(text)
