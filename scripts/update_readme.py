"""Write the help text of every command into README.md; with --check, only say whether it is true.

python scripts/update_readme.py [--check]
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.testing import CliRunner

from attnprobe.cli import app

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- help -->\n", "<!-- /help -->\n"


def commands(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command, groups before their members."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def help_texts() -> str:
    """Return the help of all commands as fenced blocks of a fixed width."""
    os.environ["COLUMNS"] = os.environ["TERMINAL_WIDTH"] = "100"
    blocks = []
    for path in commands(typer.main.get_command(app)):
        text = CliRunner().invoke(app, [*path, "--help"], prog_name="attnprobe").output
        lines = [line.rstrip() for line in text.strip().splitlines()]
        blocks.append("\n".join(["```text", *lines, "```"]))
    return "\n\n".join(blocks) + "\n"


def renewed(readme: str) -> str:
    """Return the README with the help texts of today between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{help_texts()}\n{END}{after}"


def main() -> int:
    old = README.read_text(encoding="utf-8")
    new = renewed(old)
    if "--check" in sys.argv:
        return int(old != new)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
