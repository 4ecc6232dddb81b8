"""Attribution: which tokens a prediction owes itself to, by methods that have a name and a source.

`attribute` needs a model and token ids, nothing else. `METHODS` is the registry.
"""

from attnprobe.attribution.attributing import attribute
from attnprobe.attribution.methods import METHODS, Method, all_params, find_method, find_target
from attnprobe.attribution.prediction import TARGETS, Prediction, Target

__all__ = [
    "METHODS", "TARGETS", "Method", "Prediction", "Target", "all_params", "attribute",
    "find_method", "find_target",
]  # fmt: skip
