"""How a contrast was tested, as a paragraph for the methods section of a paper."""

from collections.abc import Callable
from typing import Any

from attnprobe import __version__
from attnprobe.contrasts.inference import MIN_UNITS_FOR_SCREENING
from attnprobe.errors import SelectionError, nearest
from attnprobe.measures import find_measure

_EN_CELLS = {
    "head": "attention head",
    "layer": "layer",
    "span": "pair of segments",
    "whole": "model",
}
FEW_UNITS = 20
"""Below so many units, percentile intervals cover clearly less than they say."""
_ZH_CELLS = {"head": "注意力头", "layer": "层", "span": "片段对", "whole": "模型整体"}


def methods(contrast: Any, language: str) -> str:
    """Word how a contrast was tested; see `Contrast.methods`."""
    if language not in _LANGUAGES:
        raise SelectionError(
            "no methods paragraph in this language", got=f"'{language}'",
            fix=nearest(language, _LANGUAGES),
        )  # fmt: skip
    return _LANGUAGES[language](contrast)


def _english(contrast: Any) -> str:
    notes, cell = contrast.effects.attrs, _EN_CELLS[contrast.over]
    by_task, n_tasks = notes["by"] == "task", int(contrast.effects["n_tasks"].values.max())
    permuted = notes["test"] == "permuted labels"
    looks = f"from {contrast.query} to {contrast.key}" if contrast.key else f"at {contrast.query}"
    compared = f"{contrast.a} and {contrast.b}"
    between = f"of {contrast.within} between {compared}" if contrast.within else (
        f"between {compared}"
    )  # fmt: skip
    scale = (
        "as differences" if notes["scale"] == "difference"
        else "as log2 ratios of the means of each unit"
    )  # fmt: skip
    sentences = [
        f"We compared the measure {contrast.measure} "
        f"({find_measure(contrast.measure).description}; {contrast.unit}) {looks} {between}, "
        f"{scale}, over {contrast.n_pairs} paired problems of "
        f"{n_tasks} tasks, for each {cell}",
        "Problems of one task are not independent, so differences were averaged within tasks and "
        "the task was the unit of inference"
        if by_task
        else "The problem was the unit of inference, so that results speak of these tasks only",
        (
            f"Two-sided p-values come from permuting which {notes['by']}s belong to "
            f"{notes['level_a']} ({notes['n_units_a']}) and {notes['level_b']} "
            f"({notes['n_units_b']}), with the pooled two-sample t as statistic"
            if permuted
            else f"Two-sided p-values come from flipping the signs of whole {notes['by']}s "
            f"({notes['n_units']}), with the one-sample t as statistic"
        )
        + f" ({_resamples(notes, 'all', 'at random, seed')}; smallest attainable p "
        f"{notes['p_smallest']:.2g})",
        f"This takes {notes['by']}s of both groups to be alike but for their mean"
        if permuted
        else f"This takes {notes['by']}s without an effect to differ as much in the one direction "
        "as in the other (symmetry about 0)",
        f"The p-values were adjusted for {notes['n_tested']} tests by the step-down maximum "
        "statistic (Westfall & Young 1993; Nichols & Holmes 2002), which controls the family-wise "
        "error rate however the tests depend on each other",
    ]
    if contrast.omnibus is not None:
        sentences.append(
            f"An omnibus test came first: the same on means over heads, over "
            f"{contrast.omnibus.family} ({contrast.omnibus.n_tested} tests)"
        )
    if notes["n_units"] >= MIN_UNITS_FOR_SCREENING:
        sentences.append(
            "For screening, the false discovery rate was controlled after "
            + ("Benjamini & Yekutieli (2001)" if notes["screening"] == "by"
               else "Benjamini & Hochberg (1995)")
        )  # fmt: skip
    if contrast.filler:
        sentences.append(
            f"Prompts of {contrast.filler} have no {contrast.key}; in its place stands the mean "
            "over windows of neighbouring text of the prompt with as many visible keys"
        )
    effect, few = "g_s" if permuted else "g_z", notes["n_units"] < FEW_UNITS
    sentences += [
        f"Intervals are {100 * notes['confidence']:g} % percentile bootstrap intervals of single "
        f"estimates, resampling {notes['by']}s ({notes['n_bootstrap']:,} resamples"
        + (f"; with only {notes['n_units']} they cover less" if few else "")
        + "); effect sizes "
        f"{effect} are the estimate over the standard deviation of the {notes['by']}s"
        + (" pooled over both groups," if permuted else ",")
        + " with Hedges' correction",
        *([contrast.notice.rstrip(".")] if contrast.notice else []),
        f"Computed with attnprobe {__version__}",
    ]
    return ". ".join(sentences) + "."


def _chinese(contrast: Any) -> str:
    notes, cell = contrast.effects.attrs, _ZH_CELLS[contrast.over]
    by_task, n_tasks = notes["by"] == "task", int(contrast.effects["n_tasks"].values.max())
    unit = "任务" if by_task else "题目"
    permuted = notes["test"] == "permuted labels"
    looks = f"从 {contrast.query} 到 {contrast.key}" if contrast.key else f"在 {contrast.query} 处"
    subject = f"的“{contrast.within}”" if contrast.within else ""
    scale = "取差值" if notes["scale"] == "difference" else "取各单位均值之比的 log2"
    sentences = [
        f"对每个{cell}，我们比较了{looks}的注意力指标 {contrast.measure}（单位：{contrast.unit}）"
        f"{subject}在 {contrast.a} 与 {contrast.b} 之间的差异（{scale}），共 "
        f"{contrast.n_pairs} 个配对题目，来自 {n_tasks} 个任务",
        "同一任务的题目并不独立，因此先在任务内取平均，并以任务为推断单位"
        if by_task
        else "以题目为推断单位，因此结论仅适用于这些任务",
        (
            f"双侧 p 值通过置换各{unit}的分组标签得到（{notes['level_a']} {notes['n_units_a']} 个，"
            f"{notes['level_b']} {notes['n_units_b']} 个），统计量为合并方差的两样本 t"
            if permuted
            else f"双侧 p 值通过整体翻转{unit}的符号得到（{notes['n_units']} 个），统计量为单样本 t"
        )
        + f"（{_resamples(notes, '全部', '次随机，种子')}；可达到的最小 p 值为 "
        f"{notes['p_smallest']:.2g}）",
        f"该检验假定两组{unit}除均值外分布相同"
        if permuted
        else f"该检验假定在没有效应时，{unit}的差异关于 0 对称",
        f"对 {notes['n_tested']} 个检验用逐步下降的最大统计量校正（Westfall & Young 1993；"
        "Nichols & Holmes 2002），无论检验之间如何相关，均控制总体（family-wise）错误率",
    ]
    if contrast.omnibus is not None:
        family = contrast.omnibus.family.replace("layer", "层").replace("span", "片段")
        sentences.append(
            f"此前先做总体检验：对各头取平均后，在{family.replace('query', '查询')}上作同样的检验"
            f"（{contrast.omnibus.n_tested} 个）"
        )
    if notes["n_units"] >= MIN_UNITS_FOR_SCREENING:
        source = (
            "Benjamini & Yekutieli (2001)" if notes["screening"] == "by"
            else "Benjamini & Hochberg (1995)"
        )  # fmt: skip
        sentences.append(f"筛选时按 {source} 控制错误发现率")
    if contrast.filler:
        sentences.append(
            f"{contrast.filler} 的提示中没有 {contrast.key}，"
            "以提示中可见键数相同的相邻文本窗口的平均值代替"
        )
    few = "；单位较少，实际覆盖率偏低" if notes["n_units"] < FEW_UNITS else ""
    sentences += [
        f"区间为单个估计值的 {100 * notes['confidence']:g} % 百分位自助法区间（对{unit}重抽样 "
        f"{notes['n_bootstrap']:,} 次{few}）；效应量 {'g_s' if permuted else 'g_z'} 为估计值"
        f"除以{unit}{'的合并' if permuted else '间的'}标准差，并作 Hedges 校正",
        *(["提取尚未完成，结果只含已有的记录"] if contrast.notice else []),
        f"使用 attnprobe {__version__} 计算",
    ]
    return "。".join(sentences) + "。"


def _resamples(notes: Any, every: str, drawn: str) -> str:
    """Word how many flips were looked at: `all 4,096`, `10,001 at random, seed 0`."""
    count = f"{notes['n_flips']:,}"
    return f"{every} {count}" if notes["exact"] else f"{count} {drawn} {notes['seed']}"


_LANGUAGES: dict[str, Callable[[Any], str]] = {"en": _english, "zh": _chinese}
