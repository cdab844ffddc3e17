"""Kernels of a compiled program, read from its text: bytes, operations, and how often each runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Instructions that run no kernel: they name, rename or order memory, or hold other computations.
_FREE = {
    "after-all", "add-dependency", "bitcast", "call", "conditional", "constant",
    "get-tuple-element", "opt-barrier", "parameter", "partition-id", "replica-id", "tuple", "while",
}  # fmt: skip
# Those whose second half does nothing.
_DONE = ("-done", "-update")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^  (ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_COMMENT = re.compile(r"/\*.*?\*/")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
# Attributes that name the computation of an instruction other than a loop; of a conditional, one.
_CALLED = ("to_apply", "calls", "true_computation", "branch_computations")
_SLICES = ("dynamic-slice", "slice", "gather")


class Instruction(NamedTuple):
    """One line of a computation; ``rest`` is what follows the opening parenthesis."""

    name: str
    type: str
    op: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    @property
    def bytes(self) -> int:
        return _bytes(_ARRAY.findall(self.type))


Computation = dict[str, Instruction]


class Kernel(NamedTuple):
    """A kernel of the program.

    Attributes:
      name: of its instruction.
      source: the operation that it was compiled from, as JAX names it; may be "".
      bytes: that one run reads and writes.
      flops: of the matrix products of one run.
      dtype: of these products' operands; "" without products.
      runs: how often it runs.
      loop: name of the innermost loop's body; "" outside of loops.
      command_buffer: whether it is launched as part of a command buffer (a CUDA graph).
    """

    name: str
    source: str
    bytes: int
    flops: float
    dtype: str
    runs: int
    loop: str
    command_buffer: bool


def kernels(text: str) -> list[Kernel]:
    """The kernels of a compiled program, given `jax.stages.Compiled.as_text`."""
    computations, entry = _parse(text)
    return list(_walk(computations, entry, 1, "", False))


def _parse(text: str) -> tuple[dict[str, Computation], str]:
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(_COMMENT.sub("", line))):
            root, name, kind, op, rest = found.groups()
            current[name] = Instruction(name, kind, op, _operands(rest), rest, bool(root))
    return computations, entry


def _operands(rest: str) -> tuple[str, ...]:
    """Names between the parentheses; types may precede them."""
    depth, parts, start = 0, [], 0
    for place, character in enumerate(rest):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if depth < 0 or (depth == 0 and character == ","):
            parts.append(rest[start:place])
            start = place + 1
        if depth < 0:
            break
    return tuple(part.split()[-1].lstrip("%") for part in parts if part.strip())


def _bytes(arrays: Iterable[tuple[str, str]]) -> int:
    """Of arrays given by their type and sizes."""
    return sum(_width(dtype) * _size(sizes) for dtype, sizes in arrays) // 8


def _width(dtype: str) -> int:
    """Bits of an element; 0 of what is not an array's element, such as a token."""
    if dtype == "pred":
        return 8
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 0


def _size(sizes: str) -> int:
    return int(np.prod([int(size) for size in sizes.split(",") if size], dtype=np.int64))


def _walk(
    computations: dict[str, Computation], name: str, runs: int, loop: str, graph: bool
) -> Iterator[Kernel]:
    computation = computations[name]
    for instruction in computation.values():
        op, rest = instruction.op, instruction.rest
        if op == "while":
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
            body = _attribute("body", rest)
            times = runs * (int(trips[1]) if trips else 1)
            yield from _walk(computations, body, times, body, graph)
        elif op in ("call", "conditional", "async-start"):
            within = next(filter(None, (_attribute(name, rest) for name in _CALLED)), "")
            if within:
                buffered = graph or "command_buffer" in within
                yield from _walk(computations, within, runs, loop, buffered)
        elif op not in _FREE and not op.endswith(_DONE):
            source = re.search(r'op_name="([^"]*)"', rest)
            flops, dtype = _products(computations, computation, instruction)
            yield Kernel(
                name=instruction.name,
                source=source[1] if source else "",
                bytes=_traffic(computations, computation, instruction),
                flops=flops,
                dtype=dtype,
                runs=runs,
                loop=loop,
                command_buffer=graph,
            )


def _attribute(name: str, rest: str) -> str:
    """The computation that an instruction names, the first of several; "" without it."""
    found = re.search(rf"{name}=\{{?%?([\w.-]+)", rest)
    return found[1] if found else ""


def _called(computations: dict[str, Computation], instruction: Instruction) -> Computation | None:
    """The computation of a fusion."""
    return computations.get(_attribute("calls", instruction.rest))


def _traffic(
    computations: dict[str, Computation], computation: Computation, instruction: Instruction
) -> int:
    """Bytes that a kernel reads and writes; of an array of which it uses a slice, the slice's."""
    fused = _called(computations, instruction)
    if fused is None:
        fused = {name: computation[name] for name in instruction.operands if name in computation}
        fused = {name: each._replace(op="parameter", root=False) for name, each in fused.items()}
        fused[instruction.name] = instruction._replace(root=True)
    parameters = [each for each in fused.values() if each.op == "parameter"]
    return sum(_read(fused, each.name) for each in parameters) + sum(
        _written(fused, each) for each in fused.values() if each.root
    )


def _read(fused: Computation, name: str) -> int:
    """Bytes that are read of a value of a fusion."""
    total = 0
    for user in (each for each in fused.values() if name in each.operands):
        if user.op in _SLICES and user.operands[0] == name:
            total += user.bytes
        elif user.op == "dynamic-update-slice" and user.operands[0] == name:
            continue  # changed in place
        elif user.op == "bitcast":
            total += _read(fused, user.name)
        else:
            return fused[name].bytes
    return min(total, fused[name].bytes)


def _written(fused: Computation, root: Instruction) -> int:
    """Bytes of the result that are written."""
    if root.op == "tuple":
        return sum(_written(fused, fused[name]) for name in root.operands)
    if root.op == "bitcast" and root.operands[0] in fused:
        return _written(fused, fused[root.operands[0]])
    if root.op == "dynamic-update-slice" and root.operands[1] in fused:
        return fused[root.operands[1]].bytes
    if root.op == "custom-call":
        # The other results are a library's workspace.
        return _bytes(_ARRAY.findall(root.type)[:1])
    return root.bytes


def _products(
    computations: dict[str, Computation], computation: Computation, instruction: Instruction
) -> tuple[float, str]:
    """Operations and operand type of the matrix products of a kernel."""
    total, dtype = 0.0, ""
    fused = _called(computations, instruction)
    within = computation if fused is None else fused
    for each in [instruction] if fused is None else fused.values():
        contracted = _contracted(each)
        if contracted is None:
            if each.op == "fusion" and fused is not None:
                flops, inner = _products(computations, fused, each)
                total, dtype = total + flops, dtype or inner
            continue
        dtype, sizes = _ARRAY.findall(within[each.operands[0]].type)[0]
        lengths = [int(size) for size in sizes.split(",") if size]
        _, result = _ARRAY.findall(each.type)[0]
        total += 2.0 * _size(result) * float(np.prod([lengths[axis] for axis in contracted]))
    return total, dtype


def _contracted(instruction: Instruction) -> Sequence[int] | None:
    """Contracted axes of the left operand of a matrix product; None of anything else."""
    if instruction.op == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
    elif instruction.op == "custom-call":
        found = re.search(r'"lhs_contracting_dimensions":\[([\d,"]*)\]', instruction.rest)
    else:
        return None
    return [int(axis) for axis in re.findall(r"\d+", found[1])] if found else None
