"""Masked motion prediction (§3.2) of the same sequences at several checkpoints."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from pcm3_jax.augment.masking import random_visibility
from pcm3_jax.augment.pipeline import central_view
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import PARENTS, visible_in_stream
from pcm3_jax.inference import model_file
from pcm3_jax.inference.model import Model
from pcm3_jax.inference.weights import ModelWeights, Weights
from pcm3_jax.methods import method_of
from pcm3_jax.report.runs import Run
from pcm3_jax.report.sequences import FRAME_RATE, Pool, encoded, packed, up_axis
from pcm3_jax.settings import Views

_CHECKPOINTS, _SEQUENCES = 4, 3


def predictions(run: Run, test: Recordings, pool: Pool) -> dict[str, Any] | None:
    """Ground truth, mask and each checkpoint's prediction; None if the run trains no decoder.

    The network predicts the stream it was trained on; bones or displacements are converted back to
    poses.  "holding" is the error, in cm, of keeping every hidden joint where it was last seen.

    Raises:
      UserError: a checkpoint is damaged.
    """
    config, views = run.config, run.config.views
    decodes = method_of(config).decodes and config.method.masked_prediction
    if not run.task.pretrains or not decodes or not run.checkpoints:
        return None
    chosen = examples(test)
    joints = jax.device_get(joint_views(test, chosen, views))
    drawn = random_visibility(
        jax.random.key(0), views.frames, views.mask_clip_frames, views.mask_strategy,
        views.mask_ratio,
    )  # fmt: skip
    visible = np.broadcast_to(np.asarray(drawn) > 0, joints.shape[:-1])
    shown = _shown_joints(visible, views.stream)
    hold = hold_last_seen(joints, shown)
    steps = _spread(run.checkpoints)
    predicted = {step: _predict(run, step, joints, visible) for step in steps}
    rows = []
    for row, index in enumerate(chosen):
        seconds = int(test.length[index]) * views.eval_crop_ratio / FRAME_RATE
        add = functools.partial(pool.add, up=up_axis(test.data_name), seconds=seconds)
        rows.append(
            {
                "name": test.name[index],
                "label": test.classes[test.label[index]],
                "truth": add(joints[row]),
                "hidden": encoded(~shown[row, :, 0], "u1"),
                "holding": _error(hold[row], joints[row], shown[row]),
                "predicted": [add(predicted[step][row]) for step in steps],
                "errors": [_error(predicted[step][row], joints[row], shown[row]) for step in steps],
            }
        )
    return {"steps": steps, "stream": views.stream, "rows": rows}


def examples(recordings: Recordings) -> list[int]:
    """A few sequences of different classes, the same on every call."""
    order = np.random.default_rng(1).permutation(len(recordings))
    _, first = np.unique(recordings.label[order], return_index=True)
    return order[np.sort(first)][:_SEQUENCES].tolist()


def joint_views(recordings: Recordings, indices: list[int], views: Views) -> jax.Array:
    """The views of evaluation (N, T, 2, 25, 3), as the joint stream."""
    frames, clips = packed(recordings, indices)
    return central_view(frames, clips, dataclasses.replace(views, stream="joint"))


def _predict(run: Run, step: int, joints: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Poses (N, T, 2, 25, 3), the hidden joints as the checkpoint predicts them."""
    weights = model_file.load(run.path / "checkpoints" / str(step)).only
    config = weights.config.copy()
    # The sequences are cropped and resized already.
    config.views.eval_crop_ratio = 1.0
    config.data.max_frames = max(config.data.max_frames, joints.shape[1])
    model = Model(ModelWeights.of(Weights(config, weights.tree)))
    found = model.reconstruct(joints, ~visible, normalize=False)
    return poses_of_stream(found.skeletons, ~found.mask, joints, config.views.stream)


def poses_of_stream(
    stream: np.ndarray, visible: np.ndarray, joints: np.ndarray, name: str
) -> np.ndarray:
    """Converts a stream, true where visible and predicted elsewhere, to poses.

    Bones are added up from the root of the kinematic tree; displacements are added up from where
    the joint was last visible.

    Args:
      stream, joints: (N, T, M, V, 3) metres; only visible entries of ``joints`` are used.
      visible: (N, T, M, V) booleans, whether an entry of the stream is visible.
      name: name of the stream.
    """
    if name == "joint":
        return stream
    poses = joints.copy()
    if name == "motion":
        for t in range(poses.shape[1] - 1):
            hidden = ~visible[:, t, ..., None]
            poses[:, t + 1] = np.where(hidden, poses[:, t] + stream[:, t], joints[:, t + 1])
        return poses
    bones = np.flatnonzero(np.arange(len(PARENTS)) != PARENTS)
    # Each iteration completes the joints one bone further from the root.
    for _ in bones:
        poses[..., bones, :] = poses[..., PARENTS[bones], :] + stream[..., bones, :]
    return poses


def _shown_joints(visible: np.ndarray, stream: str) -> np.ndarray:
    """(N, T, M, V): whether a joint's position follows from the visible entries of the stream."""
    seen = visible_in_stream(visible, stream)
    if stream == "bone":
        # A bone gives its joint's position only if that of its parent is known.
        for _ in range(len(PARENTS)):
            seen = seen & seen[..., PARENTS]
    if stream == "motion":
        # The displacement at frame t gives the position at frame t + 1.
        seen = np.concatenate([np.ones_like(seen[:, :1]), seen[:, :-1]], axis=1)
    return seen


def hold_last_seen(joints: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Poses with hidden joints at their last known position, or before it at the first known one.

    Args:
      joints: (N, T, M, V, 3).
      shown: (N, T, M, V) booleans, whether a joint's position is known.
    """
    frames = np.arange(joints.shape[1])[:, None, None]
    last = np.maximum.accumulate(np.where(shown, frames, -1), axis=1)
    first = shown.argmax(axis=1)[:, None]
    return np.take_along_axis(joints, np.where(last < 0, first, last)[..., None], axis=1)


def _error(poses: np.ndarray, truth: np.ndarray, shown: np.ndarray) -> float:
    """Mean distance, in cm, of the first person's hidden joints from the truth."""
    distance = np.linalg.norm(poses - truth, axis=-1)[:, 0][~shown[:, 0]]
    return round(100 * float(distance.mean()), 2) if distance.size else 0.0


def _spread(steps: list[int]) -> list[int]:
    """At most `_CHECKPOINTS` evenly spaced steps, with the first and the last."""
    places = np.linspace(0, len(steps) - 1, min(_CHECKPOINTS, len(steps))).round().astype(int)
    return [steps[i] for i in places]
