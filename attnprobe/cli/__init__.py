"""The command line: parses, wires, shows progress; nothing else."""

from attnprobe.cli import analysis, check, data, demo, runs  # noqa: F401  (each adds its commands)
from attnprobe.cli.app import app


def main() -> None:
    """Run the command line."""
    app()


__all__ = ["app", "main"]
