"""Fakes of the tasks, and data sets that look built."""

import pytest

from pcm3_jax.tables import paper
from tests.tables.making import Fakes, build


@pytest.fixture
def fakes(monkeypatch):
    return Fakes(monkeypatch)


@pytest.fixture
def data(tmp_path):
    """Every data set of the tables, at both scales."""
    names = {name.rpartition(">")[2] for name in paper.LABELS}
    return build(tmp_path / "data", *sorted(names))
