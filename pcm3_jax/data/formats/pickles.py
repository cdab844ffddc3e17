"""Reads pickles without executing anything in them.

Classes and functions become `Name`s, which are never imported, and the instructions that call them
are replaced. A subclass of `Unpickler` says which names are known and what a call of one gives.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO


class Refused(Exception):
    """Rejects a file; the message is one clause with the reason."""


class Name(str):
    """The full name of a known class or function, which is never imported."""


class StringKeyDict(dict):
    """Keeps the entries whose key is a string; readers need no others.

    Other keys are not hashed: the time to hash a nested tuple can be exponential in its depth.
    """

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) is str:
            super().__setitem__(key, value)


class Ignored:
    """Placeholder for an object that is not needed; discards what is put into it."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    append = add = extend


IGNORED = Ignored()


class Instructions(dict):
    """{opcode: method}; refuses any other opcode."""

    def __missing__(self, code: int) -> Any:
        name = next(opcode.name for opcode in pickletools.opcodes if opcode.code == chr(code))
        raise Refused(f"its pickle uses the instruction {name}, which no such file needs")


# Allowed opcodes: they only make numbers, strings, lists and tuples, or call the methods below.
_INSTRUCTIONS = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE
INT LONG LONG1 LONG4 BININT BININT1 BININT2 FLOAT BINFLOAT
STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS SETITEM SETITEMS ADDITEMS
PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID
"""


class Unpickler(pickle._Unpickler):
    """Reads a pickle in which every class and function is what `find_class` makes of its name.

    The instructions that call functions or set attributes are replaced, so that a file cannot run
    code or change objects.  This needs Python's unpickler: in C, instructions cannot be
    replaced, a memo index of four bytes allocates gigabytes, keys of dictionaries and sets of
    any type are hashed, and classes of copyreg's extension cache bypass `find_class`.

    `load` can raise anything for a malformed pickle.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, stream: BinaryIO) -> None:
        # Python 2's strings have no encoding; Latin-1 takes any byte.
        super().__init__(stream, encoding="latin-1")

    def find_class(self, module: str, name: str) -> Any:
        raise NotImplementedError

    def call(self, function: Any, arguments: tuple) -> Any:
        """A stand-in for the result of a call."""
        raise NotImplementedError

    def build(self, target: Any, state: Any) -> None:
        """Sets the state of a stand-in; here it is dropped."""
        expect(target, (dict, Ignored))

    def load_reduce(self) -> None:
        arguments = expect(self.stack.pop(), tuple)
        self.stack.append(self.call(self.stack.pop(), arguments))

    def load_build(self) -> None:
        state = self.stack.pop()
        self.build(self.stack[-1], state)

    def load_empty_dictionary(self) -> None:
        self.stack.append(StringKeyDict())

    def load_empty_set(self) -> None:
        self.stack.append(IGNORED)

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.stack.append(IGNORED)

    dispatch = Instructions(
        {
            code[0]: pickle._Unpickler.dispatch[code[0]]
            for code in (getattr(pickle, name) for name in _INSTRUCTIONS.split())
        }
        | {
            pickle.REDUCE[0]: load_reduce,
            pickle.NEWOBJ[0]: load_reduce,
            pickle.BUILD[0]: load_build,
            pickle.EMPTY_DICT[0]: load_empty_dictionary,
            pickle.EMPTY_SET[0]: load_empty_set,
            pickle.FROZENSET[0]: load_frozenset,
        }
    )


def expect(value: Any, kind: type | tuple[type, ...]) -> Any:
    """The value, if it is of that type. Raises TypeError."""
    if not isinstance(value, kind):
        raise TypeError("a value of another type")
    return value
