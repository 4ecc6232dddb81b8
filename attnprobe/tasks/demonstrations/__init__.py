"""Demonstrations: solved problems before the question, chosen as in Auto-CoT (Zhang et al. 2022).

    from attnprobe.tasks.demonstrations import DemonstrationSettings, with_demonstrations

    settings = DemonstrationSettings(method="cluster", k=8, seed=0)
    shown = with_demonstrations(records, pool, settings)

`pool` holds solved records, such as the split `train` of the same dataset. `candidates` makes them
problems to choose from, `choosing` ranks them (`random`; `retrieval`, the most similar questions;
`cluster`, the question nearest to the centre of each of k clusters) and takes the first that pass
the paper's filters, `embedding` holds the sentence model, `writing` puts what was chosen into
prompts, as segments `demo_1.question`, `demo_1.rationale`, `demo_1.answer` and so on. Rationales
are the records' own, or written by a model (`rationales`).
"""

from attnprobe.tasks.demonstrations.candidates import Candidate, Demonstration, candidates_of
from attnprobe.tasks.demonstrations.choosing import METHODS, choose_demonstrations
from attnprobe.tasks.demonstrations.embedding import Embedder, sentence_embedder
from attnprobe.tasks.demonstrations.rationales import Generator, zero_shot
from attnprobe.tasks.demonstrations.settings import DemonstrationSettings
from attnprobe.tasks.demonstrations.writing import with_demonstrations

__all__ = [
    "METHODS",
    "Candidate",
    "Demonstration",
    "DemonstrationSettings",
    "Embedder",
    "Generator",
    "candidates_of",
    "choose_demonstrations",
    "sentence_embedder",
    "with_demonstrations",
    "zero_shot",
]
