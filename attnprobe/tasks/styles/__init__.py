"""Styles of prompting: how a problem is put to a model, and how its text is read back.

A style is a small object in the dict `STYLES`. `write` turns a `Problem` into the segments of
prompt and target; `parse` cuts generated text into the same roles; `read_answer` and `read_coarse`
give the numbers. There are `direct`, `stepwise`, `coarse` and, with the intermediate text replaced
by as many dots, `stepwise-filler` and `coarse-filler`. (`direct` has none to replace.)

Writing and reading rest on one rule: segments are lines. The answer is the first line that holds
numbers alone (a label such as `Answer:`, brackets and closing punctuation are allowed around them);
lines with a digit before it are steps; whatever is left is `unparsed`. So
`parse(record.target_text, record)` gives back exactly the segments of `record.target`.

A style of your own is one class:

    from attnprobe.tasks.styles import STYLES, BaseStyle, Segment

    class Reversed(BaseStyle):
        def write(self, problem):
            prompt = (Segment("instruction", "Last number first. " + problem.instruction),)
            backwards = problem.separator.join(reversed(problem.answer))
            target = (Segment("backwards", backwards), Segment("answer", problem.answer_text))
            return prompt + problem.given, target

    STYLES["reversed"] = Reversed()

`BaseStyle` reads text back line by line, in the order of the record's target. Or write a JSONL file
whose records name a style of your choice: it is read back the same way, without any code.
"""

from attnprobe.tasks.styles.numbers import NumberFormat, number_line, number_of
from attnprobe.tasks.styles.parsing import TextSpan
from attnprobe.tasks.styles.problem import (
    READINGS,
    CoarseReading,
    Problem,
    Step,
    coarse_values,
    merge_steps,
    operand,
)
from attnprobe.tasks.styles.registry import STYLES, find_style, record_of, style_of
from attnprobe.tasks.styles.writing import (
    BaseStyle,
    Coarse,
    Direct,
    Filler,
    Stepwise,
    Style,
    filler,
    horizon_of,
)
from attnprobe.types import Segment

__all__ = [
    "READINGS",
    "STYLES",
    "BaseStyle",
    "Coarse",
    "CoarseReading",
    "Direct",
    "Filler",
    "NumberFormat",
    "Problem",
    "Segment",
    "Step",
    "Stepwise",
    "Style",
    "TextSpan",
    "coarse_values",
    "filler",
    "find_style",
    "horizon_of",
    "merge_steps",
    "number_line",
    "number_of",
    "operand",
    "record_of",
    "style_of",
]
