"""The exception tree: every error says what, where, got, expected and how to mend it."""

import difflib
from collections.abc import Iterable


class AttnprobeError(Exception):
    """Base of every error that attnprobe raises on purpose.

    Args:
        what: The fault in one clause, without a full stop.
        where: File and line, record id, layer, option: whatever locates it.
        got: What was found.
        expected: What was needed instead.
        fix: What the reader can do about it.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.expected, self.fix = what, where, got, expected, fix
        super().__init__(self._message())

    def _message(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        facts = [
            f"{name} {value}"
            for name, value in (("got", self.got), ("expected", self.expected))
            if value is not None
        ]
        clauses = [head, ", ".join(facts), self.fix or ""]
        return "; ".join(clause for clause in clauses if clause).rstrip(".") + "."

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild through the keyword arguments, so that errors survive a process boundary."""
        return _rebuild, (type(self), self.what, self.where, self.got, self.expected, self.fix)


def _rebuild(
    kind: type[AttnprobeError],
    what: str,
    where: str | None,
    got: object,
    expected: object,
    fix: str | None,
) -> AttnprobeError:
    return kind(what, where=where, got=got, expected=expected, fix=fix)


class RecordError(AttnprobeError):
    """A dataset file or one of its records cannot be used."""


class DatasetError(AttnprobeError):
    """A dataset cannot be made as asked (family, style, size, number format)."""


class EncodeError(AttnprobeError):
    """A record cannot be turned into tokens and spans."""


class ModelError(AttnprobeError):
    """A model cannot be found, loaded or captured."""


class FinetuneError(AttnprobeError):
    """A fine-tuning cannot begin, go on, or be kept where it should go."""


class CertificateError(AttnprobeError):
    """A capture could not prove that it shows what the model really used."""

    exit_code = 1


class SelectionError(AttnprobeError):
    """Something was asked for by a name, index or role that is not there."""


class StoreError(AttnprobeError):
    """A run cannot be written (settings differ, folder not writable, disk full)."""


class FormatError(StoreError):
    """A run on disk is damaged, hostile, or of a format this version does not read."""


class MeasureError(AttnprobeError):
    """A measure needs something the run does not hold."""


class ContrastError(AttnprobeError):
    """Two styles cannot be compared as asked."""


class FigureError(AttnprobeError):
    """A figure cannot be drawn or saved as asked."""


class ReportError(AttnprobeError):
    """A page for a browser cannot be made or served as asked."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Word a hint for a failed lookup: the nearest name, then all there is."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{hint}there is: {', '.join(names[:20]) or 'nothing'}{more}"
