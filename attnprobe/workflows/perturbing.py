"""Taking tokens of a prompt away without moving the others: three ways."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from attnprobe.attention import Edge, knockout
from attnprobe.errors import ModelError
from attnprobe.models import LoadedModel, transformers_model
from attnprobe.types import Encoding
from attnprobe.workflows.outcomes import log_probs

_NUMBER = re.compile(r"([ ▁Ġ]?)([0-9]+)")

Removed = Sequence[Sequence[int]]
"""For each variant of a record, the positions that are taken away."""


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A way of taking tokens away."""

    candidates: Callable[[LoadedModel, Encoding], list[int]]
    """Positions of the prompt that can be."""
    run: Callable[[LoadedModel, Encoding, Removed, int], Float32[np.ndarray, "variant step"]]
    """Log-probabilities of every token but the first without them, NaN for the prompt's; the last
    argument is a seed."""


def _any_but_first(loaded: LoadedModel, encoding: Encoding) -> list[int]:
    """Every token but the first, which stands for no content: heads rest on it."""
    special = set(loaded.tokenizer.all_special_ids)
    ids = encoding.ids.tolist()
    return [at for at in range(1, encoding.n_prompt) if ids[at] not in special]


def _hidden(
    loaded: LoadedModel, encoding: Encoding, removed: Removed, seed: int
) -> Float32[np.ndarray, "variant step"]:
    """Hide tokens from every token after them, in all layers."""
    edges = [
        [Edge(None, None, (at + 1, None), (at, at + 1)) for at in positions]
        for positions in removed
    ]
    with knockout(loaded.model, per_example=edges):
        return log_probs(loaded, [encoding.ids.tolist()] * len(removed), first=encoding.n_prompt)


def _numbers(loaded: LoadedModel, encoding: Encoding) -> list[int]:
    """Tokens that are digits, of which there are others alike."""
    kinds = number_kinds(loaded)
    ids = encoding.ids.tolist()
    alike = {kind: sum(one == kind for one in kinds.values()) for kind in set(kinds.values())}
    return [at for at in range(encoding.n_prompt) if ids[at] in kinds and alike[kinds[ids[at]]] > 1]


def number_kinds(loaded: LoadedModel) -> dict[int, tuple[str, int, bool]]:
    """Tell which tokens are digits: by id, what leads them, how many, and whether 0 comes first."""
    found = {}
    for token, number in loaded.tokenizer.get_vocab().items():
        match = _NUMBER.fullmatch(token)
        if match and number < loaded.n_ids:
            found[number] = match[1], len(match[2]), match[2].startswith("0")
    return found


def _substituted(
    loaded: LoadedModel, encoding: Encoding, removed: Removed, seed: int
) -> Float32[np.ndarray, "variant step"]:
    """Put other digits, as many, in the place of digits; the same ones in every variant."""
    kinds = number_kinds(loaded)
    rng = np.random.default_rng(seed)
    others: dict[int, int] = {}
    for at in range(encoding.n_prompt):
        own = int(encoding.ids[at])
        alike = [token for token, kind in kinds.items() if kind == kinds.get(own) and token != own]
        if alike:
            others[at] = int(rng.choice(sorted(alike)))
    texts = []
    for positions in removed:
        ids = encoding.ids.tolist()
        for at in positions:
            ids[at] = others[at]
        texts.append(ids)
    return log_probs(loaded, texts, first=encoding.n_prompt)


@torch.inference_mode()
def _embedded(
    loaded: LoadedModel, encoding: Encoding, removed: Removed, seed: int
) -> Float32[np.ndarray, "variant step"]:
    """Put the mean of the prompt's token vectors in the place of token vectors."""
    if not loaded.accepts("inputs_embeds"):
        raise ModelError(
            "this model takes token ids only, no vectors", where=loaded.name,
            fix="use the perturbations knockout and numbers",
        )  # fmt: skip
    embedding = transformers_model(loaded.model).get_input_embeddings()
    ids = torch.from_numpy(encoding.ids.astype(np.int64)).to(loaded.device)
    vectors = embedding(ids[None]).expand(len(removed), -1, -1).clone()
    mean = vectors[0, : encoding.n_prompt].float().mean(0).to(vectors.dtype)
    for variant, positions in enumerate(removed):
        vectors[variant, list(positions)] = mean
    return log_probs(
        loaded, [encoding.ids.tolist()] * len(removed), vectors, first=encoding.n_prompt
    )


PERTURBATIONS = {
    "knockout": Perturbation(_any_but_first, _hidden),
    "numbers": Perturbation(_numbers, _substituted),
    "embedding": Perturbation(_any_but_first, _embedded),
}
"""`knockout` hides tokens from all tokens after them. `numbers` puts other digits in the place of
digits, as many, so that the text stays one that the model could meet. `embedding` puts the mean of
the prompt's token vectors in their place. None deletes: positions would shift."""
