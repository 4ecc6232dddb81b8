"""Number sequences: sixteen families, each a recurrence whose next terms are asked for.

`generate(SequenceSettings(...))` yields records; `generate_tests` the three test splits together.
"""

from attnprobe.tasks.sequences.family import Family, Shape
from attnprobe.tasks.sequences.generation import generate, generate_tests, instances, split_of
from attnprobe.tasks.sequences.registry import FAMILIES, SPLITS, families_of, find_family
from attnprobe.tasks.sequences.settings import SequenceSettings

__all__ = [
    "FAMILIES",
    "SPLITS",
    "Family",
    "SequenceSettings",
    "Shape",
    "families_of",
    "find_family",
    "generate",
    "generate_tests",
    "instances",
    "split_of",
]
