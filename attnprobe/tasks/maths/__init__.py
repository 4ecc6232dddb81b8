"""Basic maths problems: 44 templates in Chinese and English, each with solver and derivation."""

from attnprobe.tasks.maths import arithmetic, geometry, proportions, rationals, word_problems
from attnprobe.tasks.maths.template import Language, Problem, Template

TEMPLATES: dict[str, Template] = {
    template.name: template
    for group in (arithmetic, rationals, proportions, word_problems, geometry)
    for template in group.TEMPLATES
}
"""Every template by name, group by group."""

__all__ = ["TEMPLATES", "Language", "Problem", "Template"]
