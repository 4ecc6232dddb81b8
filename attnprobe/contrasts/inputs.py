"""What the arrays of a comparison must be: checked before anything is computed of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool

from attnprobe.errors import ContrastError


def require_items_of_heads(**arrays: np.ndarray) -> None:
    """Refuse arrays that are not [item, layer, head].

    Raises:
        ContrastError: If one has other axes.
    """
    for name, values in arrays.items():
        if np.ndim(values) != 3:
            raise ContrastError(
                "values must have the axes item, layer and head",
                where=name,
                got=f"shape {np.shape(values)}",
                expected="three axes",
                fix="reshape to (items, layers, heads); an axis may have length 1",
            )


def require_seed(seed: object) -> None:
    """Refuse seeds that no source of chance takes, or no file keeps.

    Raises:
        ContrastError: If a number is negative, or has more than 31 bits.
    """
    if isinstance(seed, int) and not 0 <= seed < 2**31:
        raise ContrastError(
            "no such seed", got=seed, expected=f"a whole number from 0 to {2**31 - 1}"
        )


def task_names(tasks: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return the task of each item as text.

    Args:
        tasks: One per item. All may be empty, which makes one task without a name.

    Returns:
        An array of text.

    Raises:
        ContrastError: If some items have a task and others none: these would be one task more.
    """
    # Not np.asarray alone: beside text, it would make a missing task the text "nan".
    listed = tasks if isinstance(tasks, np.ndarray) else np.array([*tasks], dtype=object)
    named = listed.astype(str)
    lacking = (named == "") | pd.isna(listed)
    n_lacking = int(lacking.sum())
    if n_lacking and not (named == "").all():
        raise ContrastError(
            "some items have no task",
            got=f"{n_lacking} of {len(named)}, the first at place {int(np.argmax(lacking))}",
            expected="a task for every item",
            fix="give every record its 'task', or leave these items out",
        )
    return named


def outcomes_of(passed: Sequence[bool] | np.ndarray) -> Bool[np.ndarray, " item"]:
    """Return whether each item passed, from truth values or from 0 and 1.

    Raises:
        ContrastError: If an outcome is missing, or anything else.
    """
    told = np.asarray(passed)
    if told.dtype.kind in "iuf" and np.isin(told, (0, 1)).all():
        told = told.astype(bool)
    if told.dtype.kind != "b" or told.ndim != 1:
        other = sorted({repr(one) for one in np.ravel(told).tolist() if one not in (0, 1)})
        raise ContrastError(
            "an outcome says whether an item passed",
            got=", ".join(other[:3]) or f"shape {told.shape}, type {told.dtype}",
            expected="True or False, or 1 or 0, for each item",
            fix="leave items without an outcome out",
        )
    return told
