"""Where a causal language model looks while it predicts a sequence.

The public names, in the order of the flow: records are read, encoded and captured into a run; a
run is opened, measured, contrasted and drawn. Everything loads when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnprobe.contrasts import Contrast, contrast, contrast_runs
    from attnprobe.errors import AttnprobeError
    from attnprobe.finetune import Finetuned, FinetuneSettings, fine_tune
    from attnprobe.measures import measure
    from attnprobe.models import load_model
    from attnprobe.records import read_records, write_records
    from attnprobe.store import Run, Verification, open_run, verify
    from attnprobe.types import Encoding, Record, Segment, Span
    from attnprobe.workflows.confirm import ConfirmSettings, confirm
    from attnprobe.workflows.extract import ExtractSettings, extract
    from attnprobe.workflows.passfail import PassFailSettings, pass_fail
    from attnprobe.workflows.probing import probe

__version__ = "0.1.0"

_HOME = {
    "Record": "types",
    "Segment": "types",
    "Span": "types",
    "Encoding": "types",
    "read_records": "records",
    "write_records": "records",
    "load_model": "models",
    "FinetuneSettings": "finetune",
    "Finetuned": "finetune",
    "fine_tune": "finetune",
    "ExtractSettings": "workflows.extract",
    "extract": "workflows.extract",
    "probe": "workflows.probing",
    "open_run": "store",
    "Run": "store",
    "verify": "store",
    "Verification": "store",
    "measure": "measures",
    "Contrast": "contrasts",
    "contrast": "contrasts",
    "contrast_runs": "contrasts",
    "PassFailSettings": "workflows.passfail",
    "pass_fail": "workflows.passfail",
    "ConfirmSettings": "workflows.confirm",
    "confirm": "workflows.confirm",
    "AttnprobeError": "errors",
}

__all__ = [
    "AttnprobeError", "ConfirmSettings", "Contrast", "Encoding", "ExtractSettings",
    "FinetuneSettings", "Finetuned", "PassFailSettings", "Record", "Run", "Segment", "Span",
    "Verification", "confirm", "contrast", "contrast_runs", "extract", "fine_tune", "load_model",
    "measure", "open_run", "pass_fail", "probe", "read_records", "verify", "write_records",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in."""
    if name in _HOME:
        return getattr(importlib.import_module(f"attnprobe.{_HOME[name]}"), name)
    raise AttributeError(f"module 'attnprobe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
