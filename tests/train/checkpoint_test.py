"""Checkpoints: which are kept, and errors of damaged ones and of a full disk."""

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
from pcm3_jax.train.checkpoint import Checkpoints, latest_checkpoint, restore_arrays
from pcm3_jax.train.workdir import claim_workdir
from tests.running import checkpoint_steps
from tests.train.workdir_test import contents

# When one read fails, Orbax abandons the others, whose warnings would appear in a later test.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def make_state(seed: int = 0, width: int = 40) -> dict[str, jax.Array]:
    weights = jax.random.normal(jax.random.key(seed), (width, 30))
    return {"step": jnp.int32(seed), "weights": weights}


def save(workdir, steps: dict[int, float | None], keep: int = 2) -> None:
    with Checkpoints(workdir, keep) as checkpoints:
        for step, accuracy in steps.items():
            metrics = None if accuracy is None else {"knn_accuracy": accuracy}
            checkpoints.save(step, make_state(step), metrics)


def restore(workdir, template=None):
    with Checkpoints(workdir, keep=2) as checkpoints:
        return checkpoints.restore(make_state() if template is None else template)


def test_restore_is_bitwise(tmp_path):
    save(tmp_path, {7: None})
    restored = restore(tmp_path)
    for name, array in make_state(7).items():
        np.testing.assert_array_equal(restored[name], array)
        assert restored[name].dtype == array.dtype


def test_restore_of_an_empty_workdir_is_none(tmp_path):
    assert restore(tmp_path) is None


def test_last_checkpoints_and_the_best_are_kept(tmp_path):
    save(tmp_path, {1: 0.3, 2: 0.9, 3: 0.4, 4: None, 5: 0.5, 6: None})
    assert checkpoint_steps(tmp_path) == [2, 5, 6]


def test_best_checkpoint_is_kept_after_a_restart(tmp_path):
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
    # Orbax removes unfinished saves in the background, before the next save at the latest.
    save(tmp_path, {7: None})
    assert not unfinished.exists()


def test_latest_checkpoint_is_restored_beside_a_half_deleted_one(tmp_path):
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
def abandoned_reads():
    """When one read fails Orbax abandons the others, which warn when they are collected."""
    yield
    gc.collect()


@pytest.mark.usefixtures("abandoned_reads")
@pytest.mark.parametrize(
    "damage",
    [delete, truncate, change_a_byte, garble, garble_layout, garble_metrics, lose_checksums],
)
def test_a_damaged_checkpoint_is_named_and_unchanged(tmp_path, damage):
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


def test_a_full_disk_raises_and_leaves_checkpoints_intact(tmp_path, filled):
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


def test_on_failure_continue_saves_again_once_there_is_room(tmp_path, filled, capsys):
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
def test_another_layout_is_refused_and_unchanged(tmp_path, template):
    save(tmp_path, {5: 0.4})
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"checkpoints/5 is damaged or of another layout"):
        restore(tmp_path, template)
    assert contents(tmp_path) == before


def save_encoder(workdir, config) -> np.ndarray:
    kernel = jnp.arange(12.0).reshape(4, 3)
    claim_workdir(workdir, config)
    state = {"params": {"encoder": {"kernel": kernel}, "decoder": jnp.ones(3)}, "step": 3}
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(3, state)
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


def test_best_checkpoint_is_kept_after_steps_without_evaluation(tmp_path):
    save(tmp_path, {1: 0.1}, keep=1)
    save(tmp_path, {2: None, 3: None}, keep=1)
    assert checkpoint_steps(tmp_path) == [1, 3]
    assert not math.isnan(float(restore(tmp_path)["step"]))
