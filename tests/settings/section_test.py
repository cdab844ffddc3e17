"""Sections: what can be assigned, what is refused, and what is written and read again."""

from typing import Literal

import pytest

from pcm3_jax.errors import UserError
from pcm3_jax.settings import Section, part, section, setting


@section
class Inner(Section):
    """An inner section."""

    size: int = setting(3, "how large", low=1, high=9)
    rate: float = setting(0.5, "how fast", low=0)
    kind: Literal["a", "b"] = setting("a", "which")
    shares: tuple[float, ...] = setting((0.1, 0.2), "how much", low=0)
    many: int = setting(1, "without bounds of its own")
    on: bool = setting(False, "whether", free=True)


@section
class Larger(Inner):
    """Another default of one setting, and one more."""

    size: int = 7
    depth: int = setting(1, "how deep")


@section
class Outer(Section):
    """Both."""

    inner: Inner = part(Inner)
    larger: Larger = part(Larger)
    name: str = setting("x", "what")


def test_a_subclass_changes_a_default_and_keeps_range_and_meaning():
    larger = Larger()
    assert (larger.size, larger.rate, larger.depth, Inner().size) == (7, 0.5, 1, 3)
    larger.size = 10
    with pytest.raises(UserError, match=r"config\.size is 10, but must be in \[1, 9\]"):
        larger.check_values()
    assert Larger.describe("size") == "how large (at least 1 and at most 9)"
    assert Inner.describe("kind") == "which (one of a, b)"


def test_unknown_names_are_refused_with_a_suggestion():
    outer = Outer()
    with pytest.raises(AttributeError, match="no setting 'siez'; did you mean 'size'"):
        outer.inner.siez = 4
    with pytest.raises(AttributeError, match="no setting 'zzz'$"):
        outer.zzz = 4


def test_whole_numbers_become_floats_and_lists_tuples():
    inner = Inner(rate=2, shares=[1, 2])
    assert type(inner.rate) is float and inner.shares == (1, 2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("size", 2.5, "must be a whole number"),
        ("size", True, "must be a whole number"),
        ("size", 0, r"must be in \[1, 9\]"),
        ("rate", "fast", "must be a number"),
        ("rate", float("nan"), "must be at least 0"),
        ("kind", "c", r"must be one of \('a', 'b'\)"),
        ("kind", 1, "must be text"),
        ("on", 1, "must be True or False"),
        ("shares", 0.1, "must be a tuple"),
        ("shares", (0.1, "0.2"), "must have a number in each place"),
        ("shares", (0.1, True), "must have a number in each place"),
        ("shares", (0.1, -0.1), "must be at least 0"),
        ("many", 10**20, "must be at most 2147483647"),
    ],
)
def test_values_of_another_type_or_out_of_range_are_refused(name, value, message):
    outer = Outer()
    setattr(outer.inner, name, value)
    with pytest.raises(UserError, match=rf"config\.inner\.{name} (is|has) .*, but {message}"):
        outer.check_values()


def test_json_round_trip_and_defaults_of_missing_settings():
    outer = Outer()
    outer.update(name="y", inner={"size": 4, "shares": (1.0,)})
    outer.update_from_flattened_dict({"larger.depth": 5})
    content = outer.to_dict()
    assert Outer.from_dict(content) == outer
    del content["larger"]["rate"]
    content["gone"] = {"deeper": 1}
    assert Outer.from_dict(content) == outer


@pytest.mark.parametrize("content", [[], None, "text", {"inner": {"size": "4"}}, {"inner": 3}])
def test_other_json_is_refused(content):
    with pytest.raises(UserError):
        Outer.from_dict(content)


def test_copies_are_independent():
    outer = Outer()
    other = outer.copy()
    other.inner.size = 9
    assert outer.inner.size == 3 and other != outer


def test_keys_are_dotted_paths():
    assert [*Outer().flat()][:2] == ["inner.size", "inner.rate"]
    assert Outer().flat()["larger.size"] == 7
