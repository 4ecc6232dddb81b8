"""The command line: parses, wires, shows progress; nothing else."""

from attnprobe.cli import (  # noqa: F401  (each adds its commands)
    analysis,
    bertviz,
    causes,
    check,
    confirm,
    data,
    demo,
    files,
    finetune,
    passfail,
    plots,
    plots_records,
    reports,
    runs,
    score,
    view,
)
from attnprobe.cli.app import app


def main() -> None:
    """Run the command line."""
    app()


__all__ = ["app", "main"]
