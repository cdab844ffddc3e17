"""Provenance: versions, data and encoder of a run."""

import json
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from pcm3_jax.errors import UserError
from pcm3_jax.train import provenance
from pcm3_jax.train.checkpoint import latest_checkpoint
from pcm3_jax.train.provenance import commit, data_set, describe, pinned_encoder, record
from tfds_builders import build


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True)


def test_provenance_of_a_run(finished_run, program):
    starts = json.loads((finished_run[0] / "provenance.json").read_text())
    assert len(starts) == 1
    start = starts[0]
    assert start["command"][1:] == program.command(finished_run[0])[1:]
    assert start["packages"]["jax"] == jax.__version__
    assert start["packages"]["numpy"] == np.__version__
    assert (start["device"], start["devices"], start["processes"]) == ("cpu", 1, 1)
    assert start["data"]["name"] == "synthetic_skeletons/n64x32"
    assert start["commit"] == commit(Path(provenance.__file__).parents[2])


def test_every_start_is_recorded(tmp_path, run_config):
    record(tmp_path, run_config, reads_data=True)
    record(tmp_path, run_config, reads_data=True)
    starts = json.loads((tmp_path / "provenance.json").read_text())
    assert [start["data"] for start in starts] == [
        data_set(run_config.data.name, run_config.data.dir)
    ] * 2


@pytest.fixture
def own_data(tmp_path, run_config):
    """A data set that the test may change."""
    run_config.data.dir = str(tmp_path / "data")
    build.build("synthetic_skeletons/n64x32", tmp_path / "data")
    return next((tmp_path / "data").rglob("*train.array_record-*"))


def test_a_changed_data_set_is_refused_when_a_run_goes_on(tmp_path, run_config, own_data):
    record(tmp_path, run_config, reads_data=True)
    record(tmp_path, run_config, reads_data=True, resumed=True)
    content = own_data.read_bytes()
    own_data.write_bytes(content + b"\0")
    # A run that has not begun its work may take other data.
    with pytest.raises(UserError, match="data set synthetic_skeletons/n64x32 has changed since"):
        record(tmp_path, run_config, reads_data=True, resumed=True)
    run_config.accept_changed_inputs = True
    record(tmp_path, run_config, reads_data=True, resumed=True)
    *_, last = json.loads((tmp_path / "provenance.json").read_text())
    assert "data set synthetic_skeletons/n64x32 has changed" in last["accepted_changes"][0]
    run_config.accept_changed_inputs = False
    record(tmp_path, run_config, reads_data=True)
    record(tmp_path, run_config, reads_data=True, resumed=True)


def test_a_changed_encoder_is_refused_when_a_run_goes_on(tmp_path, run_config):
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"one")
    run_config.encoder = str(model)
    record(tmp_path, run_config, reads_data=False)
    record(tmp_path, run_config, reads_data=False, resumed=True)
    model.write_bytes(b"two")
    with pytest.raises(UserError, match="The encoder has changed since the run began"):
        record(tmp_path, run_config, reads_data=False, resumed=True)


def test_an_evaluation_takes_the_checkpoint_again_that_it_began_with(tmp_path, run_config):
    def checkpoint(step):
        sums = tmp_path / f"run/checkpoints/{step}/checksums/metadata"
        sums.parent.mkdir(parents=True)
        sums.write_text(str(step))
        (tmp_path / f"run/checkpoints/{step}/state").mkdir()
        (tmp_path / f"run/checkpoints/{step}/_CHECKPOINT_METADATA").write_text("{}")
        return str(sums.parents[1])

    first = checkpoint(10)
    run_config.encoder = str(tmp_path / "run")
    record(tmp_path, run_config, reads_data=False)
    checkpoint(20)
    assert pinned_encoder(tmp_path, run_config) == first
    run_config.encoder = str(tmp_path / "other")
    assert pinned_encoder(tmp_path, run_config) == run_config.encoder


@pytest.mark.parametrize("content", ["[", "{}", "[1]", "[" * 100_000])
def test_a_damaged_list_of_starts_is_set_aside(tmp_path, run_config, content, capsys):
    (tmp_path / "provenance.json").write_text(content)
    record(tmp_path, run_config, reads_data=False, resumed=True)
    assert len(json.loads((tmp_path / "provenance.json").read_text())) == 1
    assert (tmp_path / "provenance.json.damaged").read_text() == content
    assert "was damaged and is now provenance.json.damaged" in capsys.readouterr().err


def test_encoder_is_the_path_of_a_checkpoint(finished_run, run_config, tmp_path):
    assert describe(run_config)["encoder"] is None
    run_config.encoder = str(finished_run[0])
    assert describe(run_config)["encoder"] == str(latest_checkpoint(finished_run[0]))
    run_config.encoder = str(tmp_path / "model.safetensors")
    assert describe(run_config)["encoder"] == run_config.encoder


def test_encoder_is_an_absolute_path_or_the_name_of_a_shipped_model(
    run_config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run_config.encoder = "model"
    assert describe(run_config)["encoder"] == "model"
    (tmp_path / "model").touch()
    assert describe(run_config)["encoder"] == str(tmp_path / "model")


def test_data_is_none_for_tasks_without_data(run_config):
    assert describe(run_config, reads_data=False)["data"] is None


def test_fingerprint_depends_on_the_content_only(tmp_path, data_dir, run_config):
    run_config.data.dir = str(tmp_path)
    build.build("synthetic_skeletons/n64x32", tmp_path)
    first = data_set(run_config.data.name, run_config.data.dir)["fingerprint"]
    run_config.data.dir = str(data_dir)
    assert data_set(run_config.data.name, run_config.data.dir)["fingerprint"] == first
    run_config.data.dir = str(tmp_path)
    # report.json is not part of the fingerprint.
    info = next(tmp_path.rglob("dataset_info.json"))
    (info.parent / "report.json").write_text('{"peak_memory_mb": 1}')
    assert data_set(run_config.data.name, run_config.data.dir)["fingerprint"] == first
    shard = next(tmp_path.rglob("*.array_record-*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert data_set(run_config.data.name, run_config.data.dir)["fingerprint"] != first


def test_commit_of_a_checkout(tmp_path):
    assert commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "one")
    clean = commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "code.py").write_text("2")
    assert commit(tmp_path) == clean + "+changes"
    # Installed inside the checkout of another project.
    (tmp_path / "site-packages").mkdir()
    assert commit(tmp_path / "site-packages") is None
