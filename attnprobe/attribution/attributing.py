"""One sequence and a method → scores of every token for every step."""

from typing import Any

import numpy as np
import torch

from attnprobe.attribution.methods import all_params, find_method, find_target
from attnprobe.attribution.prediction import (
    Prediction,
    check_differentiable,
    check_input,
    frozen,
)
from attnprobe.errors import AttnprobeError, ModelError
from attnprobe.models import free_cached_memory, is_out_of_memory
from attnprobe.types import Attribution, is_source


def attribute(
    model: torch.nn.Module,
    input_ids: Any,
    n_prompt: int,
    method: str = "input_x_gradient",
    target: str = "logprob",
    **params: Any,
) -> Attribution:
    """Credit every predicted token to the tokens before it.

    The model is left as it came: its mode, and which weights learn.

    Args:
        model: A causal language model of transformers, or what PEFT made of one.
        input_ids: Prompt and target, one sequence without padding: [token] or [1, token].
        n_prompt: How many of them are the prompt.
        method: One of `METHODS`; its docstring says when it misleads.
        target: What is credited: `logprob` (nats) or `logit` of each token of the target.
        params: Settings of the method.

    Returns:
        Scores [step, token], NaN where a token does not come before the step's.

    Raises:
        SelectionError: If there is no such method, target or setting, or no target in the ids.
        ModelError: If the model cannot be attributed this way, or memory does not suffice.
    """
    known, what = find_method(method), all_params(method, target, params)
    ids = check_input(model, input_ids, n_prompt)
    if known.needs_gradient:
        check_differentiable(model, method)
    prediction = Prediction(
        model, ids, n_prompt, find_target(target), {name: what[name] for name in known.params}
    )
    where = f"method '{method}'"
    try:
        with frozen(model), torch.inference_mode(False), torch.enable_grad():
            found = known.run(prediction)
    except AttnprobeError:
        raise
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        free_cached_memory()
        raise ModelError(
            "memory does not suffice to attribute this sequence", where=where,
            got=f"{prediction.n_tokens} tokens", fix="shorten it, or load the model in bfloat16",
        ) from error  # fmt: skip
    scores, delta = found if isinstance(found, tuple) else (found, None)
    shape = (prediction.n_steps, prediction.n_tokens)
    return Attribution(
        _checked(scores, shape, where), _checked_delta(delta, shape[:1], where), method, what
    )


def _checked(scores: torch.Tensor, shape: tuple[int, int], where: str) -> np.ndarray:
    """Bring scores to numpy, NaN where a token is no source."""
    values = scores.detach().float().cpu().numpy()
    _check_shape("scores", values, shape, where)
    n_steps, n_tokens = shape
    before = is_source(n_tokens - n_steps, n_steps)
    bad = np.argwhere(before & ~np.isfinite(values))
    if len(bad):
        step, token = bad[0].tolist()
        raise ModelError(
            "a score is no finite number", where=f"{where}, step {step}, token {token}",
            got=float(values[step, token]),
            fix="float16 overflows in many models; load this one in bfloat16 or float32",
        )  # fmt: skip
    return np.where(before, values, np.float32(np.nan))


def _checked_delta(delta: torch.Tensor | None, shape: tuple[int], where: str) -> np.ndarray:
    if delta is None:
        return np.full(shape, np.nan, np.float32)
    values = delta.detach().float().cpu().numpy()
    _check_shape("deltas", values, shape, where)
    return values


def _check_shape(what: str, values: np.ndarray, shape: tuple[int, ...], where: str) -> None:
    if values.shape != shape:
        raise ModelError(
            f"the method returned {what} of the wrong shape", where=where, got=values.shape,
            expected=shape, fix="start from prediction.no_scores()",
        )  # fmt: skip
