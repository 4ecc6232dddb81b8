"""What a style asks for, in words, in English and Chinese."""

from collections.abc import Mapping

from attnprobe.errors import DatasetError, nearest

LANGUAGES = ("en", "zh")

_SENTENCES: Mapping[str, tuple[str, str]] = {
    "direct": ("Write only the answer.", "只写答案。"),
    "stepwise": (
        "Write one computation per line, then the answer on the last line.",
        "每行写一步计算，最后一行写答案。",
    ),
    "sums": (
        "Below the sequence are the sums of every {size} terms. "
        "First write the sums of the coming blocks, then the answer on the next line.",
        "数列下方是每{size}项之和。先写出后续各块的和，再另起一行写答案。",
    ),
    "means": (
        "Below the sequence are the means of every {size} terms. "
        "First write the means of the coming blocks, then the answer on the next line.",
        "数列下方是每{size}项的平均数。先写出后续各块的平均数，再另起一行写答案。",
    ),
    "bins": (
        "Below the sequence each term is given as a bin: bin 0 starts at {low} and every bin is "
        "{width} wide. First write the bins of the coming terms, then the answer on the next line.",
        "数列下方是各项所在区间的编号：0号区间从{low}开始，每个区间宽{width}。"
        "先写出后续各项的区间编号，再另起一行写答案。",
    ),
    "merge": (
        "Write one computation per line, taking {size} steps at once, "
        "then the answer on the last line.",
        "每行把{size}步计算合并成一步，最后一行写答案。",
    ),
    "stepwise-filler": (
        "Write filler dots first, line by line, then the answer on the last line.",
        "先逐行写占位点，最后一行写答案。",
    ),
    "coarse-filler": (
        "All dots are filler. Write filler dots first, then the answer on the last line.",
        "所有的点都只是占位。先写占位点，最后一行写答案。",
    ),
}


def check_language(language: str) -> None:
    """Refuse a language that there is no wording for.

    Raises:
        DatasetError: If `language` is neither `en` nor `zh`.
    """
    if language not in LANGUAGES:
        raise DatasetError(
            "unknown language of the instruction",
            got=f"'{language}'",
            fix=nearest(language, LANGUAGES),
        )


def instruction(start: str, key: str, language: str, **values: object) -> str:
    """Join what the task asks and what the style asks, in the way of the language."""
    sentence = _SENTENCES[key][LANGUAGES.index(language)].format(**values)
    return f"{start}{'' if language == 'zh' else ' '}{sentence}"
