"""Finds the settings that the package reads, by following section types through its source."""

import ast
import dataclasses
import importlib
from pathlib import Path
from typing import Any

from pcm3_jax.settings import Config, Section

PACKAGE = Path(__file__).parents[2] / "pcm3_jax"
# (section class, setting name)
Reads = set[tuple[type[Section], str]]


def sources() -> dict[Path, str]:
    """The modules that may read settings: all but those that declare or check the shared ones."""
    paths = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "settings"]
    return {path: path.read_text() for path in paths}


def reads(texts: dict[Path, str]) -> Reads:
    """Every setting that these modules read, outside of checks."""
    found: Reads = set()
    for path, text in texts.items():
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        try:
            module = importlib.import_module(name.removesuffix(".__init__"))
        except ModuleNotFoundError as error:
            assert error.name in ("torch", "matplotlib", "PIL"), error
            continue
        _Reader(vars(module), found).visit(ast.parse(text))
    return found


def is_read(section: type[Section], name: str, found: Reads) -> bool:
    """Whether a setting is read from its section, or from a base class that also has it."""
    return any(
        name == other and issubclass(section, kind) and name in _fields(kind)
        for kind, other in found
    )


def _fields(kind: type[Section]) -> dict[str, Any]:
    return {field.name: field.type for field in dataclasses.fields(kind)}


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


class _Reader(ast.NodeVisitor):
    """Follows variables whose types are sections, through one module."""

    def __init__(self, names: dict[str, Any], found: Reads) -> None:
        self._names, self._found = names, found
        # Types of variables, of attributes of self, and of what methods return.
        self._types: dict[str, Any] = {}
        self._own: dict[str, Any] = {}
        self._returns: dict[str, Any] = {}

    def _annotated(self, annotation: ast.expr | None) -> Any:
        try:
            return eval(ast.unparse(annotation), self._names) if annotation else None
        except Exception:
            return None  # A type imported only under TYPE_CHECKING.

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if _is_section(self._names.get(node.name)):
            return
        functions = [f for f in node.body if isinstance(f, ast.FunctionDef)]
        self._own = {}
        self._returns = {f.name: self._annotated(f.returns) for f in functions}
        for function in sorted(functions, key=lambda f: f.name != "__init__"):
            self.visit(function)
        for other in node.body:
            if other not in functions:
                self.visit(other)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in ("check", "validate"):
            return
        outer = dict(self._types)
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        for argument in arguments:
            self._types[argument.arg] = self._annotated(argument.annotation)
        self.generic_visit(node)
        self._types = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._bind(target, node.value)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its in zip(target.elts, value.elts, strict=True):
                self._bind(one, its)
        elif isinstance(target, ast.Name):
            self._types[target.id] = self._type(value)
        elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
            self._own[target.attr] = self._type(value)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        kind = self._type(node.value)
        if _is_section(kind) and isinstance(node.ctx, ast.Load) and node.attr in _fields(kind):
            self._found.add((kind, node.attr))
        self.generic_visit(node)

    def _type(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return self._types.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._type(node.value)
            if _is_section(owner):
                return _fields(owner).get(node.attr)
            if ast.unparse(node.value) == "self" and node.attr in self._own:
                return self._own[node.attr]
            return Config if node.attr in ("config", "_config") else None
        if isinstance(node, ast.Call):
            return self._returned(node)
        return None

    def _returned(self, node: ast.Call) -> Any:
        function = node.func
        if isinstance(function, ast.Attribute):
            owner = self._type(function.value)
            if _is_section(owner) and function.attr == "of":
                return self._annotated(node.args[0])
            if _is_section(owner) and function.attr == "copy":
                return owner
            if ast.unparse(function) == "dataclasses.replace":
                return self._type(node.args[0])
            if ast.unparse(function.value) == "self":
                return self._returns.get(function.attr)
        if isinstance(function, ast.Name):
            called = self._names.get(function.id)
            if _is_section(called):
                return called
            returned = getattr(called, "__annotations__", {}).get("return")
            return self._names.get(returned) if isinstance(returned, str) else None
        return None
