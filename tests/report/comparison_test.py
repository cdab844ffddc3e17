import dataclasses

import pytest

from pcm3_jax.config import default_config
from pcm3_jax.report import comparison
from pcm3_jax.report.runs import Run


def run(name, *starts):
    return Run(path=None, name=name, config=default_config(), metrics={}, results=None,
               starts=list(starts), checkpoints=[])  # fmt: skip


def test_runs_made_alike_are_not_warned_of(start):
    other = start(time="2027-01-01T00:00:00Z", command=start()["command"][:-1] + ["--workdir", "b"])
    assert comparison.warnings([run("a", start()), run("b", start(), other)]) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"commit": "beef"}, "Code version differs: 0.1.0 at 4e2d942c (a) – 0.1.0 at beef (b)."),
        ({"commit": None}, "Code version differs: 0.1.0 at 4e2d942c (a) – 0.1.0 outside git (b)."),
        ({"version": "0.2"}, "Code version differs: 0.1.0 at 4e2d942c (a) – 0.2 at 4e2d942c (b)."),
        ({"python": "3.11"}, "Python differs: 3.12.1 (a) – 3.11 (b)."),
        ({"device": "H100"}, "Device differs: 1 × cpu, 1 process (a) – 1 × H100, 1 process (b)."),
        ({"devices": 2}, "Device differs: 1 × cpu, 1 process (a) – 2 × cpu, 1 process (b)."),
        (
            {"packages": {"jax": "0.11"}},
            "Packages differ: jax 0.10.2 (a) – 0.11 (b); numpy 2.4.6 (a) – not installed (b).",
        ),
        (
            {"data": {"name": "synthetic_skeletons", "fingerprint": "0"}},
            "Data differs: synthetic_skeletons 9f31 (a) – synthetic_skeletons 0 (b).",
        ),
        (
            {"command": ["x", "--workdir=b"]},
            "Command differs: python -m pcm3_jax.main --config=c.py (a) – x (b).",
        ),
    ],
)
def test_every_difference_is_told(start, changes, told):
    assert comparison.warnings([run("a", start()), run("b", start(**changes))]) == [told]
    # The starts of one run are compared as well.
    (continued,) = comparison.warnings([run("a", start(), start(**changes))])
    expected = told.replace("(a)", "(start 1)").replace("(b)", "(start 2)")
    assert continued == f"a was continued differently. {expected}"


def test_what_cannot_be_compared_is_told(start):
    dirty = run("b", start(commit="4e2d942c+changes"))
    assert comparison.warnings([run("a"), dirty]) == [
        "a has no provenance.json: its code version, packages, device, data and command cannot be "
        "compared.",
        "Started with changes that were not committed: b.",
    ]


def test_what_differs_in_many_ways_is_not_repeated(start):
    three = [run(name, start(python=f"3.1{name}")) for name in "123"]
    assert comparison.warnings(three) == ["Python differs in 3 ways, which the provenance tells."]


def test_a_run_without_data_has_none_to_compare(start):
    fused = run("b", start(data=None))
    assert comparison.warnings([run("a", start()), fused]) == []
    rows = {row[0]: row[1:] for row in comparison.table([run("a", start()), fused])["rows"]}
    assert rows["Data"][1] == "–"


def test_many_packages_are_counted(start):
    packages = {f"p{i}": "1" for i in range(11)}
    starts = start(packages={}), start(packages=packages)
    (text,) = comparison.warnings([run("a", starts[0]), run("b", starts[1])])
    assert text.count("not installed") == 8 and text.endswith("; and 3 more.")


def test_a_row_for_everything_that_made_a_run(start):
    assert comparison.table([run("a")]) is None
    table = comparison.table([run("a"), run("b", start(), start(packages={"jax": "0.11"}))])
    rows = dict(map(tuple, table["rows"]))
    assert table["columns"] == ["", "b"]
    assert (rows["Continued"], rows["jax"]) == ("once", "0.11")


def test_odd_values_do_no_harm():
    odd = {"version": ["x"], "packages": [1], "data": 3, "command": "rm", "devices": None}
    changed = dataclasses.replace(run("b", odd), name="<b>")
    assert any("<b>" in text for text in comparison.warnings([run("a", {}), changed]))
    assert comparison.table([changed])["rows"]
