"""Provenance: versions, data and encoder of a run."""

import json
import subprocess
from pathlib import Path

import jax
import numpy as np

from pcm3_jax.train import provenance
from pcm3_jax.train.checkpoint import latest_checkpoint
from pcm3_jax.train.provenance import commit, data_set, describe, record
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
    assert [start["data"] for start in starts] == [data_set(run_config)] * 2


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
    first = data_set(run_config)["fingerprint"]
    run_config.data.dir = str(data_dir)
    assert data_set(run_config)["fingerprint"] == first
    run_config.data.dir = str(tmp_path)
    # report.json is not part of the fingerprint.
    info = next(tmp_path.rglob("dataset_info.json"))
    (info.parent / "report.json").write_text('{"peak_memory_mb": 1}')
    assert data_set(run_config)["fingerprint"] == first
    shard = next(tmp_path.rglob("*.array_record-*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert data_set(run_config)["fingerprint"] != first


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
