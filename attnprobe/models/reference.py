"""The reference model: small, trained on number sequences, and part of attnprobe."""

from pathlib import Path

from attnprobe.errors import ModelError

NAME = "reference"
_PACKAGE = Path(__file__).parent.parent
FOLDERS = (
    _PACKAGE / "reference_model",
    _PACKAGE.parent / "artifacts" / "reference-model",
)
"""Where it lies: in an installed package, in a checkout."""


def reference_folder() -> Path:
    """Return the folder of the reference model.

    Raises:
        ModelError: If it is not there.
    """
    for folder in FOLDERS:
        if (folder / "config.json").is_file():
            return folder
    raise ModelError(
        "the reference model is not there", where=NAME,
        got=" and ".join(f"no {folder / 'config.json'}" for folder in FOLDERS),
        fix="install attnprobe again, or make the model: python scripts/train_reference.py",
    )  # fmt: skip
