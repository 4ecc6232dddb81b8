"""Attribution: which tokens a prediction owes itself to, by methods that have a name and a source.

`attribute` needs a model and token ids, nothing else. `METHODS` is the registry.
"""

from attnprobe.attribution.attributing import Focus, attribute, spread
from attnprobe.attribution.methods import METHODS, Method, all_params, find_method, read_method
from attnprobe.attribution.prediction import Prediction
from attnprobe.attribution.targets import TARGETS, Target, find_target

__all__ = [
    "METHODS", "TARGETS", "Focus", "Method", "Prediction", "Target", "all_params", "attribute",
    "find_method", "find_target", "read_method", "spread",
]  # fmt: skip
