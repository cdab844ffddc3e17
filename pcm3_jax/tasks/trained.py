"""Evaluations that train the encoder further: finetuning, detection, motion prediction."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pcm3_jax.augment.pipeline import occluded_view
from pcm3_jax.data import feed, recordings
from pcm3_jax.data.skeleton import COORDINATES, JOINTS, PERSONS, missing_joints, to_stream
from pcm3_jax.methods.state import build_encoder
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.tasks import detection as detecting
from pcm3_jax.tasks import supervised, windows
from pcm3_jax.tasks.inputs import encoder_variables, read_splits
from pcm3_jax.tasks.linear_probe import top_k_accuracy
from pcm3_jax.tasks.motion_prediction import MotionPredictor, position_errors, zero_velocity

Results = dict[str, Any]

# Shapes of variables do not depend on the number of frames.
_POSES = np.zeros((1, 2, PERSONS, JOINTS, COORDINATES), np.float32)


def finetune(config: ConfigDict, workdir: Path) -> Results:
    """Accuracy after training encoder and classifier on a share of the labels (Table 2)."""
    devices = _devices(config, "finetune")
    train_split, test_split = read_splits(config, devices)
    settings = config.finetune
    count = max(1, round(settings.fraction * len(train_split)))
    model = supervised.Classifier(build_encoder(config, AXIS), len(train_split.classes))
    views = functools.partial(occluded_view, config=config.views, occlusion=config.occlusion)
    loss = supervised.classification_loss(model, functools.partial(views, central=False))
    whole = _whole_sequences(test_split, np.arange(len(test_split)))

    def scores(variables, frames, clips, position):
        # Without occlusion this view draws nothing.
        poses = views(jax.random.key(config.seed), frames, clips, position, central=True)
        return model.apply(variables, poses, train=False)

    predict = supervised.predictor(scores, test_split, whole, config.eval.batch_size, devices)

    def evaluate(variables) -> dict[str, float]:
        return {"top1": top_k_accuracy(predict(variables), test_split.label, 1)}

    def fixed(samples: feed.Samples) -> Callable[[int], feed.Samples]:
        return lambda epoch: samples

    trainer = supervised.Trainer(loss, train_split, count, settings, config, devices)
    encoder = encoder_variables(config)
    accuracies = []
    for draw in range(settings.draws):
        rng = np.random.default_rng((config.seed, draw))
        chosen = np.sort(rng.permutation(len(train_split))[:count])
        samples = _whole_sequences(train_split, chosen)
        start = _start(model, encoder, _key(config, draw), _POSES, train=False)
        metrics = trainer.fit(start, fixed(samples), evaluate, workdir, f"draw_{draw}")
        accuracies.append(metrics["top1"])
    return {
        "top1": float(np.mean(accuracies)),
        "top1_std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0,
        "top1_draws": accuracies,
        "labelled": count,
    }


def detection(config: ConfigDict, workdir: Path) -> Results:
    """Mean average precision of actions found in untrimmed videos (Table 5)."""
    devices = _devices(config, "detection")
    train_split, test_split = read_splits(config, devices, untrimmed=True)
    settings = config.detection
    window = (settings.frames, settings.stride)
    model = supervised.Classifier(build_encoder(config, AXIS), 1 + len(train_split.classes))

    def views(key, frames, clips, position):
        poses = windows.take(frames, clips, *window)
        return to_stream(poses, missing_joints(poses), config.views.stream)

    def probabilities(variables, frames, clips, position):
        poses = views(None, frames, clips, position)
        scores: Any = model.apply(variables, poses, train=False)
        return jax.nn.softmax(scores)

    every_frame = windows.detection_samples(test_split, *window)
    predict = supervised.predictor(
        probabilities, test_split, every_frame, config.eval.batch_size, devices
    )

    def evaluate(variables) -> dict[str, float]:
        found = predict(variables)
        segments = [
            detecting.segments(detecting.smooth(video, settings.smoothing), settings.threshold)
            for video in np.split(found, np.cumsum(test_split.length)[:-1])
        ]
        metrics = {"frame_accuracy": float((found.argmax(1) == every_frame.target).mean())}
        for overlap in settings.overlaps:
            for name, mean_ap in (
                ("action", detecting.mean_ap_action),
                ("video", detecting.mean_ap_video),
            ):
                metrics[f"map_{name}@{overlap}"] = mean_ap(segments, test_split.actions, overlap)
        return metrics

    def draw(epoch: int):
        offset = np.random.default_rng((config.seed, epoch, 1)).integers(settings.train_every)
        return windows.detection_samples(train_split, *window, settings.train_every, offset)

    loss = supervised.classification_loss(model, views)
    trainer = supervised.Trainer(loss, train_split, len(draw(0)), settings, config, devices)
    start = _start(model, encoder_variables(config), _key(config), _POSES, train=False)
    return trainer.fit(start, draw, evaluate, workdir)


def motion_prediction(config: ConfigDict, workdir: Path) -> Results:
    """Error of predicted poses in millimetres (Table 6), beside that of standing still."""
    devices = _devices(config, "motion_prediction")
    train_split, test_split = read_splits(config, devices)
    settings = config.motion_prediction
    observed, span = settings.observed, settings.observed + settings.future
    model = MotionPredictor(build_encoder(config, AXIS), settings.hidden)

    def inputs(frames, clips):
        """What is observed, as the encoder reads it, the last pose, and the poses that follow."""
        poses = windows.take(frames, clips, span)
        seen, future = poses[:, :observed], poses[:, observed:]
        views = to_stream(seen, missing_joints(seen), config.views.stream)
        return views, seen[:, -1], future

    def loss(params, batch_stats, frames, batch, key):
        seen, last, future = inputs(frames, batch[0])
        prediction, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            seen, last, settings.future, train=True, mutable=["batch_stats"],
        )  # fmt: skip
        total, count = position_errors(prediction, future)
        return total.sum() / jnp.maximum(count.sum(), 1), updated["batch_stats"]

    def errors(variables, frames, clips, position):
        del position
        seen, last, future = inputs(frames, clips)
        prediction: Any = model.apply(variables, seen, last, settings.future, train=False)
        still = zero_velocity(last[:, None], settings.future)
        total, count = position_errors(prediction, future)
        return jnp.stack([total, position_errors(still, future)[0], count], axis=1)

    tested = windows.prediction_samples(test_split, span)
    predict = supervised.predictor(errors, test_split, tested, config.eval.batch_size, devices)

    def evaluate(variables) -> dict[str, Any]:
        predicted, still, count = predict(variables).sum(0, dtype=np.float64)
        metrics: dict[str, float] = {"sequences": len(tested)}
        for name, total in (("mpjpe", predicted), ("zero_velocity", still)):
            metrics[name] = float(total.sum() / count.sum())
            metrics |= {f"{name}@{i + 1}": float(e) for i, e in enumerate(total / count)}
        return metrics

    def draw(epoch: int):
        rng = np.random.default_rng((config.seed, epoch, 1))
        return windows.prediction_samples(train_split, span, rng)

    start = _start(
        model, encoder_variables(config), _key(config),
        _POSES, _POSES[:, 0], settings.future, train=False,
    )  # fmt: skip
    trainer = supervised.Trainer(loss, train_split, len(draw(0)), settings, config, devices)
    return trainer.fit(start, draw, evaluate, workdir)


def _devices(config: ConfigDict, section: str) -> Devices:
    """Raises UserError if the batches of training or evaluation do not divide over them."""
    devices = Devices(config.mapping)
    devices.check_divides(f"{section}.batch_size", config[section].batch_size)
    devices.check_divides("eval.batch_size", config.eval.batch_size)
    return devices


def _key(config: ConfigDict, draw: int = 0) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.seed), draw)


def _start(model, encoder: Any, key: jax.Array, *inputs, **options) -> dict[str, Any]:
    """Initial variables of a model: those of its encoder as given, the rest drawn by ``key``.

    ``inputs`` and ``options`` are those of a call.
    """
    fresh = jax.jit(lambda: model.init(key, *inputs, **options))()
    return {kind: {**fresh[kind], **encoder[kind]} for kind in ("params", "batch_stats")}


def _whole_sequences(split: recordings.Recordings, ids: np.ndarray) -> feed.Samples:
    """Sequences from their first to their last frame, with their labels."""
    return feed.Samples(
        ids.astype(np.int32), np.zeros(len(ids), np.int32), split.length[ids], split.label[ids]
    )
