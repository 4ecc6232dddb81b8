r"""Segment rules: cut plain prompts and targets into segments, by regular expressions.

A rules file is TOML. Each rule names a role and a pattern, for the prompt or the target:

    [[prompt]]
    role = "instruction"
    pattern = '''### Instruction:\n(?P<text>.*)'''

    [[target]]
    role = "step_{n}"
    pattern = '''(?m)^.* = .*$'''
    repeat = true

What a pattern matches becomes a segment of that role, or only its group `text` if it has one; an
empty match makes none. A rule takes the first match, with `repeat` every match; `{n}` in the role
then counts them from 1. Each pattern looks at the whole text, so lookaheads may reach into other
segments, but no two segments may overlap. Patterns are written as for Python's `re` (without flags
`.` stops at a line break; `(?s)` and `(?m)` change that).

Rules cut text that is plain: one segment of role `prompt` or `answer`, as CSV files and plain JSON
strings give it. The text between segments is kept verbatim, in segments of role `template`, so that
a record that was cut reads exactly as before. A text in which no rule matches stays plain.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import regex

from attnprobe.errors import RecordError, nearest
from attnprobe.records.fields import PLAIN_PROMPT_ROLE, PLAIN_TARGET_ROLE, short
from attnprobe.types import Record, Segment

TEMPLATE = "template"
COUNTER = "{n}"
TEXT_GROUP = "text"
MATCH_SECONDS = 2.0
"""Longest time a pattern may take over one text; patterns that backtrack without end are stopped
there."""

_SIDES = ("prompt", "target")
_KEYS = ("role", "pattern", "repeat")


@dataclass(frozen=True, slots=True)
class SegmentRule:
    """One rule: what a pattern matches plays a role."""

    role: str
    """The segment's role; `{n}` counts the matches of a repeated rule, from 1."""
    pattern: str
    """A regular expression."""
    repeat: bool = False
    """Take every match instead of the first."""
    where: str = ""
    """File, side and number of the rule, for error messages."""


@dataclass(frozen=True, slots=True)
class SegmentRules:
    """The rules for both sides of a record, in the order of the file."""

    prompt: tuple[SegmentRule, ...] = ()
    target: tuple[SegmentRule, ...] = ()


def read_rules(path: str | Path) -> SegmentRules:
    """Read a rules file.

    Args:
        path: A TOML file.

    Raises:
        RecordError: If the file cannot be read, is not TOML, or holds something that is no rule.
    """
    path = Path(path)
    try:
        return parse_rules(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        raise RecordError(
            f"cannot read this rules file ({error.strerror})", where=str(path), fix="check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise RecordError(
            f"this rules file is not UTF-8 (byte {error.start + 1})", where=str(path),
            fix="convert the file, e.g. iconv -f GB18030 -t UTF-8",
        ) from error  # fmt: skip


def parse_rules(text: str, where: str = "rules") -> SegmentRules:
    """Parse and check the text of a rules file.

    Args:
        text: TOML.
        where: The file, for error messages.

    Raises:
        RecordError: If it is not TOML, a key is unknown or missing, or a pattern is malformed.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecordError(
            "this rules file is not valid TOML", where=where, got=str(error),
            fix="put patterns between ''' and ''', where backslashes need no doubling",
        ) from error  # fmt: skip
    for key in tables:
        if key not in _SIDES:
            raise RecordError(f"unknown table '{key}'", where=where, fix=nearest(key, _SIDES))
    if not any(tables.values()):
        raise RecordError("no rules in this file", where=where, expected="[[prompt]] or [[target]]")
    return SegmentRules(*(_side(tables.get(side, []), side, where) for side in _SIDES))


def apply_rules(records: Iterable[Record], rules: SegmentRules) -> Iterator[Record]:
    """Cut the plain texts of records into segments.

    Args:
        records: Records; texts that are in segments already are left as they are.
        rules: What to cut by.

    Yields:
        The records. `prompt_text` and `target_text` of each are what they were.

    Raises:
        RecordError: If two segments overlap, a pattern takes longer than `MATCH_SECONDS`, or, at
            the end of the records (rare roles may come late), a rule has matched nothing in any.
    """
    cutters = {side: [_Cutter(rule) for rule in getattr(rules, side)] for side in _SIDES}
    n_records = 0
    for record in records:
        n_records += 1
        yield _cut_record(record, cutters["prompt"], cutters["target"])
    for cutter in (*cutters["prompt"], *cutters["target"]):
        if n_records and not cutter.n_segments:
            raise RecordError(
                "this rule matches nothing in any record", where=cutter.name,
                got=f"pattern {short(cutter.rule.pattern)}, {n_records} records of which it saw "
                f"{cutter.n_texts} as plain text",
                fix="correct or remove the rule",
            )  # fmt: skip


def _side(tables: Any, side: str, where: str) -> tuple[SegmentRule, ...]:
    if not isinstance(tables, list):
        raise RecordError(
            f"'{side}' is no list of rules", where=where, fix=f"begin each rule with [[{side}]]"
        )
    return tuple(
        _rule(table, f"{where}, [[{side}]] {number}") for number, table in enumerate(tables, 1)
    )


def _rule(table: Any, where: str) -> SegmentRule:
    if not isinstance(table, Mapping):
        raise RecordError("this is no rule", where=where, got=short(table), expected="a table")
    for key in table:
        if key not in _KEYS:
            raise RecordError(f"unknown key '{key}'", where=where, fix=nearest(key, _KEYS))
    for key in ("role", "pattern"):
        if not isinstance(table.get(key), str) or not table[key]:
            raise RecordError(
                f"this rule has no {key}", where=where, got=short(table.get(key)),
                expected=f"{key} = '…'",
            )  # fmt: skip
    repeat = table.get("repeat", False)
    if not isinstance(repeat, bool):
        raise RecordError(
            "'repeat' is neither true nor false", where=where, got=short(repeat),
            expected="repeat = true or repeat = false",
        )  # fmt: skip
    if COUNTER in table["role"] and not repeat:
        raise RecordError(
            f"the role counts matches with {COUNTER}, but the rule takes only one", where=where,
            got=table["role"], fix="add repeat = true",
        )  # fmt: skip
    rule = SegmentRule(table["role"], table["pattern"], repeat, where)
    _compile(rule)
    return rule


def _compile(rule: SegmentRule) -> Any:
    try:
        return regex.compile(rule.pattern)
    except regex.error as error:
        raise RecordError(
            f"this pattern is no regular expression ({error})", where=_name(rule),
            got=short(rule.pattern), fix="escape characters meant as they are, such as \\[",
        ) from error  # fmt: skip


def _name(rule: SegmentRule) -> str:
    return f"{rule.where or 'rule'} (role '{rule.role}')"


@dataclass(frozen=True, slots=True)
class _Cut:
    start: int
    stop: int
    role: str
    rule: str


class _Cutter:
    """A compiled rule that knows what it has seen and found."""

    def __init__(self, rule: SegmentRule) -> None:
        self.rule, self.name = rule, _name(rule)
        self.n_texts = self.n_segments = 0
        self._pattern = _compile(rule)
        self._group = TEXT_GROUP if TEXT_GROUP in self._pattern.groupindex else 0

    def cuts(self, text: str, where: str) -> list[_Cut]:
        """Find this rule's segments in a text."""
        self.n_texts += 1
        try:
            spans = self._spans(text)
        except TimeoutError as error:
            raise RecordError(
                f"this rule takes longer than {MATCH_SECONDS:g} s over one text", where=where,
                got=f"{self.name}, pattern {short(self.rule.pattern)}",
                fix="repeat no group that matches one text in two ways, such as (a|aa)+",
            ) from error  # fmt: skip
        self.n_segments += len(spans)
        return [
            _Cut(start, stop, self.rule.role.replace(COUNTER, str(number)), self.name)
            for number, (start, stop) in enumerate(spans, start=1)
        ]

    def _spans(self, text: str) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for match in self._pattern.finditer(text, timeout=MATCH_SECONDS):
            start, stop = match.span(self._group)
            if start < stop:
                spans.append((start, stop))
                if not self.rule.repeat:
                    break
        return spans


def _cut_record(
    record: Record, prompt_cutters: Sequence[_Cutter], target_cutters: Sequence[_Cutter]
) -> Record:
    where = f"{record.where or 'record'} (id '{record.id}')"
    prompt = _cut_side(record.prompt, PLAIN_PROMPT_ROLE, prompt_cutters, where)
    target = _cut_side(record.target, PLAIN_TARGET_ROLE, target_cutters, where)
    if prompt is None and target is None:
        return record
    joint = [Segment(TEMPLATE, record.joiner)] if record.joiner else []
    prompt = [*(prompt or _spelled_out(record.prompt, joint)), *joint]
    target = target or _spelled_out(record.target, joint)
    return replace(record, prompt=_merged(prompt), target=_merged(target), joiner="")


def _cut_side(
    side: Sequence[Segment], plain_role: str, cutters: Sequence[_Cutter], where: str
) -> list[Segment] | None:
    """Cut one side; None where there is nothing to cut."""
    if [segment.role for segment in side] != [plain_role]:
        return None
    text = side[0].text
    cuts = sorted(
        (cut for cutter in cutters for cut in cutter.cuts(text, where)),
        key=lambda cut: (cut.start, cut.stop),
    )
    if not cuts:
        return None
    segments: list[Segment] = []
    before: _Cut | None = None
    for cut in cuts:
        if before and cut.start < before.stop:
            shared = text[cut.start : min(cut.stop, before.stop)]
            raise RecordError(
                f"two segments overlap: '{before.role}' and '{cut.role}'", where=where,
                got=f"{short(shared)!r} in both, by {before.rule} "
                f"and {cut.rule}",
                fix="let one of them end earlier, e.g. with a group (?P<text>…) or a lookahead",
            )  # fmt: skip
        segments += _gap(text, before.stop if before else 0, cut.start)
        segments.append(Segment(cut.role, text[cut.start : cut.stop]))
        before = cut
    return segments + _gap(text, before.stop if before else 0, len(text))


def _gap(text: str, start: int, stop: int) -> list[Segment]:
    return [Segment(TEMPLATE, text[start:stop])] if start < stop else []


def _spelled_out(side: Sequence[Segment], joint: Sequence[Segment]) -> list[Segment]:
    """Write the joiner between segments as segments."""
    return [part for n, segment in enumerate(side) for part in (*(joint if n else ()), segment)]


def _merged(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Join neighbouring segments of role `template`."""
    merged: list[Segment] = []
    for segment in segments:
        if merged and merged[-1].role == segment.role == TEMPLATE:
            merged[-1] = Segment(TEMPLATE, merged[-1].text + segment.text)
        else:
            merged.append(segment)
    return tuple(merged)
