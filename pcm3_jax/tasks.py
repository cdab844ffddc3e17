"""The tasks that a configuration can name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pcm3_jax import cmd
from pcm3_jax.checkpoint import load_encoder
from pcm3_jax.data import feed, recordings
from pcm3_jax.downstream import detection as detecting
from pcm3_jax.downstream import supervised, windows
from pcm3_jax.downstream.features import Embedder, encoder_embedding, raw_embedding
from pcm3_jax.downstream.linear import ridge_scores, top_k_accuracy, train_classifier
from pcm3_jax.downstream.motion_prediction import (
    MotionPredictor,
    position_errors,
    zero_velocity,
)
from pcm3_jax.downstream.retrieval import knn_accuracy
from pcm3_jax.errors import UserError
from pcm3_jax.inference.model_file import save_classifier
from pcm3_jax.loop import Schedule, train
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.parallel import AXIS, Devices
from pcm3_jax.skeleton import COORDINATES, JOINTS, PERSONS, STREAMS, of_stream
from pcm3_jax.state import (
    TrainState,
    build_encoder,
    build_model,
    build_optimizer,
    create_state,
    init_variables,
)
from pcm3_jax.steps import pretrain_step
from pcm3_jax.tables import runner
from pcm3_jax.views.pipeline import occluded_view

Results = dict[str, Any]

_WHOLE = np.iinfo(np.int32).max
# Shapes of variables do not depend on the number of frames.
_POSE_SHAPE = (2, PERSONS, JOINTS, COORDINATES)


def read_splits(
    config: ConfigDict, devices: Devices, *, untrimmed: bool = False
) -> tuple[recordings.Recordings, recordings.Recordings]:
    """The training and the test split that a configuration names.

    Raises:
      UserError: they are not there or not as the task needs them; an action to be tested has no
        example to learn from.
    """
    data = config.data
    read = functools.partial(
        recordings.read,
        data.name,
        data.dir,
        # Whole videos are never cut.
        max_frames=_WHOLE if untrimmed else data.max_frames,
        devices=devices,
        resident=untrimmed or data.feed == "resident",
        untrimmed=untrimmed,
    )
    train_split, test_split = read(split="train"), read(split="test")
    unknown = set(test_split.label) - set(train_split.label)
    if unknown:
        names = ", ".join(train_split.classes[label] for label in sorted(unknown))
        raise UserError(
            f"{test_split.split} has actions of which {train_split.split} has no example: {names}; "
            "use splits with the same classes."
        )
    return train_split, test_split


def pretrain(config: ConfigDict, workdir: Path) -> Results:
    """Self-supervised pretraining (§3), with 1-NN accuracy on the way."""
    return _pretrain(
        config, workdir, build_model(config, AXIS), create_state, pretrain_step, lambda tree: tree
    )


def pretrain_cmd(config: ConfigDict, workdir: Path) -> Results:
    """Pretraining by `cmd`, with 1-NN accuracy of the branch ``config.views.stream``."""
    branch = functools.partial(of_stream, stream=config.views.stream)
    return _pretrain(
        config, workdir, cmd.branch_model(config, AXIS), cmd.create_state, cmd.cmd_step, branch
    )


def _pretrain(
    config: ConfigDict,
    workdir: Path,
    model: PCM3,
    create: Callable[..., TrainState],
    step_function: Callable[..., tuple[TrainState, Any]],
    evaluated: Callable[[Any], Any],
) -> Results:
    """Pretrains from ``create`` by ``step_function``, which are as in `state` and `steps`.

    ``evaluated`` takes the evaluated network's variables from the state's.
    """
    devices = Devices(config.mapping)
    train_split, test_split = read_splits(config, devices)
    optimizer_config = config.optimizer
    devices.check_divides("optimizer.batch_size", optimizer_config.batch_size)
    sampler = feed.Sampler(len(train_split), optimizer_config.batch_size, config.seed)
    optimizer = build_optimizer(config, sampler.steps_per_epoch)
    streamed = train_split.frames is None
    step = devices.map(
        functools.partial(step_function, model=model, optimizer=optimizer, config=config),
        frames_sharded=streamed,
        donate=True,
    )
    if streamed:
        batches = functools.partial(
            feed.streamed_batches,
            train_split, sampler, devices, threads=config.data.stream_threads,
        )  # fmt: skip
    else:
        batches = functools.partial(feed.resident_batches, train_split, sampler, devices)
    embedder = Embedder(encoder_embedding(model), devices, config)

    def evaluate(state) -> dict[str, float]:
        variables = evaluated({"params": state.params, "batch_stats": state.batch_stats})
        return {"knn_accuracy": _knn(embedder, variables, train_split, test_split)}

    schedule = Schedule(
        total_steps=optimizer_config.epochs * sampler.steps_per_epoch,
        steps_per_epoch=sampler.steps_per_epoch,
        batch_size=optimizer_config.batch_size,
        log_every_steps=config.log_every_steps,
        checkpoint_every_epochs=config.checkpoint.every_epochs,
        keep_checkpoints=config.checkpoint.keep,
        evaluate_every_epochs=config.eval.every_epochs,
    )
    state = devices.replicate(create(model, optimizer, config))
    state, evaluation = train(state, step, batches, evaluate, schedule, workdir)
    return {"steps": int(state.step), **evaluation}


def retrieval(config: ConfigDict, workdir: Path) -> Results:
    """1-NN accuracy of an encoder (Table 3)."""
    del workdir
    devices = Devices(config.mapping)
    embedder, variables = _encoder(config, devices)
    train_split, test_split = read_splits(config, devices)
    return {"knn_accuracy": _knn(embedder, variables, train_split, test_split)}


def linear_eval(config: ConfigDict, workdir: Path) -> Results:
    """Accuracy of a linear classifier on a frozen encoder (Table 1)."""
    devices = Devices(config.mapping)
    embedder, variables = _encoder(config, devices)
    train_split, test_split = read_splits(config, devices)
    crops = config.linear.cached_crops or config.linear.epochs
    # With cached crops every crop is encoded once; else this holds nothing worth keeping.
    cache = functools.lru_cache(maxsize=crops if config.linear.cached_crops else 1)
    features = cache(lambda crop: jnp.asarray(embedder.random(variables, train_split, crop)))
    classifier = train_classifier(
        lambda epoch: features(epoch % crops),
        train_split.label,
        len(train_split.classes),
        config.linear,
        config.seed,
    )
    save_classifier(workdir, classifier, train_split.classes)
    scores = embedder.central(variables, test_split) @ np.asarray(classifier["kernel"])
    scores += np.asarray(classifier["bias"])
    np.savez(workdir / "scores.npz", scores=scores, label=test_split.label, name=test_split.name)
    return {
        "top1": top_k_accuracy(scores, test_split.label, 1),
        "top5": top_k_accuracy(scores, test_split.label, 5),
    }


def fusion(config: ConfigDict, workdir: Path) -> Results:
    """Accuracy of a weighted sum of the scores of several linear evaluations (3s, Table 1)."""
    del workdir
    runs, weights = config.fusion.runs, config.fusion.weights
    if not runs or len(runs) != len(weights):
        raise UserError(
            f"config.fusion.runs names {len(runs)} workdirs and config.fusion.weights has "
            f"{len(weights)} numbers: give one weight for each linear evaluation."
        )
    total, label, name = 0.0, None, None
    for run, weight in zip(runs, weights, strict=True):
        path = Path(run) / "scores.npz"
        if not path.exists():
            raise UserError(f"There is no finished linear evaluation in {run}: run it first.")
        with np.load(path) as found:
            if name is not None and not np.array_equal(found["name"], name):
                raise UserError(f"{runs[0]} and {run} were not tested on the same sequences.")
            # As probabilities, since the scales of scores differ between encoders.
            total = total + weight * np.asarray(jax.nn.softmax(found["scores"]))
            label, name = found["label"], found["name"]
    return {"top1": top_k_accuracy(total, label, 1), "top5": top_k_accuracy(total, label, 5)}


def finetune(config: ConfigDict, workdir: Path) -> Results:
    """Accuracy after training encoder and classifier on a share of the labels (Table 2)."""
    devices = Devices(config.mapping)
    train_split, test_split = read_splits(config, devices)
    settings = config.finetune
    count = max(1, round(settings.fraction * len(train_split)))
    model = supervised.Classifier(build_encoder(config, AXIS), len(train_split.classes))
    views = functools.partial(occluded_view, config=config.views, occlusion=config.occlusion)
    loss = supervised.classification_loss(model, functools.partial(views, central=False))
    whole = _whole_sequences(test_split, np.arange(len(test_split)))

    def scores(variables, frames, clips):
        # The same places for every batch: without occlusion this view draws nothing.
        poses = views(
            jax.random.key(config.seed), frames, clips, jnp.arange(len(clips.start)), central=True
        )
        return model.apply(variables, poses, train=False)

    def evaluate(variables) -> dict[str, float]:
        found = supervised.predict(
            scores, variables, test_split, whole, config.eval.batch_size, devices
        )
        return {"top1": top_k_accuracy(found, test_split.label, 1)}

    accuracies = []
    for draw in range(settings.draws):
        rng = np.random.default_rng((config.seed, draw))
        chosen = np.sort(rng.permutation(len(train_split))[:count])
        samples = _whole_sequences(train_split, chosen)
        poses = jnp.zeros((1, *_POSE_SHAPE))
        start = _start(model, config, draw, poses, train=False)
        metrics = supervised.fit(
            start, loss, train_split, lambda _, s=samples: s, evaluate, settings, config, devices,
            workdir / f"draw_{draw}",
        )  # fmt: skip
        accuracies.append(metrics["top1"])
    return {
        "top1": float(np.mean(accuracies)),
        "top1_std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0,
        "top1_draws": accuracies,
        "labelled": count,
    }


def detection(config: ConfigDict, workdir: Path) -> Results:
    """Mean average precision of actions found in untrimmed videos (Table 5)."""
    devices = Devices(config.mapping)
    train_split, test_split = read_splits(config, devices, untrimmed=True)
    settings = config.detection
    window = (settings.frames, settings.stride)
    model = supervised.Classifier(build_encoder(config, AXIS), 1 + len(train_split.classes))

    def views(key, frames, clips, position):
        return STREAMS[config.views.stream](windows.take(frames, clips, *window))

    def probabilities(variables, frames, clips):
        poses = views(None, frames, clips, None)
        return jax.nn.softmax(model.apply(variables, poses, train=False))

    every_frame = windows.detection_samples(test_split, *window)

    def evaluate(variables) -> dict[str, float]:
        found = supervised.predict(
            probabilities, variables, test_split, every_frame, config.eval.batch_size, devices
        )
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

    poses = jnp.zeros((1, *_POSE_SHAPE))
    return supervised.fit(
        _start(model, config, 0, poses, train=False),
        supervised.classification_loss(model, views),
        train_split, draw, evaluate, settings, config, devices, workdir,
    )  # fmt: skip


def motion_prediction(config: ConfigDict, workdir: Path) -> Results:
    """Error of predicted poses in millimetres (Table 6), beside that of standing still."""
    devices = Devices(config.mapping)
    train_split, test_split = read_splits(config, devices)
    settings = config.motion_prediction
    observed, span = settings.observed, settings.observed + settings.future
    model = MotionPredictor(build_encoder(config, AXIS), settings.hidden)

    def inputs(frames, clips):
        """What is observed, as the encoder reads it, the last pose, and the poses that follow."""
        poses = windows.take(frames, clips, span)
        seen, future = poses[:, :observed], poses[:, observed:]
        return STREAMS[config.views.stream](seen), seen[:, -1], future

    def loss(params, batch_stats, frames, batch, key):
        seen, last, future = inputs(frames, batch[0])
        prediction, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            seen, last, settings.future, train=True, mutable=["batch_stats"],
        )  # fmt: skip
        total, count = position_errors(prediction, future)
        return total.sum() / jnp.maximum(count.sum(), 1), updated["batch_stats"]

    def errors(variables, frames, clips):
        seen, last, future = inputs(frames, clips)
        prediction = model.apply(variables, seen, last, settings.future, train=False)
        still = zero_velocity(last[:, None], settings.future)
        total, count = position_errors(prediction, future)
        return jnp.stack([total, position_errors(still, future)[0], count], axis=1)

    tested = windows.prediction_samples(test_split, span)

    def evaluate(variables) -> dict[str, Any]:
        found = supervised.predict(
            errors, variables, test_split, tested, config.eval.batch_size, devices
        )
        predicted, still, count = found.sum(0, dtype=np.float64)
        metrics = {"sequences": len(tested)}
        for name, total in (("mpjpe", predicted), ("zero_velocity", still)):
            metrics[name] = float(total.sum() / count.sum())
            metrics |= {f"{name}@{i + 1}": float(e) for i, e in enumerate(total / count)}
        return metrics

    def draw(epoch: int):
        rng = np.random.default_rng((config.seed, epoch, 1))
        return windows.prediction_samples(train_split, span, rng)

    poses = jnp.zeros((1, *_POSE_SHAPE))
    start = _start(model, config, 0, poses, poses[:, 0], settings.future, train=False)
    return supervised.fit(
        start, loss, train_split, draw, evaluate, settings, config, devices, workdir
    )


def baseline(config: ConfigDict, workdir: Path) -> Results:
    """Accuracy of coordinates alone, whole sequences resampled to a few frames."""
    del workdir
    devices = Devices(config.mapping)
    train_split, test_split = read_splits(config, devices)
    views = {"frames": config.baseline.frames, "stream": "joint", "eval_crop_ratio": 1.0}
    embedder = Embedder(raw_embedding, devices, ConfigDict(config.to_dict() | {"views": views}))
    train_features = embedder.central({}, train_split)
    test_features = embedder.central({}, test_split)
    scores = ridge_scores(
        train_features, train_split.label, test_features, len(train_split.classes),
        config.baseline.ridge_penalty,
    )  # fmt: skip
    return {
        "knn_accuracy": knn_accuracy(
            train_features, train_split.label, test_features, test_split.label
        ),
        "ridge_accuracy": top_k_accuracy(scores, test_split.label, 1),
    }


TASKS = {
    "pretrain": pretrain,
    "cmd": pretrain_cmd,
    "retrieval": retrieval,
    "linear_eval": linear_eval,
    "fusion": fusion,
    "finetune": finetune,
    "detection": detection,
    "motion_prediction": motion_prediction,
    "baseline": baseline,
    "table": runner.table,
}


def _encoder(config: ConfigDict, devices: Devices) -> tuple[Embedder, Any]:
    """The encoder to evaluate: of the run ``config.encoder``, or random where that is ""."""
    model = build_model(config)
    return Embedder(encoder_embedding(model), devices, config), _encoder_variables(config)


def _encoder_variables(config: ConfigDict) -> Any:
    def random_encoder() -> Any:
        params, batch_stats = init_variables(build_model(config), jax.random.key(config.seed))
        return {
            "params": {"encoder": params["encoder"]},
            "batch_stats": {"encoder": batch_stats["encoder"]},
        }

    if config.encoder:
        template = jax.eval_shape(random_encoder)
        return load_encoder(Path(config.encoder), config, template)
    return random_encoder()


def _start(model, config: ConfigDict, draw: int, *inputs, **options) -> dict[str, Any]:
    """Initial variables of a model with an encoder: the configuration's encoder, the rest random.

    ``inputs`` and ``options`` are those of a call.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), draw)
    fresh = jax.jit(lambda: model.clone().init(key, *inputs, **options))()
    encoder = _encoder_variables(config)
    return {kind: {**fresh[kind], **encoder[kind]} for kind in ("params", "batch_stats")}


def _whole_sequences(split: recordings.Recordings, ids: np.ndarray) -> feed.Samples:
    """Sequences from their first to their last frame, with their labels."""
    return feed.Samples(
        ids.astype(np.int32), np.zeros(len(ids), np.int32), split.length[ids], split.label[ids]
    )


def _knn(
    embedder: Embedder,
    variables: Any,
    train_split: recordings.Recordings,
    test_split: recordings.Recordings,
) -> float:
    return knn_accuracy(
        embedder.central(variables, train_split),
        train_split.label,
        embedder.central(variables, test_split),
        test_split.label,
    )
