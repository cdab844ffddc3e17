"""The tasks that a configuration can name."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from pcm3_jax.checkpoint import load_encoder
from pcm3_jax.data import feed, recordings
from pcm3_jax.downstream.features import Embedder, encoder_embedding, raw_embedding
from pcm3_jax.downstream.linear import ridge_scores, top_k_accuracy, train_classifier
from pcm3_jax.downstream.retrieval import knn_accuracy
from pcm3_jax.loop import Schedule, train
from pcm3_jax.parallel import AXIS, Devices
from pcm3_jax.state import build_model, build_optimizer, create_state, init_variables
from pcm3_jax.steps import pretrain_step

Results = dict[str, Any]


def read_splits(
    config: ConfigDict, devices: Devices
) -> tuple[recordings.Recordings, recordings.Recordings]:
    """The training and the test split that a configuration names."""
    data = config.data
    read = functools.partial(
        recordings.read,
        data.name,
        data.dir,
        max_frames=data.max_frames,
        devices=devices,
        resident=data.feed == "resident",
    )
    return read(split="train"), read(split="test")


def pretrain(config: ConfigDict, workdir: Path) -> Results:
    """Self-supervised pretraining (§3), with 1-NN accuracy on the way."""
    devices = Devices(config.mapping)
    train_split, test_split = read_splits(config, devices)
    optimizer_config = config.optimizer
    devices.check_divides("optimizer.batch_size", optimizer_config.batch_size)
    sampler = feed.Sampler(len(train_split), optimizer_config.batch_size, config.seed)
    model = build_model(config, AXIS)
    optimizer = build_optimizer(config, sampler.steps_per_epoch)
    streamed = train_split.frames is None
    step = devices.map(
        functools.partial(pretrain_step, model=model, optimizer=optimizer, config=config),
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
        variables = {"params": state.params, "batch_stats": state.batch_stats}
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
    state = devices.replicate(create_state(model, optimizer, config))
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
    del workdir
    devices = Devices(config.mapping)
    embedder, variables = _encoder(config, devices)
    train_split, test_split = read_splits(config, devices)
    crops = config.linear.cached_crops or config.linear.epochs
    # With cached crops every crop is encoded once; else this holds nothing worth keeping.
    cache = functools.lru_cache(maxsize=crops if config.linear.cached_crops else 1)
    features = cache(lambda crop: embedder.random(variables, train_split, crop))
    classifier = train_classifier(
        lambda epoch: features(epoch % crops),
        train_split.label,
        len(train_split.classes),
        config.linear,
        config.seed,
    )
    scores = embedder.central(variables, test_split) @ np.asarray(classifier["kernel"])
    scores += np.asarray(classifier["bias"])
    return {
        "top1": top_k_accuracy(scores, test_split.label, 1),
        "top5": top_k_accuracy(scores, test_split.label, 5),
    }


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
    "retrieval": retrieval,
    "linear_eval": linear_eval,
    "baseline": baseline,
}


def _encoder(config: ConfigDict, devices: Devices) -> tuple[Embedder, Any]:
    """The encoder to evaluate: of the run ``config.encoder``, or random where that is ""."""
    model = build_model(config)

    def random_encoder() -> Any:
        params, batch_stats = init_variables(model, jax.random.key(config.seed))
        return {
            "params": {"encoder": params["encoder"]},
            "batch_stats": {"encoder": batch_stats["encoder"]},
        }

    if config.encoder:
        template = jax.eval_shape(random_encoder)
        variables = load_encoder(Path(config.encoder), config, template)
    else:
        variables = random_encoder()
    return Embedder(encoder_embedding(model), devices, config), variables


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
