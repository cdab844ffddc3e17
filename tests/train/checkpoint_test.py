"""Checkpoints: which are kept, what a damaged one says, and whose a workdir is."""

import gc
import json
import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pcm3_jax.errors import UserError, WriteError
from pcm3_jax.train import checkpoint
from pcm3_jax.train.checkpoint import (
    Checkpoints,
    claim_workdir,
    latest_checkpoint,
    locked,
    read_config,
    restore_arrays,
)
from tests.running import checkpoint_steps

# Orbax leaves reads under way when one of them fails; they complain in whatever test comes next.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def make_state(seed: int = 0, width: int = 40) -> dict[str, jax.Array]:
    weights = jax.random.normal(jax.random.key(seed), (width, 30))
    return {"step": jnp.int32(seed), "weights": weights}


def save(workdir, steps: dict[int, float | None], keep: int = 2) -> None:
    checkpoints = Checkpoints(workdir, keep)
    for step, accuracy in steps.items():
        metrics = None if accuracy is None else {"knn_accuracy": accuracy}
        checkpoints.save(step, make_state(step), metrics)
    checkpoints.close()


def restore(workdir, template=None):
    checkpoints = Checkpoints(workdir, keep=2)
    try:
        return checkpoints.restore(make_state() if template is None else template)
    finally:
        checkpoints.close()


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_saved_is_restored_bit_for_bit(tmp_path):
    save(tmp_path, {7: None})
    restored = restore(tmp_path)
    for name, array in make_state(7).items():
        np.testing.assert_array_equal(restored[name], array)
        assert restored[name].dtype == array.dtype


def test_an_empty_workdir_restores_nothing(tmp_path):
    assert restore(tmp_path) is None


def test_best_and_last_are_kept(tmp_path):
    save(tmp_path, {1: 0.3, 2: 0.9, 3: 0.4, 4: None, 5: 0.5, 6: None})
    assert checkpoint_steps(tmp_path) == [2, 5, 6]


def test_a_restart_remembers_which_is_best(tmp_path):
    save(tmp_path, {1: 0.9, 2: 0.3})
    save(tmp_path, {3: 0.4, 4: 0.5, 5: None})
    assert checkpoint_steps(tmp_path) == [1, 4, 5]


def test_a_saved_step_is_not_saved_again(tmp_path):
    save(tmp_path, {1: 0.5})
    before = contents(tmp_path)
    save(tmp_path, {1: 0.5})
    assert contents(tmp_path) == before


def test_an_interrupted_save_is_no_checkpoint(tmp_path):
    save(tmp_path, {3: None, 5: None})
    unfinished = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "5", unfinished)
    assert int(restore(tmp_path)["step"]) == 5
    # Orbax clears away in the background, before the next save at the latest.
    save(tmp_path, {7: None})
    assert not unfinished.exists()


def test_a_half_deleted_old_checkpoint_does_no_harm(tmp_path):
    save(tmp_path, {3: 0.9, 5: 0.5})
    shutil.rmtree(tmp_path / "checkpoints" / "3" / "state")
    (tmp_path / "checkpoints" / "3" / "metrics" / "metrics").unlink()
    assert int(restore(tmp_path)["step"]) == 5
    save(tmp_path, {6: 0.6, 7: 0.4})
    assert checkpoint_steps(tmp_path) == [6, 7]


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def delete(folder):
    largest_file(folder).unlink()


def truncate(folder):
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_a_byte(folder):
    path = largest_file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def garble(folder):
    path = largest_file(folder)
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def garble_layout(folder):
    (folder / "state" / "_METADATA").write_text("{")


def garble_metrics(folder):
    (folder / "metrics" / "metrics").write_text('{"knn')


def lose_checksums(folder):
    shutil.rmtree(folder / "checksums")


@pytest.fixture
def abandoned_reads(request):
    """Orbax abandons its other reads when one fails; they may complain when they are collected."""
    mark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    request.applymarker(mark)
    request.addfinalizer(gc.collect)


@pytest.mark.usefixtures("abandoned_reads")
@pytest.mark.parametrize(
    "damage",
    [delete, truncate, change_a_byte, garble, garble_layout, garble_metrics, lose_checksums],
)
def test_a_damaged_checkpoint_is_named_and_left_alone(tmp_path, damage):
    save(tmp_path, {3: 0.5, 5: 0.4})
    damaged = tmp_path / "checkpoints" / "5"
    damage(damaged)
    before = contents(tmp_path)
    with pytest.raises(UserError) as caught:
        restore(tmp_path)
    message = str(caught.value)
    assert str(damaged) in message
    assert "\n" not in message
    assert contents(tmp_path) == before
    # What the message advises works.
    shutil.move(damaged, tmp_path / "away")
    assert int(restore(tmp_path)["step"]) == 3


NO_ROOM = "(No space left on device|File too large)"


def test_a_full_disk_stops_the_run_and_harms_no_checkpoint(tmp_path, filled):
    save(tmp_path, {3: 0.5, 5: 0.4})
    before = contents(tmp_path / "checkpoints" / "3") | contents(tmp_path / "checkpoints" / "5")
    with filled():
        checkpoints = Checkpoints(tmp_path, keep=2)
        with pytest.raises(WriteError, match=rf"^Step 7 cannot be saved .*{NO_ROOM}\); the same"):
            checkpoints.save(7, make_state(7))
            checkpoints.save(9, make_state(9))
        checkpoints.close()
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    assert int(restore(tmp_path)["step"]) == 5
    save(tmp_path, {7: None})
    assert checkpoint_steps(tmp_path) == [3, 5, 7]


def test_a_full_disk_can_be_waited_for(tmp_path, filled, capsys):
    checkpoints = Checkpoints(tmp_path, keep=2, on_failure="continue")
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
    assert checkpoints.saved(2)
    with filled():
        for step in (3, 4):
            checkpoints.save(step, make_state(step))
        assert not checkpoints.saved(4)
        assert checkpoint_steps(tmp_path) == [1, 2]
    err = capsys.readouterr().err
    assert re.search(f"warning: Step 3 .*{NO_ROOM}.*\nwarning: Step 4 .*{NO_ROOM}.*\n", err)
    checkpoints.save(5, make_state(5))
    checkpoints.close()
    assert capsys.readouterr().err == ""
    assert checkpoint_steps(tmp_path) == [2, 5]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "5"}
    np.testing.assert_array_equal(restore(tmp_path)["weights"], make_state(5)["weights"])


@pytest.mark.parametrize(
    "template",
    [
        make_state(width=41),
        make_state() | {"more": jnp.zeros(3)},
        {"step": jnp.int32(0)},
        make_state() | {"weights": make_state()["weights"].astype(jnp.bfloat16)},
    ],
    ids=["shape", "more", "fewer", "type"],
)
def test_another_layout_is_refused_and_left_alone(tmp_path, template):
    save(tmp_path, {5: 0.4})
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"checkpoints/5 is damaged or of another layout"):
        restore(tmp_path, template)
    assert contents(tmp_path) == before


def test_a_workdir_is_claimed_and_claimed_again(tmp_path, run_config):
    workdir = tmp_path / "new" / "run"
    claim_workdir(workdir, run_config)
    claim_workdir(workdir, run_config)
    assert read_config(workdir).to_dict() == run_config.to_dict()


def test_what_does_not_change_the_run_may_change(tmp_path, run_config):
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


def test_a_claim_that_a_kill_cut_short_is_taken_up(tmp_path, run_config):
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
    with pytest.raises(UserError, match=r"config\.json is not readable as JSON"):
        claim_workdir(tmp_path, run_config)


def test_settings_come_and_go_between_two_starts(tmp_path, run_config):
    """A run that an older version began goes on."""
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


def test_two_runs_at_a_time_are_one_too_many(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(UserError, match="Another process is running in workdir"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_a_workdir_that_only_one_host_sees_is_refused(tmp_path, run_config, monkeypatch):
    monkeypatch.setattr(checkpoint, "_NETWORK_DISK_SECONDS", 0)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(UserError, match="is not on a disk that all processes see"):
        claim_workdir(tmp_path, run_config)
    (tmp_path / "config.json").write_text(run_config.to_json())
    claim_workdir(tmp_path, run_config)


@pytest.mark.parametrize("workdir", ["file", "file/run"])
def test_a_workdir_that_cannot_be_one_is_named(tmp_path, run_config, workdir):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"Workdir {tmp_path / workdir} cannot be"):
        claim_workdir(tmp_path / workdir, run_config)


def save_encoder(workdir, config) -> np.ndarray:
    kernel = jnp.arange(12.0).reshape(4, 3)
    claim_workdir(workdir, config)
    checkpoints = Checkpoints(workdir, keep=1)
    state = {"params": {"encoder": {"kernel": kernel}, "decoder": jnp.ones(3)}, "step": 3}
    checkpoints.save(3, state)
    checkpoints.close()
    return np.asarray(kernel)


def read_encoder(workdir):
    template = {"params": {"encoder": {"kernel": jnp.zeros((4, 3))}}}
    return restore_arrays(latest_checkpoint(workdir), template)


def test_the_encoder_alone_is_read_from_a_whole_state(tmp_path, run_config):
    assert latest_checkpoint(tmp_path) is None
    kernel = save_encoder(tmp_path, run_config)
    variables = read_encoder(tmp_path)
    np.testing.assert_array_equal(variables["params"]["encoder"]["kernel"], kernel)


def test_a_damaged_encoder_is_refused(tmp_path, run_config):
    save_encoder(tmp_path, run_config)
    sums = tmp_path / "checkpoints" / "3" / "checksums" / "metadata"
    sums.write_text(json.dumps(dict.fromkeys(json.loads(sums.read_text()), 0)))
    with pytest.raises(UserError, match="checksum of params/encoder/kernel is wrong"):
        read_encoder(tmp_path)


def test_unevaluated_steps_do_not_displace_the_best(tmp_path):
    save(tmp_path, {1: 0.1}, keep=1)
    save(tmp_path, {2: None, 3: None}, keep=1)
    assert checkpoint_steps(tmp_path) == [1, 3]
    assert not math.isnan(float(restore(tmp_path)["step"]))
