"""From the facts of attribution.json to attribution.md."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HEAD = """# Attribution methods: where they point, and whether it matters

`python scripts/make_attribution_table.py` makes this page again. All methods of
`attnprobe.attribution.METHODS`, and knocking tokens out (hiding each term from all tokens after
it, in all layers). Reported as it falls."""

PLANTED = """## Planted truth: models wired by hand

Share of {n} sequences in which the largest score is on the planted source. *Induction*: … A B …
A → B in two layers. *Decoys*: one head copies the marked word, three look at a decoy and bring
nothing. *Cancelling*: two heads copy the decoy with opposite signs. *Chain*: a word is handed
on over three hops, and the source is where it began; hiding a later hop costs about as much, so
that knockout points there."""

REFERENCE = """## Planted truth: terms that the reference model's answers follow from

{about} Each number of an answer whose tokens are all the model's most probable ones is
explained as a whole, and each term before it (the history, and earlier numbers of the answer)
gets the sum of the scores of its tokens. The truth are the terms that the family's recurrence
reads: the last one, the last two, the one a period before, the one that is copied … *@1*: the
highest score is on a true term. *@k*: share of the k true terms among the k highest. *Mass*:
share of all positive credit of terms. *AUPRC*: average precision. Means within families first,
then over families; *chance* is a random ranking.

A model that is not told the rule's parameters must also read other terms to find them out, so 1
cannot be expected, and a model may find the answer in another way than the rule's (a constant
difference can be read off any two terms)."""

BY_FAMILY = "Pointing *@1* by family:"

FAITHFUL = """## Faithfulness on the reference model

{about} Tokens of the prompt are taken away by each method's ranking for the whole answer, and
the answer's log-probability is compared with what random rankings lose (nats, 95 % bootstrap
intervals over families). Comprehensiveness and the area of MoRF: higher is better; sufficiency
and the area of LeRF: lower is better. A perturbation favours methods that resemble it:
`knockout` as a ranking is what `knockout` as a perturbation tests."""

SETTINGS = """Gradients are those of the log-probability, and of the logit for {logit}. {params}
Terms, each with what stands between it and the next, are credited as a whole by feature ablation,
Shapley values and knockout."""


def page(facts: Mapping[str, Any]) -> str:
    """Write attribution.md."""
    parts = [HEAD, PLANTED.format(n=facts["planted"]["n"]), _planted(facts["planted"])]
    model = facts["model"]
    about = (
        f"Weights {model['weights'][:12]}, after {model['tokens'] / 1e6:.0f} million tokens: "
        f"{facts['n_problems']} problems in the style `direct` with {facts['n_numbers']} numbers "
        f"that are predicted, of {len(facts['families'])} families."
    )
    if facts["without"]:
        about += f" Of {', '.join(facts['without'])} no number was predicted."
    parts += [REFERENCE.format(about=about), _pointing(facts), _settings(facts)]
    parts += [BY_FAMILY, _by_family(facts), *_faithful(facts)]
    return "\n\n".join(parts) + "\n"


def _planted(planted: Mapping[str, Any]) -> str:
    models = list(next(iter(planted["shares"].values())))
    rows = [
        [method, *(f"{shares[model]:.2f}" for model in models)]
        for method, shares in planted["shares"].items()
    ]
    return table(["method", *models], rows)


def _pointing(facts: Mapping[str, Any]) -> str:
    names = ("@1", "@k", "mass", "AUPRC")
    rows = [
        [method, *(f"{values[name]:.2f}" for name in names)]
        for method, values in facts["pointing"].items()
    ]
    return table(["method", *names], rows)


def _by_family(facts: Mapping[str, Any]) -> str:
    families = facts["families"]
    rows = [
        [method, *(f"{found[family]:.2f}" for family in families)]
        for method, found in facts["by_family"].items()
    ]
    return table(["method", *(f"{name} ({n})" for name, n in families.items())], rows)


def _faithful(facts: Mapping[str, Any]) -> Iterable[str]:
    found = facts["faithfulness"]
    yield FAITHFUL.format(about=f"The first of them, {found['n']} problems.")
    if "why" in found:
        yield f"No claim can be made: {found['why']}"
        return
    metrics = ("comprehensiveness", "sufficiency", "morf", "lerf")
    for perturbation in dict.fromkeys(row["perturbation"] for row in found["rows"]):
        own = [row for row in found["rows"] if row["perturbation"] == perturbation]
        cells = {(row["method"], row["metric"]): row for row in own}
        methods = dict.fromkeys(row["method"] for row in own)
        first = ["*random rankings*"]
        first += [f"{cells[next(iter(methods)), metric]['before']:.2f}" for metric in metrics]
        rows = [
            [method, *(_interval(cells[method, metric]) for metric in metrics)]
            for method in methods
        ]
        yield f"Taken away by `{perturbation}`:"
        yield table(["method", *metrics], [first, *rows])


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['estimate']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"


def _settings(facts: Mapping[str, Any]) -> str:
    told = "; ".join(
        f"{method}: {', '.join(f'{name} {value}' for name, value in given.items())}"
        for method, given in facts["params"].items()
    )
    params = f"Other than by default: {told}." if told else ""
    return SETTINGS.format(logit=", ".join(facts["logit"]), params=params)


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
