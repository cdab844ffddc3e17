"""Packages import only packages below them; the order is in `ROOMS`."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "pcm3_jax"
# A room is a folder of the package or a module beside them; each may import those above it.
ROOMS = """
errors
runtime
data
settings
models
augment
methods
train
inference
tasks
tables
registry
config
report
__init__ __main__ convert embed fit main predict show summary
benchmark
"""
LEVEL = {room: level for level, line in enumerate(ROOMS.split("\n")) for room in line.split()}


def imported(path: Path) -> set[str]:
    """The rooms that a module imports, at any place."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pcm3_jax"):
            _, *parts = node.module.split(".")
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
    return found


def test_no_room_imports_what_stands_on_it():
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert rooms == LEVEL.keys()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        above = {other for other in imported(path) if other != room and LEVEL[other] >= LEVEL[room]}
        assert not above, f"{path.relative_to(PACKAGE)} imports {above}"
