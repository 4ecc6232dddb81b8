"""The model that a run was made with, loaded again and recognised."""

from typing import Any

from attnprobe.errors import ModelError
from attnprobe.models import LoadedModel, load_model
from attnprobe.store import Run


def reload_model(
    run: Run,
    model: str | LoadedModel | None = None,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load the model that a run was made with, as its manifest describes it.

    Code that came with the model runs only where the caller says so again: a run may come from a
    stranger.

    Args:
        run: An open run.
        model: Its name here, where that is another one than on the machine of the run; or the
            model itself.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        trust_remote_code: Run the code that comes with the model.

    Returns:
        The model.

    Raises:
        ModelError: If it is not there, or its weights are not those of the run.
    """
    loaded = model if isinstance(model, LoadedModel) else None
    if loaded is None:
        loaded = _loaded(run, model, device, trust_remote_code)
    _check_same(run, loaded)
    return loaded


def _loaded(run: Run, name: Any, device: str, trust_remote_code: bool) -> LoadedModel:
    stated = run.model
    name = name or stated.get("name")
    if not isinstance(name, str) or not name:
        raise ModelError(
            "the run does not say by which model it was made", where=str(run.path),
            fix="name it with --model",
        )  # fmt: skip
    if stated.get("remote_code") and not trust_remote_code:
        raise ModelError(
            "this run was made by code that came with its model", where=str(run.path), got=name,
            fix="add --trust-remote-code if you trust it",
        )  # fmt: skip
    adapter = stated.get("adapter") or {}
    return load_model(
        name, device=device, dtype=str(stated.get("dtype", "auto")), base=adapter.get("base"),
        merge_adapter=bool(adapter.get("merged")), trust_remote_code=trust_remote_code,
    )  # fmt: skip


def _check_same(run: Run, loaded: LoadedModel) -> None:
    stated, found = run.model, loaded.identity()
    parts = [("weights", stated, found)]
    if "adapter" in stated or "adapter" in found:
        parts.append(("adapter", stated.get("adapter") or {}, found.get("adapter") or {}))
    for what, before, now in parts:
        if before.get("fingerprint") != now.get("fingerprint"):
            raise ModelError(
                f"this is not the model that the run was made with: its {what} have changed",
                where=str(run.path),
                got=f"'{loaded.name}', fingerprint {str(now.get('fingerprint'))[:12]}",
                expected=f"'{stated.get('name')}', fingerprint "
                f"{str(before.get('fingerprint'))[:12]}",
                fix="name the right one with --model, or extract again with this one",
            )  # fmt: skip
