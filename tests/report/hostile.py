"""Runs for pages: random softmax rows, attributions, and text that would like to be a script."""

from dataclasses import replace

import numpy as np

from attnprobe.types import Attribution, Segment, is_source
from tests.store.builders import make_captures, open_writer, write_missing

SCRIPT = " <script>window.hacked=1</script>"
IMAGE = " <img src=x onerror=window.hacked=2>"
ROLE = "step_<b>1</b>"
PARAMS = {"gradient": {"target": "logprob", "unit": "nat"}}
SETTINGS = {"attribute": ["gradient"], "attribute_params": PARAMS}


def with_script(capture):
    """The same capture, but with HTML in a token, in the prompt and in what the model wrote."""
    encoding, record = capture.encoding, capture.encoding.record
    texts = list(encoding.texts)
    texts[2], texts[-1] = SCRIPT, IMAGE
    prompt = (Segment("instruction", f"continue{SCRIPT}"), *record.prompt[1:])
    written = "".join(texts[encoding.n_prompt :])
    return replace(
        capture,
        encoding=replace(
            encoding, texts=tuple(texts), record=replace(record, prompt=prompt), generated=written
        ),
    )


def credited(capture, seed):
    """A capture with random attributions."""
    encoding = capture.encoding
    shape = (encoding.n_steps, encoding.n_tokens)
    scores = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    scores[~is_source(encoding.n_prompt, encoding.n_steps)] = np.nan
    delta = np.zeros(encoding.n_steps, np.float32)
    made = {"gradient": Attribution(scores, delta, "gradient", PARAMS["gradient"])}
    return replace(capture, attributions=made)


def make_hostile_run(path, **changes):
    """Two layers of three heads, 24 records of 6 tasks in two styles, HTML in every text."""
    captures = [with_script(capture) for capture in make_captures(effect=2.0, **changes)]
    captures = [credited(capture, seed) for seed, capture in enumerate(captures)]
    write_missing(open_writer(path, captures, settings=SETTINGS | {"decode": "greedy"}), captures)
    return path
