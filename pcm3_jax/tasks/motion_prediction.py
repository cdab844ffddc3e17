"""Task "motion_prediction" (Table 6): the decoder of Martinez et al. (CVPR 2017) on the encoder.

Poses are (N, T, M, V, C), in metres for the joint stream.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pcm3_jax.data.batch import Clips
from pcm3_jax.data.feed import Samples
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import missing_joints, to_stream
from pcm3_jax.errors import UserError
from pcm3_jax.inference.forecast import ForecasterSettings
from pcm3_jax.methods.state import build_encoder
from pcm3_jax.models.heads import MotionPredictor
from pcm3_jax.runtime.parallel import AXIS
from pcm3_jax.settings import Config, OptimizerName, Training, section, setting
from pcm3_jax.tasks.common import encoder_variables
from pcm3_jax.tasks.supervised import (
    POSES,
    SupervisedTask,
    Trainer,
    initial_variables,
    predictor,
    save_model,
    take,
)
from pcm3_jax.tasks.task import Cost, Metric, Results


@section
class MotionSettings(Training, ForecasterSettings):
    """Motion prediction, the short-term protocol of Martinez et al."""

    name: OptimizerName = "adamw"
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 5e-4
    decay_epochs: tuple[int, ...] = (80,)
    frozen: bool = setting(False, "keep the encoder's weights, and train only the decoder")


class MotionPrediction(SupervisedTask):
    """Error of predicted poses in millimetres, compared with repeating the last pose."""

    name = "motion_prediction"
    settings = {"motion_prediction": MotionSettings}
    metrics = (
        Metric("mpjpe", "MPJPE", "mm", "lower", compared=True),
        Metric("zero_velocity", "standing still", "mm", "lower"),
        Metric("sequences", "sequences", better=""),
    )

    def run(self, config: Config, workdir: Path) -> Results:
        devices, settings = self.devices(config), config.of(MotionSettings)
        train_split, test_split = self.read(config, devices)
        observed, span = settings.observed, settings.observed + settings.future
        model = MotionPredictor(build_encoder(config, AXIS), settings.hidden, settings.frozen)

        def inputs(frames: jax.Array, clips: Clips) -> tuple[jax.Array, jax.Array, jax.Array]:
            """(observed frames in the encoder's stream, last observed pose, future poses)."""
            poses = take(frames, clips, span)
            seen, future = poses[:, :observed], poses[:, observed:]
            views = to_stream(seen, ~missing_joints(seen), config.views.stream)
            return views, seen[:, -1], future

        def loss(
            params: Any, batch_stats: Any, frames: jax.Array, batch: Any, key: jax.Array
        ) -> tuple[jax.Array, Any]:
            seen, last, future = inputs(frames, batch[0])
            prediction, updated = model.apply(
                {"params": params, "batch_stats": batch_stats},
                seen, last, settings.future, train=True, mutable=["batch_stats"],
            )  # fmt: skip
            total, count = position_errors(prediction, future)
            return total.sum() / jnp.maximum(count.sum(), 1), updated["batch_stats"]

        def errors(
            variables: Any, frames: jax.Array, clips: Clips, position: jax.Array
        ) -> jax.Array:
            seen, last, future = inputs(frames, clips)
            prediction: Any = model.apply(variables, seen, last, settings.future, train=False)
            still = zero_velocity(last[:, None], settings.future)
            total, count = position_errors(prediction, future)
            return jnp.stack([total, position_errors(still, future)[0], count], axis=1)

        tested = prediction_samples(test_split, span)
        predict = predictor(errors, test_split, tested, config.eval.batch_size, devices)

        def evaluate(variables: dict[str, Any]) -> dict[str, Any]:
            return {"sequences": len(tested)} | mean_errors(predict(variables))

        def draw(epoch: int) -> Samples:
            rng = np.random.default_rng((config.seed, epoch, 1))
            return prediction_samples(train_split, span, rng)

        frozen = ("encoder",) if settings.frozen else ()
        trainer = Trainer(loss, train_split, len(draw(0)), settings, config, devices, frozen)
        inputs_of_call = (POSES, POSES[:, 0], settings.future)
        start = initial_variables(model, encoder_variables(config), config.seed, *inputs_of_call)
        trained, metrics = trainer.fit(start, draw, evaluate, workdir)
        save_model(workdir, config, trained, "forecaster", train_split, settings)
        return metrics

    def cost(self, config: Config, train_split: Recordings, test_split: Recordings) -> Cost:
        settings = config.of(MotionSettings)
        passes = 1 if settings.frozen else 3  # a backward pass costs as much as two forward
        sequences = passes * settings.epochs * len(train_split) + len(test_split)
        encoded = sequences * settings.observed / config.views.frames
        return Cost(encoded, settings)


def zero_velocity(observed: jax.Array, future_frames: int) -> jax.Array:
    """The last pose of ``observed`` (N, T, M, V, C), repeated for ``future_frames`` frames."""
    return jnp.repeat(observed[:, -1:], future_frames, axis=1)


def present_persons(poses: jax.Array) -> jax.Array:
    """Whether each person of poses (..., M, V, C) is present (not all zeros): (..., M)."""
    return (poses != 0).any((-2, -1))


def position_errors(prediction: jax.Array, truth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Summed joint position errors of each sequence and predicted frame, and joint counts.

    Only persons present in the target frame count.  MPJPE is the sum of the errors divided by the
    sum of the counts.

    Args:
      prediction, truth: poses (N, T, M, V, C) in metres.

    Returns:
      Millimetres (N, T), summed over the joints of the persons who are present, and counts (N, T).
    """
    present = present_persons(truth).astype(jnp.float32)
    # A norm whose gradient is zero, not NaN, where the error of a joint is exactly zero.
    errors = 1000 * optax.safe_norm(prediction - truth, 0.0, axis=-1)
    return (errors.sum(-1) * present).sum(-1), truth.shape[-2] * present.sum(-1)


def mean_errors(sums: np.ndarray) -> dict[str, float]:
    """Mean errors in millimetres over all predicted frames, and of each frame ("mpjpe@1", …).

    Args:
      sums: (S, 3, T), for each sequence and predicted frame: summed errors of the prediction,
        summed errors of `zero_velocity`, and the number of joints.
    """
    predicted, still, count = sums.sum(0, dtype=np.float64)
    metrics = {}
    for name, total in (("mpjpe", predicted), ("zero_velocity", still)):
        metrics[name] = float(total.sum() / count.sum())
        metrics |= {f"{name}@{i}": float(e) for i, e in enumerate(total / count, 1)}
    return metrics


def prediction_samples(
    recordings: Recordings, span: int, rng: np.random.Generator | None = None
) -> Samples:
    """One window of ``span`` frames of each sequence that is long enough.

    The window is random, or the middle one without ``rng``.

    Raises:
      UserError: no sequence has ``span`` frames.
    """
    sequence = np.flatnonzero(recordings.length >= span).astype(np.int32)
    if not len(sequence):
        raise UserError(
            f"No sequence of {recordings.split} has {span} frames; set "
            "config.motion_prediction.observed and .future to fewer."
        )
    room = recordings.length[sequence] - span
    start = room // 2 if rng is None else rng.integers(0, room + 1)
    lengths = np.full(len(sequence), span, np.int32)
    return Samples(sequence, start.astype(np.int32), lengths, np.zeros_like(sequence))
