"""Workdirs: which run they belong to, and the lock."""

import json

import jax
import pytest

from pcm3_jax.config import read_config
from pcm3_jax.errors import UserError
from pcm3_jax.train import workdir as workdirs
from pcm3_jax.train.workdir import check_workdir, claim_workdir, locked


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_configuration_claims_a_workdir_twice(tmp_path, run_config):
    workdir = tmp_path / "new" / "run"
    claim_workdir(workdir, run_config)
    claim_workdir(workdir, run_config)
    assert read_config(workdir).to_dict() == run_config.to_dict()


def test_free_settings_may_change_between_starts(tmp_path, run_config):
    claim_workdir(tmp_path, run_config)
    run_config.data.dir = "elsewhere"
    run_config.mapping = "shard_map"
    run_config.checkpoint.keep = 7
    claim_workdir(tmp_path, run_config)
    assert read_config(tmp_path).checkpoint.keep == 7


def test_another_configuration_is_refused_and_nothing_written(tmp_path, run_config):
    claim_workdir(tmp_path, run_config)
    (tmp_path / "metrics.jsonl").write_text("")
    before = contents(tmp_path)
    run_config.optimizer.learning_rate = 0.5
    with pytest.raises(UserError, match=r"config\.optimizer\.learning_rate \(there 0\.02, here"):
        claim_workdir(tmp_path, run_config)
    assert contents(tmp_path) == before


def test_a_run_that_wrote_nothing_has_no_claim(tmp_path, run_config):
    claim_workdir(tmp_path, run_config)
    (tmp_path / "provenance.json").write_text("[]")
    run_config.seed = 1
    claim_workdir(tmp_path, run_config)
    assert read_config(tmp_path).seed == 1


def test_a_partially_written_claim_is_ignored(tmp_path, run_config):
    (tmp_path / ".partial.1a2b").write_text('{"ta')
    claim_workdir(tmp_path, run_config)
    assert json.loads((tmp_path / "config.json").read_text())["task"] == "pretrain"


def test_foreign_files_are_refused(tmp_path, run_config):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not empty, but holds no run"):
        claim_workdir(tmp_path, run_config)


def test_a_garbled_config_json_is_named(tmp_path, run_config):
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        claim_workdir(tmp_path, run_config)


def test_a_relative_encoder_is_the_same_as_its_absolute_path(tmp_path, run_config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").touch()
    run_config.encoder = "model"
    claim_workdir(tmp_path / "run", run_config)
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    run_config.encoder = str(tmp_path / "model")
    check_workdir(tmp_path / "run", run_config)
    (tmp_path / "other").touch()
    run_config.encoder = "other"
    with pytest.raises(UserError, match="config.encoder"):
        check_workdir(tmp_path / "run", run_config)


def test_missing_and_unknown_settings_of_an_older_config_json(tmp_path, run_config):
    """A run started by an older version can be resumed."""
    claim_workdir(tmp_path, run_config)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model"]["precision"]
    config["benchmark"]["tf32"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metrics.jsonl").write_text("")
    claim_workdir(tmp_path, run_config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    run_config.model.precision = "tensorfloat32"
    with pytest.raises(UserError, match="precision .there 'highest', here 'tensorfloat32'"):
        claim_workdir(tmp_path, run_config)


def test_a_second_run_in_a_workdir_is_refused(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(UserError, match="Another process is running in workdir"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_a_workdir_that_only_one_host_sees_is_refused(tmp_path, run_config, monkeypatch):
    monkeypatch.setattr(workdirs, "_NETWORK_DISK_SECONDS", 0)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(UserError, match="is not on a disk that all processes see"):
        claim_workdir(tmp_path, run_config)
    (tmp_path / "config.json").write_text(run_config.to_json())
    claim_workdir(tmp_path, run_config)


@pytest.mark.parametrize("workdir", ["file", "file/run"])
def test_a_workdir_that_cannot_be_created_is_named(tmp_path, run_config, workdir):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"Workdir {tmp_path / workdir} cannot be"):
        claim_workdir(tmp_path / workdir, run_config)
