"""Motion prediction: its task, its error measure, and the model that it leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pcm3_jax
from pcm3_jax import convert
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file
from pcm3_jax.main import run
from pcm3_jax.methods.state import build_encoder
from pcm3_jax.models.heads import MotionPredictor
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks.common import encoder_variables, read_splits
from pcm3_jax.tasks.motion_prediction import (
    MotionPrediction,
    position_errors,
    prediction_samples,
    zero_velocity,
)
from pcm3_jax.tasks.supervised import POSES, initial_variables

FUTURE = 3


def poses(frames, rows=2, seed=0) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(rows, frames, 2, 25, 3))
    return made.astype(np.float32)


def test_zero_velocity_holds_the_last_pose():
    observed = poses(5)
    held = zero_velocity(observed, FUTURE)
    assert held.shape == (2, FUTURE, 2, 25, 3)
    for t in range(FUTURE):
        np.testing.assert_array_equal(held[:, t], observed[:, -1])


def test_position_errors():
    prediction, truth = poses(4, rows=3, seed=3), poses(4, rows=3, seed=4)
    truth[0, 1, 1] = truth[1, :, 1] = truth[2, 3] = 0  # a second person or everybody away
    total, count = jax.jit(position_errors)(prediction, truth)
    for n in range(3):
        for t in range(4):
            distances = [
                sum((prediction[n, t, m, v, c] - truth[n, t, m, v, c]) ** 2 for c in range(3))
                ** 0.5
                for m in range(2)
                for v in range(25)
                if any(truth[n, t, m].reshape(-1))
            ]
            assert count[n, t] == len(distances)
            assert total[n, t] == pytest.approx(1000 * sum(distances), rel=1e-5)
    assert count[2, 3] == total[2, 3] == 0


def test_the_gradient_is_finite_at_zero_error():
    truth = poses(2)
    truth[:, :, 1] = 0
    prediction = truth + 0.1
    prediction[..., 1, :] = truth[..., 1, :]
    gradient = jax.jit(jax.grad(lambda p: position_errors(p, truth)[0].sum()))(prediction)
    assert jnp.isfinite(gradient).all()
    assert not gradient[:, :, 1].any()
    assert (gradient[:, :, 0, 0] > 0).all()


def test_windows_to_predict_in(videos):
    middle = prediction_samples(videos, 60)
    assert (middle.sequence.tolist(), middle.start.tolist()) == ([0], [5])
    starts = {
        int(prediction_samples(videos, 68, np.random.default_rng(i)).start[0]) for i in range(30)
    }
    assert starts == {0, 1, 2}
    with pytest.raises(UserError, match=r"No sequence of .* has 71 frames"):
        prediction_samples(videos, 71)


def test_motion_prediction_is_better_than_standing_still(brief_config, tmp_path):
    # In a short run a small network learns more about the next pose from velocities.
    brief_config.views.stream = "motion"
    brief_config.motion_prediction.update(epochs=20, decay_epochs=(), learning_rate=1e-3)
    results = MotionPrediction().run(brief_config, tmp_path)
    assert results["mpjpe"] < 0.995 * results["zero_velocity"]
    by_frame = [results[f"mpjpe@{i}"] for i in (1, 2, 3)]
    assert by_frame == sorted(by_frame)
    assert results["sequences"] == 32


def test_a_frozen_encoder_is_kept(finished_run, brief_config, tmp_path):
    brief_config.update(task="motion_prediction", encoder=str(finished_run[0]))
    # Weight decay also changes parameters without a gradient.
    brief_config.motion_prediction.update(frozen=True, weight_decay=0.1, learning_rate=1e-2)
    results = run(brief_config, tmp_path)
    saved = model_file.load(tmp_path)
    encoder = encoder_variables(brief_config)
    jax.tree.map(np.testing.assert_array_equal, saved.only.tree, encoder)
    network = MotionPredictor(build_encoder(brief_config), hidden=8)
    first = initial_variables(network, encoder, brief_config.seed, POSES, POSES[:, 0], FUTURE)
    head = {name: part for name, part in first["params"].items() if name != "encoder"}
    same = jax.tree.map(np.array_equal, saved.heads["forecaster"], head)
    assert not any(jax.tree.leaves(same))
    # From the checkpoint, without a step.
    assert results | MotionPrediction().run(brief_config, tmp_path) == results


@pytest.mark.parametrize("stream", ["joint", "motion"])
def test_forecasts_are_those_of_the_evaluation(brief_config, tmp_path, stream):
    brief_config.update(task="motion_prediction")
    brief_config.views.stream = stream
    brief_config.motion_prediction.update(learning_rate=1e-2, hidden=5)
    results = run(brief_config, tmp_path / "run")
    _, split = read_splits(brief_config, Devices(brief_config.mapping))
    tested, frames = prediction_samples(split, 8 + 3), np.asarray(split.frames)
    first = split.start[tested.sequence] + tested.start
    windows = frames[first[:, None] + np.arange(8 + 3)].reshape(len(tested), 11, -1, 25, 3)
    model = pcm3_jax.load(tmp_path / "run")
    assert model.heads == ("forecaster",)
    future = model.forecast(list(windows[:, :8]), normalize=False)
    assert future.shape == (len(tested), 3, 2, 25, 3) and future.dtype == np.float32
    truth = np.zeros_like(future)
    truth[:, :, : windows.shape[2]] = windows[:, 8:]
    total, count = position_errors(future, truth)
    assert total.sum() / count.sum() == pytest.approx(results["mpjpe"], rel=1e-5)
    assert results["mpjpe"] != pytest.approx(results["zero_velocity"], rel=1e-3)
    # Only the last observed frames count.
    longer = np.concatenate([windows[1, :5], windows[0, :8]])
    np.testing.assert_allclose(model.forecast(longer, normalize=False)[0], future[0], atol=1e-6)
    convert.run(["export", str(tmp_path / "run"), str(tmp_path / "out.safetensors")])
    again = pcm3_jax.load(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(again.forecast(list(windows[:, :8]), normalize=False), future)
    with pytest.raises(UserError, match="Sequence 0 has 7 frames, fewer than the 8 that"):
        model.forecast(windows[0, :7])
    with pytest.raises(UserError, match="no detector.*config.task='detection'"):
        model.detect(windows[0])
