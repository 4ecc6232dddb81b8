"""What a dataset of number sequences is made by."""

from dataclasses import dataclass, field, replace

from attnprobe.errors import DatasetError
from attnprobe.tasks.sequences.family import Shape
from attnprobe.tasks.sequences.registry import check_split, families_of, find_family
from attnprobe.tasks.styles import CoarseReading, NumberFormat, find_style
from attnprobe.tasks.styles.wording import check_language

MIN_HISTORY, MIN_HORIZON, MAX_LENGTH = 12, 3, 4096


@dataclass(frozen=True, slots=True)
class SequenceSettings:
    """Everything that shapes a dataset of number sequences; equal settings give equal bytes."""

    families: tuple[str, ...] | None = None
    """Families by name; None takes all of the split (nine trained, or six held out)."""
    styles: tuple[str, ...] = ("direct", "stepwise", "coarse")
    """Styles by name; every problem is written in each."""
    split: str = "seen"
    """`train`, `seen` (new instances), `unseen-parameters` (a parameter range kept apart), or
    `unseen` (families kept out of training)."""
    n_per_family: int = 20
    """Problems of each family."""
    seed: int = 0
    """Seed of every draw, 0 or more."""
    history: int = 12
    """Terms that are given, 12 or more."""
    horizon: int = 3
    """Terms that are asked for, 3 or more."""
    number_format: NumberFormat = field(default_factory=NumberFormat)
    """Digits, decimals and separator."""
    language: str = "en"
    """Language of the instruction, `en` or `zh`."""
    coarse: CoarseReading = field(default_factory=CoarseReading)
    """What the style `coarse` writes."""

    def __post_init__(self) -> None:
        check_split(self.split)
        check_language(self.language)
        for style in self.styles:
            find_style(style)
        for name in self.families or ():
            self._check_family(name)
        self._check_sizes()
        self._check_decimals()

    @property
    def shape(self) -> Shape:
        """Length and number format of each sequence."""
        return Shape(self.history, self.horizon, self.number_format)

    @property
    def chosen_families(self) -> tuple[str, ...]:
        """The families that are drawn from."""
        return families_of(self.split) if self.families is None else self.families

    def for_split(self, split: str, families: tuple[str, ...] | None = None) -> "SequenceSettings":
        """Return the same settings for another split."""
        return replace(self, split=split, families=families)

    def _check_family(self, name: str) -> None:
        family = find_family(name)
        if family.held_out != (self.split == "unseen"):
            rightful = "'unseen'" if family.held_out else "'train', 'seen' or 'unseen-parameters'"
            raise DatasetError(
                "family does not belong to this split",
                where=f"family '{name}'",
                got=f"split '{self.split}'",
                expected=rightful,
                fix=f"families of '{self.split}': {', '.join(families_of(self.split))}",
            )

    def _check_sizes(self) -> None:
        for name, least in (
            ("n_per_family", 1),
            ("seed", 0),
            ("history", MIN_HISTORY),
            ("horizon", MIN_HORIZON),
        ):
            if getattr(self, name) < least:
                raise DatasetError(
                    "size is too small",
                    where=name,
                    got=getattr(self, name),
                    expected=f"{least} or more",
                )
        if self.shape.length > MAX_LENGTH:
            raise DatasetError(
                "sequence is too long",
                where="history + horizon",
                got=self.shape.length,
                expected=f"at most {MAX_LENGTH}",
            )
        if not self.styles or self.families == ():
            raise DatasetError("nothing to write", expected="at least one style and one family")
        for name in ("styles", "families"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise DatasetError("name is given twice", where=name, got=", ".join(values))

    def _check_decimals(self) -> None:
        real = [name for name in self.chosen_families if find_family(name).kind == "real"]
        if real and not self.number_format.decimals:
            raise DatasetError(
                "real-valued family would lose its rule when printed in whole numbers",
                where=f"families {', '.join(real)}",
                got="0 decimals",
                expected="1 or more",
            )
