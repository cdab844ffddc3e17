"""Reads the pickles inside PyTorch checkpoints without running anything that they name.

A pickle is a program for a small stack machine, and Python's own machine calls whatever the
program asks for.  The one here knows containers, numbers and strings, and the handful of names
that describe a tensor; these it takes as words, so that there is nothing to call.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple

STORAGES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "b1",
}
_DICT = "collections.OrderedDict"
_TENSOR = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETER = "torch._utils._rebuild_parameter"
_KNOWN = {_DICT, *_TENSOR, _PARAMETER, *STORAGES}
# Instructions that push their argument.
_LITERALS = frozenset(
    ("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT")
    + ("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES")
    + ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refused(Exception):
    """The pickle holds something else than tensors, as one clause."""


class Name(str):
    """One of the known names, told from a string of the same letters by its type."""


class Storage(NamedTuple):
    """Numbers of one type in a row: `dtype` of `STORAGES`, where they are, and how many."""

    dtype: str
    key: str
    count: int  # type: ignore[assignment]  # hides tuple.count


class Tensor(NamedTuple):
    """Where a tensor lies in its storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(stream: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """The value of the pickle at the stream's position, which moves past it.

    Args:
      stream: the file.
      storages: takes up all that the pickle names, by key.

    Returns:
      Dictionaries, lists, tuples, numbers, strings and `Tensor`s.

    Raises:
      Refused: it holds something else, or is damaged.
    """
    machine = _Machine({} if storages is None else storages)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                (value,) = machine.stack
                return value
            machine.run(opcode.name, argument)
    # Whatever a malformed program makes this machine do wrong.
    except (
        ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError
    ) as error:  # fmt: skip
        raise Refused(f"it is no pickle, or a damaged one ({type(error).__name__})") from error
    raise Refused("its pickle has no end")


class _Machine:
    def __init__(self, storages: dict[str, Storage]) -> None:
        self.stack: list[Any] = []
        self._storages = storages
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in _TUPLES:
            stack.append(tuple(self._last(_TUPLES[name])))
        elif name in ("SETITEM", "SETITEMS"):
            items = self._last(2) if name == "SETITEM" else self._since_mark()
            _fill(_expect(stack[-1], dict), zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = self._last(1) if name == "APPEND" else self._since_mark()
            _expect(stack[-1], list).extend(items)
        elif name == "GLOBAL":
            stack.append(_known(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            stack.append(_known(".".join(self._last(2))))
        elif name == "BINPERSID":
            storage = _storage(stack.pop())
            self._storages[storage.key] = storage
            stack.append(storage)
        elif name == "REDUCE":
            word, arguments = self._last(2)
            stack.append(_made(word, arguments))
        elif name == "BUILD":
            # Attributes of a dictionary, in which PyTorch keeps version numbers.
            stack.pop()
            _expect(stack[-1], dict)
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"its pickle uses the instruction {name}, which tensors do not need")

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("the stack is too short")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _since_mark(self) -> list[Any]:
        mark = self._marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken


def _known(name: str) -> Name:
    if name not in _KNOWN:
        raise Refused(f"its pickle asks for {ascii(name)[:60]}, which is no part of a tensor")
    return Name(name)


def _made(word: Any, arguments: Any) -> Any:
    """What the program would have got from calling ``word``."""
    _expect(word, Name)
    _expect(arguments, tuple)
    if word == _DICT:
        # Python 2 handed over the items at once.
        return _fill({}, *arguments) if arguments else {}
    if word in _TENSOR:
        storage, offset, shape, strides = arguments[:4]
        shape, strides = _expect(shape, tuple), _expect(strides, tuple)
        if len(shape) != len(strides) or not all(
            type(n) is int and n >= 0 for n in (offset, *shape, *strides)
        ):
            raise ValueError("not a tensor's shape")
        return Tensor(_expect(storage, Storage), offset, shape, strides)
    if word == _PARAMETER:
        return _expect(arguments[0], Tensor)
    raise ValueError("a storage's type is not to be called")


def _fill(mapping: dict, items: Iterable[tuple[Any, Any]]) -> dict:
    for key, value in items:
        # Nested tuples can take for ever to hash.
        if not isinstance(key, (str, int)):
            raise TypeError("not a name")
        mapping[key] = value
    return mapping


def _storage(identity: Any) -> Storage:
    kind, storage_type, key, _, count = _expect(identity, tuple)[:5]
    if kind != "storage" or type(count) is not int or count < 0:
        raise ValueError("not a storage")
    return Storage(STORAGES[_expect(storage_type, Name)], _expect(key, str), count)


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected")
    return value
