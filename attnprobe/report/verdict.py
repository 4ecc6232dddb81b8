"""A contrast as the page tells it: in plain words, and in the numbers of its heading."""

from typing import Any

import numpy as np

from attnprobe.contrasts import Contrast

LANGUAGES = ("en", "zh")
"""Languages of the page."""


def contrast_facts(contrast: Contrast, alpha: float) -> dict[str, Any]:
    """Return the verdict, the methods, and the counts that the page words in its languages."""
    effects = contrast.effects
    differ = effects["p_adjusted"].values < alpha
    estimate = effects["estimate"].values
    return {
        "title": contrast.title,
        "a": contrast.a,
        "b": contrast.b,
        "unit": contrast.unit,
        "alpha": alpha,
        "n_differ": int(differ.sum()),
        "n_up": int((differ & (estimate > 0)).sum()),
        "n_down": int((differ & (estimate < 0)).sum()),
        "n_tested": int(effects.attrs["n_tested"]),
        "n_pairs": contrast.n_pairs,
        "by": str(effects.attrs["by"]),
        "n_units": int(effects.attrs["n_units"]),
        "scope": str(effects.attrs["scope"]),
        "verdict": contrast.verdict(alpha).splitlines(),
        "methods": {language: contrast.methods(language) for language in LANGUAGES},
        "test": {name: _plain(value) for name, value in effects.attrs.items()},
        "dropped": {reason: int(count) for reason, count in contrast.dropped.items()},
        "settings": dict(contrast.settings),
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
