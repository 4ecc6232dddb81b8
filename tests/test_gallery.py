"""The README's figures are those that `scripts/make_figures` draws, by the commands beside them."""

import re
import struct
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHOWN = re.findall(
    r"!\[[^\]]+\]\((artifacts/figures/(\w+)\.png)\)<br>`([^`]+)`",
    (ROOT / "README.md").read_text(encoding="utf-8"),
)
SCRIPT = (ROOT / "scripts" / "make_figures").read_text(encoding="utf-8").splitlines()
KINDS = {
    "heads", "segments", "steps", "passfail", "map", "zoom", "attribution", "text", "knockout",
    "faithfulness", "curves", "training",
}  # fmt: skip


def test_every_kind_is_shown():
    assert {name for _, name, _ in SHOWN} == KINDS
    assert {line.split()[-1] for line in SCRIPT if line.startswith("attnprobe plot")} == {
        f"{name}.png" for name in KINDS
    }


@pytest.mark.parametrize(("path", "name", "command"), SHOWN, ids=[name for _, name, _ in SHOWN])
def test_a_figure_is_there_and_its_command_is_the_scripts(path, name, command):
    assert command.endswith(f" -o {name}.png")
    assert command in SCRIPT
    header = (ROOT / path).read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", header[16:24])
    assert width > 900
    assert height > 400
