"""Which module may import which: read from the sources, not from what happens to load."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "attnprobe"

SIDES = {
    "errors": "both", "signs": "both", "types": "both",
    "records": "data", "tasks": "data", "encode": "data",
    "models": "torch", "attention": "torch", "attribution": "torch", "capturing": "torch",
    "finetune": "torch",
    "store": "file",
    "measures": "numpy", "contrasts": "numpy", "panels": "numpy", "figures": "numpy",
    "report": "numpy",
    "workflows": "joins", "cli": "joins",
}  # fmt: skip
ORDER = {
    "data": ["records", "tasks", "encode"],
    "torch": ["models", "attention", "attribution", "capturing", "finetune"],
    "file": ["store"],
    "numpy": ["measures", "contrasts", "panels", "figures", "report"],
    "joins": ["workflows", "cli"],
}
"""Within a side, a module imports those before it only."""
MAY_IMPORT = {
    "both": {"both"},
    "data": {"both", "data"},
    "torch": {"both", "data", "torch"},
    "file": {"both", "file"},
    "numpy": {"both", "numpy"},
    "joins": {"both", "data", "torch", "file", "numpy", "joins"},
}
HEAVY = {
    "both": {"numpy"}, "data": {"numpy"}, "file": {"numpy", "h5py", "xarray", "pandas"},
    "torch": {"numpy", "torch", "transformers", "captum", "peft"},
    "numpy": {"numpy", "xarray", "scipy", "matplotlib", "bertviz", "pandas"},
    "joins": {"torch", "numpy"},
}  # fmt: skip
"""Heavy libraries that a side may import when it is imported."""
KNOWN_HEAVY = {
    "numpy", "torch", "transformers", "captum", "peft", "h5py", "xarray", "pandas", "scipy",
    "matplotlib", "bertviz", "sklearn", "datasets",
}  # fmt: skip
LIGHT = {
    "torch", "transformers", "captum", "bertviz", "matplotlib", "xarray", "pandas", "scipy", "h5py",
    "plotly", "starlette", "uvicorn",
}  # fmt: skip

FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    """The module of the design that a file belongs to; None for the package's own files."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if name in ("__init__", "__main__") else name


def imports(path, top_level_only=False):
    """Yield (full module name, line) for each import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def faults_in(path):
    """Name every import that goes the wrong way."""
    part = part_of(path)
    side = SIDES[part]
    for module, line in imports(path):
        names = module.split(".")
        if names[0] != "attnprobe" or len(names) < 2 or names[1] == part:
            continue
        other = names[1]
        if other not in SIDES:
            continue
        if SIDES[other] not in MAY_IMPORT[side]:
            yield f"{path.name}:{line}: {part} ({side}) imports {other} ({SIDES[other]})"
        elif SIDES[other] == side and side in ORDER:
            order = ORDER[side]
            if order.index(other) > order.index(part):
                yield f"{path.name}:{line}: {part} imports {other}, which comes after it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_the_right_way(path):
    part = part_of(path)
    if part is None:
        return
    assert part in SIDES, f"{part} has no place in the table of this test"
    assert not list(faults_in(path))
    for module, line in imports(path, top_level_only=True):
        heavy = module.split(".")[0]
        if heavy in KNOWN_HEAVY:
            assert heavy in HEAVY[SIDES[part]], f"{path.name}:{line}: {part} imports {heavy}"


def test_a_wrong_import_would_be_seen(tmp_path, monkeypatch):
    wrong = PACKAGE / "capturing.py"
    monkeypatch.setattr(
        sys.modules[__name__], "imports", lambda *_: [("attnprobe.store", 1), ("attnprobe.cli", 2)]
    )
    assert list(faults_in(wrong)) == [
        "capturing.py:1: capturing (torch) imports store (file)",
        "capturing.py:2: capturing (torch) imports cli (joins)",
    ]


PRIVATE_HOMES = {PACKAGE / "attention" / "compat.py", PACKAGE / "models" / "compat.py"}
FOREIGN = {"torch", "transformers", "peft", "captum", "h5py", "xarray", "matplotlib", "typer"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_private_names_of_other_libraries_stay_in_compat(path):
    if path in PRIVATE_HOMES:
        return
    for module, line in imports(path):
        names = module.split(".")
        if names[0] in FOREIGN:
            private = [name for name in names[1:] if name.startswith("_")]
            assert not private, f"{path.name}:{line}: {module}"
    text = path.read_text(encoding="utf-8")
    for name in ("_attn_implementation", "_can_set_attn", "_supports_sdpa"):
        assert not re.search(rf"(?<!\w){name}", text), f"{path.name} uses transformers' {name}"


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_importing_attnprobe_loads_nothing_heavy():
    loaded = run_python(
        "import sys, attnprobe, attnprobe.types, attnprobe.errors; print(*sorted(sys.modules))"
    ).split()
    assert not LIGHT & set(loaded)


def test_importing_attnprobe_is_quick():
    code = (
        "import time; start = time.process_time(); import attnprobe; "
        "print(time.process_time() - start)"
    )
    assert min(float(run_python(code)) for _ in range(3)) < 0.3


def test_every_public_name_is_there_and_hides_no_module():
    import attnprobe

    modules = {path.stem if path.suffix else path.name for path in PACKAGE.iterdir()}
    for name in attnprobe.__all__:
        assert getattr(attnprobe, name) is not None
        assert name not in modules, f"attnprobe.{name} hides the module of that name"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = attnprobe.nothing


def test_no_assert_statement_checks_input():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        assert not asserts, f"{path}: assert in line {asserts}"
