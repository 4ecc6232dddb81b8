"""Scores of generated text: how often the answer is right, how far off it is, and what is chance.

    scores = [score_record(record, text) for record, text in zip(records, texts)]
    rows = score_table(scores, by=("style", "split"))

The rule is fixed and is a record's own (`rule_of`): integer families exactly, real-valued ones
within 2 % of the history's range at every step of the horizon, maths problems equal in value; a
text whose answer cannot be read fails.
"""

from attnprobe.tasks.scoring.records import VALID_ERROR, RecordScore, score_record
from attnprobe.tasks.scoring.rules import KINDS, TOLERANCE, Rule, Target, rule_of
from attnprobe.tasks.scoring.tables import KEYS, score_table, wilson

__all__ = [
    "KEYS",
    "KINDS",
    "TOLERANCE",
    "VALID_ERROR",
    "RecordScore",
    "Rule",
    "Target",
    "rule_of",
    "score_record",
    "score_table",
    "wilson",
]
