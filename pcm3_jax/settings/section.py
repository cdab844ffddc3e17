"""Typed settings: dataclasses whose fields also hold their range and meaning.

A setting is one line with its type, default, meaning and range::

    @section
    class Training(Section):
        epochs: int = setting(451, "passes over the training split", low=1)
        name: Literal["sgd", "adamw"] = setting("sgd", "optimizer")

A subclass overrides a default by ``epochs: int = 100`` and inherits range and meaning.
"""

import copy
import dataclasses
import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, TypeVar, dataclass_transform

from flax.traverse_util import flatten_dict

from pcm3_jax.errors import UserError, suggestion
from pcm3_jax.settings import renamed

# Lower bound of settings that must be positive.
TINY = 1e-12
# Largest whole number of settings without a bound of their own: JAX's index type.
_LARGEST = 2**31 - 1

S = TypeVar("S", bound="Section")
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def require(condition: bool, message: str) -> None:
    """Raises a `UserError` unless the condition holds."""
    if not condition:
        raise UserError(message)


def setting(
    default: Any, meaning: str, *, low: float = -math.inf, high: float = math.inf,
    free: bool = False,
) -> Any:  # fmt: skip
    """A setting of a `section`.

    Args:
      default: the paper's value.
      meaning: description in ``--help``.
      low, high: smallest and largest allowed value of a number, or of each number in a tuple.
      free: whether the value may change when a run is resumed.
    """
    metadata = {"meaning": meaning, "low": low, "high": high, "free": free}
    return dataclasses.field(default=default, metadata=metadata)


def part(kind: type[S]) -> S:
    """A nested section."""
    return dataclasses.field(default_factory=kind)


@dataclass_transform()
def section(cls: type[S]) -> type[S]:
    """Makes a class of settings a dataclass that ml_collections' flags can override."""
    inherited = {field.name: field for field in dataclasses.fields(cls)}
    for name in inspect.get_annotations(cls):
        value = vars(cls).get(name)
        if name in inherited and not isinstance(value, dataclasses.Field):
            new_default = dataclasses.field(default=value, metadata=inherited[name].metadata)
            setattr(cls, name, new_default)
    made = dataclasses.dataclass(cls)
    hints = typing.get_type_hints(made)
    for field in dataclasses.fields(made):
        kind = hints[field.name]
        if typing.get_origin(kind) is Literal:
            field.metadata = types.MappingProxyType(
                {**field.metadata, "choices": typing.get_args(kind)}
            )
            kind = str
        if typing.get_origin(kind) is tuple:
            element = typing.get_args(kind)[0]
            field.metadata = types.MappingProxyType({**field.metadata, "element": element})
        # ml_collections' flags support plain types only.
        field.type = typing.get_origin(kind) or kind
    return made


@dataclasses.dataclass
class Section:
    """Base class of sections: rejects unknown names, and converts to and from JSON."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a setting; also accepts ints for floats, lists for tuples, and old names and values.

        Raises:
          AttributeError: there is no such setting.
        """
        fields = {field.name: field.type for field in dataclasses.fields(self)}
        if name not in fields:
            name = renamed.attribute(name, fields) or name
        if name not in fields:
            raise AttributeError(f"there is no setting {name!r}{suggestion(name, fields)}")
        if fields[name] is float and type(value) is int:
            value = float(value)
        if fields[name] is tuple and isinstance(value, list):
            value = tuple(value)
        object.__setattr__(self, name, renamed.value(name, value))

    def update(self, *sections: Mapping[str, Any], **settings: Any) -> None:
        """Sets several settings; nested sections are given as mappings."""
        for each in (*sections, settings):
            for name, value in each.items():
                inner = getattr(self, name, None)
                if isinstance(inner, Section) and isinstance(value, Mapping):
                    inner.update(value)
                else:
                    setattr(self, name, value)

    def update_from_flattened_dict(self, settings: Mapping[str, Any]) -> None:
        """Sets settings by keys such as "optimizer.epochs"."""
        for key, value in renamed.flat(settings).items():
            *path, name = key.split(".")
            setattr(functools.reduce(getattr, path, self), name, value)

    def walk(self, prefix: str = "") -> Iterator[tuple[str, "Section", dataclasses.Field]]:
        """(dotted key, section, dataclass field) of every setting, including nested ones."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Section):
                yield from value.walk(f"{prefix}{field.name}.")
            else:
                yield prefix + field.name, self, field

    def flat(self) -> dict[str, Any]:
        """All settings by keys such as "optimizer.epochs"."""
        return {key: getattr(holder, field.name) for key, holder, field in self.walk()}

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self, **options: Any) -> str:
        return json.dumps(self.to_dict(), **options)

    def copy(self) -> Self:
        return copy.deepcopy(self)

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """Creates settings from parsed JSON, including that of earlier versions.

        Missing settings get their defaults; unknown ones are ignored.

        Raises:
          UserError: the content is not a configuration, or a value has the wrong type.
        """
        require(isinstance(content, dict), "a configuration must be a JSON object of sections.")
        made = cls()
        known = {key for key, _, _ in made.walk()}
        flat = renamed.flat(flatten_dict(content, sep="."))
        for key in flat:
            inner = next((other for other in known if other.startswith(f"{key}.")), None)
            require(inner is None, f"config.{key} is {flat[key]!r}, but must be a section.")
        made.update_from_flattened_dict({k: v for k, v in flat.items() if k in known})
        made.check_types()
        return made

    @classmethod
    def describe(cls, name: str) -> str:
        """A setting's meaning, and its range or choices."""
        metadata = cls.__dataclass_fields__[name].metadata
        low, high, choices = metadata["low"], metadata["high"], metadata.get("choices")
        limits = {"at least": low if low > TINY else -math.inf, "at most": high}
        bounds = [f"{word} {limit}" for word, limit in limits.items() if math.isfinite(limit)]
        bounds += ["above 0"] * (low == TINY)
        allowed = f"one of {', '.join(choices)}" if choices else " and ".join(bounds)
        return f"{metadata['meaning']}{f' ({allowed})' if allowed else ''}"

    def check_types(self) -> None:
        """Raises a `UserError` for the first value of the wrong type."""
        for key, holder, field in self.walk():
            value = getattr(holder, field.name)
            kind: Any = field.type
            require(
                _is(value, kind),
                f"config.{key} is {value!r}, but must be {_KINDS.get(kind, 'a tuple')}.",
            )
            element: Any = field.metadata.get("element")
            for part in value if element else ():
                fits = _is(part, element) or (element is float and _is(part, int))
                require(
                    fits,
                    f"config.{key} has {part!r}, but must have {_KINDS[element]} in each place.",
                )

    def check_values(self) -> None:
        """Raises a `UserError` for the first value outside its range or choices."""
        self.check_types()
        for key, holder, field in self.walk():
            value = getattr(holder, field.name)
            if choices := field.metadata.get("choices"):
                require(
                    value in choices, f"config.{key} is {value!r}, but must be one of {choices}."
                )
            low, high = field.metadata["low"], field.metadata["high"]
            bounds = f"at least {low}" if high == math.inf else f"in [{low}, {high}]"
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, (int, float)):
                    message = f"config.{key} is {value}, but must be"
                    require(low <= part <= high, f"{message} {bounds}.")
                    fits = isinstance(part, float) or high < math.inf or part <= _LARGEST
                    require(fits, f"{message} at most {_LARGEST}.")


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
