"""One sequence and a method → scores of every token for every step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from attnprobe.attribution.inputs import (
    check_differentiable,
    check_foils,
    check_input,
    check_ranges,
    frozen,
)
from attnprobe.attribution.memory import checkpointed
from attnprobe.attribution.methods import Method, all_params, find_method
from attnprobe.attribution.prediction import Prediction, with_foils
from attnprobe.attribution.targets import find_target
from attnprobe.errors import AttnprobeError, ModelError, SelectionError
from attnprobe.models import free_cached_memory, is_out_of_memory
from attnprobe.types import Attribution, is_source, step_query


@dataclass(frozen=True, slots=True)
class Focus:
    """What of a sequence is credited and explained, where not each token by itself."""

    spans: Sequence[Any] | None = None
    """Token ranges, each credited as a whole: `(start, stop)`, half-open, or `Span`s."""
    target_spans: Sequence[Any] | None = None
    """Token ranges of the target, each explained as a whole (the sum over its tokens)."""
    foils: Any = None
    """For `target="contrast"`: the token id that each predicted token is held against; the model's
    most probable other token if None."""


def attribute(
    model: torch.nn.Module,
    input_ids: Any,
    n_prompt: int,
    method: str = "input_x_gradient",
    target: str = "logprob",
    focus: Focus | None = None,
    **params: Any,
) -> Attribution:
    """Credit every predicted token to the tokens before it.

    The model is left as it came: its mode, and which weights learn.

    Args:
        model: A causal language model of transformers, or what PEFT made of one.
        input_ids: Prompt and target, one sequence without padding: [token] or [1, token].
        n_prompt: How many of them are the prompt.
        method: One of `METHODS`; its docstring says when it misleads.
        target: What is credited: `logprob` (nats) or `logit` of each token of the target, or
            `contrast`, its logit minus that of a foil.
        focus: Spans to credit, or to explain, as a whole; foils.
        params: Settings of the method.

    Returns:
        Scores [step, token], NaN where a token does not come before the step's; with a focus, a row
        for each of its target spans, a column for each of its spans.

    Raises:
        SelectionError: If there is no such method, target or setting, or no target in the ids.
        ModelError: If the model cannot be attributed this way, or memory does not suffice.
    """
    known, what = find_method(method), all_params(method, target, params)
    ids = check_input(model, input_ids, n_prompt)
    if known.needs_gradient:
        check_differentiable(model, method)
    own = {name: what[name] for name in known.params}
    prediction = Prediction(model, ids, n_prompt, find_target(target), own)
    prediction = _focused(prediction, focus or Focus(), target)
    where = f"method '{method}'"
    with frozen(model), torch.inference_mode(False), torch.enable_grad():
        scores, delta = _within_memory(known, prediction, where)
    return Attribution(scores, delta, method, what)


def _within_memory(
    method: Method, prediction: Prediction, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Run a method; where memory does not suffice, once more with layers that keep less."""
    short: RuntimeError | None = None
    try:
        return _run(method, with_foils(prediction), where)
    except AttnprobeError:
        raise
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        short = error.with_traceback(None)  # it would keep alive what filled the memory
    free_cached_memory()
    if method.needs_gradient:
        try:
            with checkpointed(prediction.model) as saves:
                if saves:
                    return _run(method, with_foils(prediction), where)
        except AttnprobeError:
            raise
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        free_cached_memory()
    raise ModelError(
        "memory does not suffice to attribute this sequence", where=where,
        got=f"{prediction.n_tokens} tokens", fix="shorten it, or load the model in bfloat16",
    ) from short  # fmt: skip


def _focused(prediction: Prediction, focus: Focus, target: str) -> Prediction:
    n_prompt, n_tokens = prediction.n_prompt, prediction.n_tokens
    steps = check_ranges(focus.target_spans, "target_spans", n_prompt, n_tokens)
    foils = check_foils(prediction.model, focus.foils, prediction.n_steps)
    if foils is not None and not prediction.target.against_foil:
        raise SelectionError(
            "this target takes no foils", where="foils", got=f"target '{target}'",
            expected="target 'contrast'",
        )  # fmt: skip
    return replace(
        prediction,
        foils=foils,
        spans=check_ranges(focus.spans, "spans", 0, n_tokens),
        steps=steps and tuple((start - n_prompt, stop - n_prompt) for start, stop in steps),
    )


def _run(method: Method, asked: Prediction, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Run a method, check what it found, and sum it over spans if it did not."""
    prediction = asked if method.heeds_spans else asked.by_token
    found = method.run(prediction)
    given, off = found if isinstance(found, tuple) else (found, None)
    scores = _checked(given, prediction, where)
    delta = _checked_delta(off, len(prediction.rows), where)
    if method.heeds_spans:
        return scores, delta
    scores = np.nan_to_num(scores)
    scores = np.stack([scores[start:stop].sum(0) for start, stop in asked.rows])
    scores = np.stack([scores[:, start:stop].sum(1) for start, stop in asked.columns], axis=1)
    delta = np.stack([delta[start:stop].sum() for start, stop in asked.rows])
    return np.where(_before(asked), scores, np.float32(np.nan)), delta


def _before(prediction: Prediction) -> np.ndarray:
    """Tell which columns begin before the last token that a row explains."""
    first = np.array([start for start, _ in prediction.columns])
    last = np.array([step_query(prediction.n_prompt, stop - 1) for _, stop in prediction.rows])
    return first <= last[:, None]


def _checked(scores: torch.Tensor, prediction: Prediction, where: str) -> np.ndarray:
    """Bring scores to numpy, NaN where a token is no source."""
    values = scores.detach().float().cpu().numpy()
    before = _before(prediction)
    _check_shape("scores", values, before.shape, where)
    bad = np.argwhere(before & ~np.isfinite(values))
    if len(bad):
        row, column = bad[0].tolist()
        raise ModelError(
            "a score is no finite number",
            where=f"{where}, step {prediction.rows[row][0]}, token {prediction.columns[column][0]}",
            got=float(values[row, column]),
            fix="float16 overflows in many models; load this one in bfloat16 or float32",
        )  # fmt: skip
    return np.where(before, values, np.float32(np.nan))


def _checked_delta(delta: torch.Tensor | None, n_rows: int, where: str) -> np.ndarray:
    if delta is None:
        return np.full(n_rows, np.nan, np.float32)
    values = delta.detach().float().cpu().numpy()
    _check_shape("deltas", values, (n_rows,), where)
    return values


def _check_shape(what: str, values: np.ndarray, shape: tuple[int, ...], where: str) -> None:
    if values.shape != shape:
        raise ModelError(
            f"the method returned {what} of the wrong shape", where=where, got=values.shape,
            expected=shape, fix="start from prediction.no_scores()",
        )  # fmt: skip


def spread(found: Attribution, spans: Sequence[Any], n_prompt: int, n_tokens: int) -> Attribution:
    """Spread what each span was credited with evenly over its tokens before the step's.

    Args:
        found: Scores [step, span].
        spans: The spans.
        n_prompt: Tokens of the prompt.
        n_tokens: Tokens of prompt and target.

    Returns:
        Scores [step, token]; tokens in no span get 0. A step's sum stays as it was.
    """
    ranges = check_ranges(spans, "spans", 0, n_tokens) or ()
    before = is_source(n_prompt, n_tokens - n_prompt)
    scores = np.where(before, np.float32(0), np.float32(np.nan))
    for column, (start, stop) in enumerate(ranges):
        n_before = before[:, start:stop].sum(1, keepdims=True)
        share = found.scores[:, column, None] / np.maximum(n_before, 1)
        scores[:, start:stop] = np.where(before[:, start:stop], share, np.nan)
    return replace(found, scores=scores.astype(np.float32))
