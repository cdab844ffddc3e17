"""Task "detection" (Table 5): detects actions in untrimmed videos.

Each frame is classified from a window of frames around it; smoothed probabilities become segments.
Class 0 is the background, class k + 1 the action with label k.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from pcm3_jax.data.batch import Clips
from pcm3_jax.data.feed import Samples
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.data.skeleton import missing_joints, to_stream
from pcm3_jax.errors import UserError
from pcm3_jax.inference.detection import DetectorSettings, segments, smooth, window_indices
from pcm3_jax.methods.state import build_encoder
from pcm3_jax.models.heads import Classifier
from pcm3_jax.runtime.parallel import AXIS
from pcm3_jax.settings import Config, Training, section, setting
from pcm3_jax.tasks.common import encoder_variables
from pcm3_jax.tasks.mean_ap import mean_ap_action, mean_ap_video
from pcm3_jax.tasks.supervised import (
    POSES,
    SupervisedTask,
    Trainer,
    classification_loss,
    initial_variables,
    predictor,
    save_model,
    take,
)
from pcm3_jax.tasks.task import Cost, Metric, Results


@section
class DetectionSettings(Training, DetectorSettings):
    """Detection of actions in untrimmed videos."""

    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 0.01
    decay_epochs: tuple[int, ...] = (50,)
    nesterov: bool = True
    train_every: int = setting(1, "an epoch trains on every train_every-th frame", low=1)
    overlaps: tuple[float, ...] = setting(
        (0.1, 0.3, 0.5), "minimum temporal IoU of a correct segment"
    )


class Detection(SupervisedTask):
    """Mean average precision of actions found in untrimmed videos."""

    name = "detection"
    settings = {"detection": DetectionSettings}
    metrics = (
        Metric("frame_accuracy", "frames", "%"),
        Metric("map_action", "mAP_a", "%", compared=True),
        Metric("map_video", "mAP_v", "%", compared=True),
    )
    untrimmed = True

    def run(self, config: Config, workdir: Path) -> Results:
        devices, settings = self.devices(config), config.of(DetectionSettings)
        train_split, test_split = self.read(config, devices)
        window = (settings.frames, settings.stride)
        model = Classifier(build_encoder(config, AXIS), 1 + len(train_split.classes))

        def views(key: Any, frames: jax.Array, clips: Clips, position: jax.Array) -> jax.Array:
            poses = take(frames, clips, *window)
            return to_stream(poses, ~missing_joints(poses), config.views.stream)

        def probabilities(
            variables: Any, frames: jax.Array, clips: Clips, position: jax.Array
        ) -> jax.Array:
            poses = views(None, frames, clips, position)
            scores: Any = model.apply(variables, poses, train=False)
            return jax.nn.softmax(scores)

        every_frame = detection_samples(test_split, *window)
        predict = predictor(probabilities, test_split, every_frame, config.eval.batch_size, devices)

        def evaluate(variables: dict[str, Any]) -> dict[str, float]:
            return detection_metrics(predict(variables), test_split, settings)

        def draw(epoch: int) -> Samples:
            offset = np.random.default_rng((config.seed, epoch, 1)).integers(settings.train_every)
            return detection_samples(train_split, *window, settings.train_every, int(offset))

        loss = classification_loss(model, views)
        trainer = Trainer(loss, train_split, len(draw(0)), settings, config, devices)
        start = initial_variables(model, encoder_variables(config), config.seed, POSES)
        trained, metrics = trainer.fit(start, draw, evaluate, workdir)
        save_model(workdir, config, trained, "detector", train_split, settings)
        return metrics

    def cost(self, config: Config, train_split: Recordings, test_split: Recordings) -> Cost:
        settings = config.of(DetectionSettings)
        train, test = (split.length.sum() for split in (train_split, test_split))
        windows = 3 * settings.epochs * train / settings.train_every + test
        return Cost(windows * settings.frames / config.views.frames, settings)


def detection_metrics(
    probabilities: np.ndarray, videos: Recordings, settings: DetectionSettings
) -> dict[str, float]:
    """Frame accuracy, and mAP of segments at every IoU threshold of the settings, in [0, 1].

    Args:
      probabilities: (F, 1 + classes), the frames of all videos concatenated.
      videos: the videos with their actions, F frames in total.
      settings: the ``detection`` section of the configuration.
    """
    parts = np.split(probabilities, np.cumsum(videos.length)[:-1])
    found = [segments(smooth(part, settings.smoothing), settings.threshold) for part in parts]
    truth = np.concatenate(list(map(frame_classes, videos.length, videos.actions)))
    metrics = {"frame_accuracy": float((probabilities.argmax(1) == truth).mean())}
    for overlap in settings.overlaps:
        metrics[f"map_action@{overlap}"] = mean_ap_action(found, videos.actions, overlap)
        metrics[f"map_video@{overlap}"] = mean_ap_video(found, videos.actions, overlap)
    return metrics


def frame_classes(length: int, actions: np.ndarray) -> np.ndarray:
    """Class of every frame of a video (T,): 0 background, else label + 1.

    Args:
      length: T.
      actions: (K, 3) rows (label, start, stop).
    """
    classes = np.zeros(length, np.int32)
    for label, start, stop in actions:
        classes[start:stop] = label + 1
    return classes


def detection_samples(
    videos: Recordings, frames: int, stride: int, every: int = 1, offset: int = 0
) -> Samples:
    """Windows around frames ``offset``, ``offset + every``, … of each video, and their classes.

    The number of samples of a video is the same for every offset below ``every``.

    Raises:
      UserError: a video is shorter than a window.
    """
    sequences, start, target = [], [], []
    for index, (length, actions) in enumerate(zip(videos.length, videos.actions, strict=True)):
        try:
            windows = window_indices(length, frames, stride)
        except UserError as error:
            raise UserError(f"{videos.name[index]} of {videos.split}: {error}.") from None
        chosen = np.arange(length // every) * every + offset
        sequences.append(np.full(len(chosen), index, np.int32))
        start.append(windows[chosen, 0])
        target.append(frame_classes(length, actions)[chosen])
    sequence = np.concatenate(sequences)
    length = np.full(len(sequence), frames * stride, np.int32)
    return Samples(sequence, np.concatenate(start), length, np.concatenate(target))
