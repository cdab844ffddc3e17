"""Imports go one way, from what is run down to the skeleton."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "pcm3_jax"
# Parts of the package, each of which may import those above it.
LAYERS = """
errors losses moco optimizer skeleton
files joint_layouts models parallel
state telemetry views
config data steps
checkpoint cmd
inference loop provenance
__init__ command_line downstream embed predict summary torch_format
convert pretraining tables
memory peers report scaling tasks
benchmark
dry_run
main
"""
LEVEL = {part: level for level, line in enumerate(LAYERS.split("\n")) for part in line.split()}


def imported(path: Path) -> set[str]:
    """The parts of the package that a module imports, at any place."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pcm3_jax"):
            _, *parts = node.module.split(".")
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
    return found


def test_no_part_imports_what_stands_on_it():
    parts = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert parts == LEVEL.keys()
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        above = {other for other in imported(path) if other != part and LEVEL[other] >= LEVEL[part]}
        assert not above, f"{path.name} imports {above}"
