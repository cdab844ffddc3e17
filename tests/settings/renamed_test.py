"""Configurations of earlier versions stay readable."""

import json
from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict

from pcm3_jax.config import config_class, default_config, validate
from pcm3_jax.settings import renamed

# As version 0.1 wrote it, with every setting that has another name now.
OLD = json.loads(Path(__file__).with_name("config_0_1.json").read_text())


def test_config_json_of_version_0_1_is_read_under_present_names():
    config = config_class().from_dict(OLD)
    validate(config)
    assert (config.task, config.method.name) == ("pretrain", "cmd")
    assert (config.model.recurrence, config.model.remat) == ("causal", True)
    assert (config.data.feed, config.data.read_threads) == ("disk", 3)
    assert config.benchmark.torch_baseline == "tuned"
    tables = config.tables
    assert (tables.number, tables.seeds, tables.scale) == (3, (0, 1), "small")
    assert (tables.cells, tables.runs, tables.data) == ("PCM", "runs", ("a>b",))
    assert (config.cmd.neighbours, config.views.mix_blocks) == (16, (2, 3))


def test_every_key_of_version_0_1_is_a_setting():
    """What version 0.1 wrote is a setting of today, under its own name or another."""
    todays = default_config().flat().keys()
    assert renamed.flat(flatten_dict(OLD, sep=".")).keys() <= todays


def test_json_round_trip_of_an_old_configuration():
    config = config_class().from_dict(OLD)
    assert config_class().from_dict(json.loads(config.to_json())) == config


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--config.peers=all", ["--config.benchmark.torch_baseline=all"]),
        ("--config.table_seeds=(0, 1)", ["--config.tables.seeds=(0, 1)"]),
        ("--config.table=3", ["--config.tables.number=3"]),
        ("--config.data.feed=stream", ["--config.data.feed=disk"]),
        ("--config.views.stream=motion", ["--config.views.stream=motion"]),
        ("--config.task=cmd", ["--config.task=pretrain", "--config.method.name=cmd"]),
        ("--config.model.rematerialise", ["--config.model.remat"]),
        ("--noconfig.model.rematerialise", ["--noconfig.model.remat"]),
        ("--config=configs/demo.py", ["--config=configs/demo.py"]),
        ("--workdir=config.peers=x", ["--workdir=config.peers=x"]),
    ],
)
def test_old_overrides_are_renamed(old, new):
    assert renamed.command_line([old]) == new


def test_old_assignments_in_configuration_files_work():
    config = default_config()
    config.peers = "all"
    config.table = 3
    config.table_seeds = [0, 1]
    config.task = "cmd"
    config.model.rematerialise = True
    config.data.update(feed="stream", stream_threads=2)
    config.update_from_flattened_dict({"model.recurrence": "stepwise", "table_cells": "x"})
    assert config.benchmark.torch_baseline == "all"
    assert (config.tables.number, config.tables.seeds, config.tables.cells) == (3, (0, 1), "x")
    assert (config.task, config.method.name) == ("pretrain", "cmd")
    assert config.model.remat and config.model.recurrence == "causal"
    assert (config.data.feed, config.data.read_threads) == ("disk", 2)
