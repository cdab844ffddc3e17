import pytest

from pcm3_jax.config import default_config
from pcm3_jax.report import comparison
from pcm3_jax.report.runs import Run


def run(name, *starts):
    return Run(path=None, name=name, config=default_config(), metrics={}, results={},
               starts=list(starts), checkpoints=[])  # fmt: skip


def test_runs_made_alike_are_not_warned_of(start):
    other = start(time="2027-01-01T00:00:00Z", command=["python", "--workdir", "b"], encoder="c")
    assert comparison.warnings([run("a", start()), run("b", start(), other)]) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"commit": "beef"}, "commit: 4e2d942c (a) – beef (b)"),
        ({"commit": None}, "commit: 4e2d942c (a) – none (b)"),
        ({"version": "0.2"}, "version: 0.1.0 (a) – 0.2 (b)"),
        ({"python": "3.11"}, "python: 3.12.1 (a) – 3.11 (b)"),
        ({"device": "H100"}, "device: cpu (a) – H100 (b)"),
        ({"devices": 2}, "devices: 1 (a) – 2 (b)"),
        ({"packages": {"jax": "0.11", "numpy": "2.4.6"}}, "packages.jax: 0.10.2 (a) – 0.11 (b)"),
        ({"packages": {"numpy": None}}, "packages.numpy: 2.4.6 (a) – none (b)"),
        (
            {"data": {"name": "x", "fingerprint": "9f31"}},
            "data.name: synthetic_skeletons (a) – x (b)",
        ),
        ({"data": {"fingerprint": "0"}}, "data.fingerprint: 9f31 (a) – 0 (b)"),
    ],
)
def test_every_difference_is_a_warning(start, changes, told):
    assert comparison.warnings([run("a", start()), run("b", start(**changes))]) == [
        f"The runs differ in {told}."
    ]
    # The starts of one run are compared as well.
    (continued,) = comparison.warnings([run("a", start(), start(**changes))])
    expected = told.replace("(a)", "(start 1)").replace("(b)", "(start 2)")
    assert continued == f"a was resumed with differences: {expected}."


def test_missing_provenance_is_a_warning(start):
    dirty = run("b", start(commit="4e2d942c+changes"))
    assert comparison.warnings([run("a"), dirty]) == [
        "a has no provenance.json, so its code, packages and data cannot be compared.",
        "Started with uncommitted changes: b.",
    ]


def test_runs_that_agree_share_a_value(start):
    runs = [run("a", start()), run("b", start(python="3.11")), run("c", start())]
    assert comparison.warnings(runs) == ["The runs differ in python: 3.12.1 (a, c) – 3.11 (b)."]


def test_a_run_without_data_has_none_to_compare(start):
    runs = [run("a", start()), run("b", start(data=None))]
    assert comparison.warnings(runs) == []
    rows = {row[0]: row[1:] for row in comparison.provenance(runs)["rows"]}
    assert rows["data.name"] == ["synthetic_skeletons", "–"]


def test_a_row_for_everything_that_made_a_run(start):
    assert comparison.provenance([run("a")]) is None
    table = comparison.provenance([run("a"), run("b", start(), start(packages={"jax": "0.11"}))])
    rows = dict(map(tuple, table["rows"]))
    assert table["columns"] == ["", "b"]
    assert (rows["starts"], rows["packages.jax"]) == ("2", "0.11")
    assert rows["command"] == "python -m pcm3_jax.main --config=c.py --workdir=runs/a"


def test_unusual_values_are_accepted():
    odd = run(
        "<b>", {"version": ["x"], "packages": [1], "data": 3, "command": "rm", "devices": None}
    )
    other = run("a", {"version": "y"})
    assert comparison.warnings([other, odd]) == ["The runs differ in version: y (a) – x (<b>)."]
    assert comparison.provenance([odd])["rows"]
