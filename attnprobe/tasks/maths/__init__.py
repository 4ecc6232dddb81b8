"""Basic maths problems: 44 templates in Chinese and English, each with solver and derivation.

    from attnprobe.tasks.maths import MathsSettings, generate

    records = list(generate(MathsSettings(n=1000, language="both", seed=1)))

`template` says what a template is; `arithmetic`, `rationals`, `proportions`, `word_problems` and
`geometry` hold them; `derivation` writes their steps, one by one or merged; `dataset` draws.
"""

from attnprobe.tasks.maths.dataset import (
    HELD_OUT,
    TEMPLATES,
    MathsSettings,
    draw_problems,
    generate,
)
from attnprobe.tasks.maths.template import Language, Problem, Template

__all__ = [
    "HELD_OUT",
    "TEMPLATES",
    "Language",
    "MathsSettings",
    "Problem",
    "Template",
    "draw_problems",
    "generate",
]
