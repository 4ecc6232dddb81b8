"""Says in words how the run that is there differs from the one asked for."""

from collections.abc import Mapping
from typing import Any

from attnprobe.store.manifest import Manifest
from attnprobe.store.plan import Plan


def differences(
    run: Manifest, asked: Manifest, sides: tuple[str, str] = ("run has", "asked for")
) -> list[str]:
    """List what differs between a run and what is asked for, one line each.

    Args:
        run: The one.
        asked: The other.
        sides: What leads over to the value of each.
    """
    old, new = _flat(run.to_json()), _flat(asked.to_json())
    lines = [
        f"{name}: {sides[0]} {_shown(old, name)}, {sides[1]} {_shown(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, ...) != new.get(name, ...)
    ]
    return lines + _plan_differences(run.plan, asked.plan)


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for part in ("settings", "model"):
        _flatten(part, value[part], flat)
    return flat | {name: value[name] for name in ("layers", "heads")}


def _flatten(name: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten(f"{name}.{key}", inner, into)
    else:
        into[name] = value


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "nothing"
    text = repr(values[name])
    return text if len(text) <= 200 else f"{text[:200]}…"


def _plan_differences(run: Plan, asked: Plan) -> list[str]:
    if run == asked:
        return []
    old, new = (dict(zip(plan.ids, plan.digests, strict=True)) for plan in (run, asked))
    if old == new:
        return [f"plan: run has {len(run)} chunks, asked for {len(asked)} or another order"]
    changed = [name for name in new if name in old and new[name] != old[name]]
    lines = [f"records: run has {len(old)}, asked for {len(new)}"] if len(old) != len(new) else []
    for what, names in (
        ("only in the run", [name for name in old if name not in new]),
        ("only asked for", [name for name in new if name not in old]),
        ("with another text, label, meta, span or sink", changed),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(f"records {what}: {', '.join(map(repr, names[:3]))}{more}")
    return lines
