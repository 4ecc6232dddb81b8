"""Rationales written by a model, without examples: "Let's think step by step"."""

import re
from collections.abc import Callable
from dataclasses import replace

from attnprobe.tasks.demonstrations.candidates import Demonstration, count_steps

Generator = Callable[[str], str]
"""A prompt to the text that a model writes after it."""

_WORDING = {
    "en": ("Q: {}\nA: Let's think step by step.", "\nTherefore, the answer is"),
    "zh": ("问：{}\n答：让我们一步一步地思考。", "\n因此，答案是"),
}
_CHINESE = re.compile("[一-鿿]")
_NUMBER = re.compile(r"[-−]?\d+(?:[./]\d+)*")
_NEXT_PROBLEM = re.compile(r"^\s*(?:Q:|问：)", re.MULTILINE)


def zero_shot(demonstration: Demonstration, generate: Generator) -> Demonstration | None:
    """Let a model write rationale and answer of a problem.

    As in Kojima et al. (2022), which Zhang et al. (2022) build on, the model is asked twice: for
    the rationale, then, behind it, for the answer. The true answer says only how many numbers an
    answer has; what the model says may be wrong.

    Args:
        demonstration: The problem.
        generate: The model.

    Returns:
        The problem with the model's words, or None if it gave no rationale or no answer.
    """
    chinese = bool(_CHINESE.search(demonstration.question))
    ask, conclude = _WORDING["zh" if chinese else "en"]
    prompt = ask.format(demonstration.question)
    rationale = _until_next_problem(generate(prompt))
    if not rationale:
        return None
    reply = _until_next_problem(generate(f"{prompt} {rationale}{conclude}"))
    n_numbers = len(_NUMBER.findall(demonstration.answer))
    first_line = reply.split("\n")[0]
    numbers = _NUMBER.findall(first_line)[:n_numbers]
    answer = " ".join(numbers) if n_numbers else first_line.strip(" .。:：")
    if not answer or len(numbers) < n_numbers:
        return None
    return replace(
        demonstration,
        rationale=rationale,
        answer=answer,
        n_steps=count_steps(rationale),
        has_derivation=True,
    )


def _until_next_problem(text: str) -> str:
    """Leave out problems that a model makes up after it has answered, and blank lines."""
    own = _NEXT_PROBLEM.split(text, maxsplit=1)[0]
    return "\n".join(line.strip() for line in own.splitlines() if line.strip())
