"""A report of two small runs, made once."""

import copy

import jax
import pytest

from pcm3_jax import main
from pcm3_jax.report.contents import contents
from pcm3_jax.report.encoders import Splits
from pcm3_jax.report.runs import read_runs


@pytest.fixture(scope="session")
def two_runs(finished_run, program, tmp_path_factory):
    """The workdirs of a pretraining run and of its linear evaluation."""
    pretrained, (code, _, err) = finished_run
    assert code == 0, err
    config = program.config()
    config.task, config.encoder = "linear_eval", str(pretrained)
    linear = tmp_path_factory.mktemp("evaluated") / "linear"
    main.run(config, linear)
    return pretrained, linear


@pytest.fixture(scope="session")
def _contents(two_runs):
    runs, benchmarks = read_runs(list(two_runs))
    with jax.default_matmul_precision("highest"):
        return contents(runs, benchmarks, Splits(None))


@pytest.fixture
def report_contents(_contents):
    """All that the page of `two_runs` shows, to change at will."""
    return copy.deepcopy(_contents)


@pytest.fixture
def start():
    """Makes an object of provenance.json, with some keys changed."""

    def make(**changes):
        return {
            "time": "2026-11-21T08:00:00Z",
            "command": ["python", "-m", "pcm3_jax.main", "--config=c.py", "--workdir=runs/a"],
            "version": "0.1.0",
            "commit": "4e2d942c",
            "python": "3.12.1",
            "packages": {"jax": "0.10.2", "numpy": "2.4.6"},
            "device": "cpu",
            "devices": 1,
            "processes": 1,
            "data": {"name": "synthetic_skeletons", "fingerprint": "9f31"},
        } | changes

    return make
