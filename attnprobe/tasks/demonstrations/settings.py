"""How demonstrations are chosen."""

from dataclasses import dataclass

from attnprobe.errors import DatasetError, nearest

METHODS = ("random", "retrieval", "cluster")


@dataclass(frozen=True, slots=True)
class DemonstrationSettings:
    """Which problems are shown, and how many.

    Raises:
        DatasetError: If the method is unknown or a number is too small.
    """

    method: str = "cluster"
    """`random`; `retrieval`: the most similar questions; `cluster`: one from each of k clusters of
    questions, the same for every problem (Auto-CoT)."""
    k: int = 8
    """How many demonstrations."""
    seed: int = 0
    """Seed of random choices and of k-means."""
    max_question_words: int = 60
    """Longer questions are not shown; a Chinese character counts as a word."""
    max_steps: int = 5
    """Rationales with more steps are not shown."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise DatasetError(
                "unknown way to choose demonstrations", where="method", got=f"'{self.method}'",
                fix=nearest(self.method, METHODS),
            )  # fmt: skip
        least = {"k": 1, "seed": 0, "max_question_words": 1, "max_steps": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise DatasetError(
                    "number is too small", where=name, got=getattr(self, name),
                    expected=f"{smallest} or more",
                )  # fmt: skip
