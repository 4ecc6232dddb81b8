"""The command line: parses, wires, shows progress; nothing else."""

from attnprobe.cli import (  # noqa: F401  (each adds its commands)
    analysis,
    bertviz,
    causes,
    check,
    data,
    demo,
    files,
    finetune,
    passfail,
    plots,
    runs,
    score,
    view,
)
from attnprobe.cli.app import app


def main() -> None:
    """Run the command line."""
    app()


__all__ = ["app", "main"]
