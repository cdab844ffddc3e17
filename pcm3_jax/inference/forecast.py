"""The poses that follow a recording, from a trained motion predictor."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any, ClassVar

import jax
import numpy as np

from pcm3_jax.data.skeleton import COORDINATES, JOINTS, PERSONS, missing_joints
from pcm3_jax.errors import UserError
from pcm3_jax.inference import heads
from pcm3_jax.inference.batching import in_batches
from pcm3_jax.inference.validation import Sequence
from pcm3_jax.methods.state import build_encoder
from pcm3_jax.models.heads import MotionPredictor
from pcm3_jax.settings import Config, Section, section, setting


@section
class ForecasterSettings(Section):
    """Frames and size of a motion predictor."""

    observed: int = setting(50, "observed frames", low=2)
    future: int = setting(10, "predicted frames", low=1)
    hidden: int = setting(1024, "units of the decoder's GRU", low=1)


class Forecaster:
    """The network of a task "motion_prediction", trained."""

    settings: ClassVar[type[Section]] = ForecasterSettings
    task: ClassVar[str] = "motion_prediction"

    def __init__(
        self, config: Config, tree: dict[str, Any], classes: Many[str], settings: ForecasterSettings
    ) -> None:
        """Takes the parts of `pcm3_jax.inference.weights.Weights`."""
        self._settings = settings
        network = MotionPredictor(build_encoder(config), settings.hidden)

        def predict(variables: Any, stream: jax.Array, poses: jax.Array) -> jax.Array:
            found: Any = network.apply(
                variables, stream, poses[:, -1], settings.future, train=False
            )
            return found

        self._predict = heads.compiled(predict, config, tree, tree["forecaster"])

    @staticmethod
    def shapes(config: Config, settings: ForecasterSettings, classes: int) -> dict[str, Any]:
        """Shapes of the head's arrays."""
        network = MotionPredictor(build_encoder(config), settings.hidden)
        poses = np.zeros((1, 2, PERSONS, JOINTS, COORDINATES), np.float32)
        made: Any = jax.eval_shape(
            lambda: network.init(jax.random.key(0), poses, poses[:, -1], 1, train=False)
        )
        return {name: part for name, part in made["params"].items() if name != "encoder"}

    def __call__(self, sequences: list[Sequence]) -> np.ndarray:
        """The poses (N, future, 2, 25, 3) after the last frames of normalised sequences.

        A person who is absent in the last frame stays absent (zeros).

        Raises:
          UserError: a sequence has fewer frames than the predictor observes.
        """
        observed = self._settings.observed
        for index, sequence in enumerate(sequences):
            if len(sequence.poses) < observed:
                raise UserError(
                    f"Sequence {index} has {len(sequence.poses)} frames, fewer than the "
                    f"{observed} that this model predicts from: pass a longer recording."
                )
        poses = np.stack([sequence.poses[-observed:] for sequence in sequences])
        visible = np.stack([sequence.visible[-observed:] for sequence in sequences])
        visible &= ~missing_joints(poses)
        future = in_batches(self._predict, poses, visible)
        present = poses[:, -1:].any(axis=(-2, -1), keepdims=True)
        return np.where(present, future, np.float32(0))
