"""Roles: the order people read them in, and how they are asked for."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from attnprobe.errors import SelectionError, nearest
from attnprobe.types import PREFIX

_ORDER = (
    PREFIX,
    "special",
    "template",
    "instruction",
    "demo",
    "question",
    "history",
    "coarse_history",
    "",  # any role of the user's own
    "step",
    "coarse_answer",
    "answer",
    "unparsed",
)
_PARTS = ("", "instruction", "question", "history", "coarse_history", "step", "answer")


def role_order(role: str) -> tuple[int, int, int, int, str]:
    """Sort key that puts roles in the order in which a prompt and its answer are read.

    Numbers count as numbers (`step_2` before `step_10`), and a part of a demonstration stays with
    its demonstration (`demo_1.question`, `demo_1.answer`, `demo_2.question` …).
    """
    whole, _, part = role.partition(".")
    family, number = _family(whole)
    place = _ORDER.index(family) if family in _ORDER else _ORDER.index("")
    part_family, part_number = _family(part)
    part_place = _PARTS.index(part_family) if part_family in _PARTS else len(_PARTS)
    return place, number, part_place, part_number, role


def _family(name: str) -> tuple[str, int]:
    numbered = re.fullmatch(r"(.+)_(\d+)", name)
    return (numbered[1], int(numbered[2])) if numbered else (name, 0)


def sort_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct roles in reading order."""
    return tuple(sorted(set(roles), key=role_order))


def is_pattern(role: str) -> bool:
    """Tell whether a role is asked for by a pattern such as `step_*`."""
    return any(sign in role for sign in "*?[")


def match_roles(asked: str, roles: Sequence[str]) -> list[int]:
    """Find the places at which a role, or any role of a pattern such as `step_*`, stands."""
    if is_pattern(asked):
        return [place for place, role in enumerate(roles) if fnmatchcase(role, asked)]
    return [place for place, role in enumerate(roles) if role == asked]


def require_role(asked: str, known: Iterable[str], kind: str) -> None:
    """Raise unless `asked` matches a known role.

    Args:
        asked: Role or pattern.
        known: Roles that were found.
        kind: `query role` or `key role`, for the message.

    Raises:
        SelectionError: If nothing matches.
    """
    roles = sort_roles(known)
    if not match_roles(asked, roles):
        raise SelectionError(
            f"no record has the {kind} '{asked}'",
            got=f"'{asked}'",
            fix=f"{nearest(asked, roles)}; a pattern such as 'step_*' takes several roles as one",
        )
