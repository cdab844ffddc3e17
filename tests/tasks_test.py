"""The tasks on a pretrained and on a random encoder."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from pcm3_jax import tasks
from pcm3_jax.config import validate
from pcm3_jax.downstream.linear import top_k_accuracy
from pcm3_jax.parallel import Devices


def test_retrieval_finds_the_accuracy_that_pretraining_ended_with(
    finished_run, run_config, tmp_path
):
    """The same encoder, from its checkpoint."""
    workdir, (_, out, _) = finished_run
    run_config.encoder = str(workdir)
    accuracy = tasks.retrieval(run_config, tmp_path)["knn_accuracy"]
    assert f'"knn_accuracy": {accuracy}' in out.splitlines()[-1]


def test_a_random_encoder_is_another(finished_run, run_config, data_dir):
    devices = Devices(run_config.mapping)
    _, random = tasks._encoder(run_config, devices)
    run_config.encoder = str(finished_run[0])
    _, trained = tasks._encoder(run_config, devices)
    kernels = [v["params"]["encoder"]["gru"]["layer_0"]["input_kernel"] for v in (random, trained)]
    assert kernels[0].shape == kernels[1].shape
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


@pytest.mark.parametrize("cached_crops", [0, 2])
def test_linear_evaluation_encodes_each_crop_once(
    finished_run, run_config, tmp_path, monkeypatch, cached_crops
):
    run_config.encoder = str(finished_run[0])
    run_config.linear.cached_crops = cached_crops
    run_config.linear.epochs = 5
    draws, tested = [], []
    random, top_k = tasks.Embedder.random, top_k_accuracy
    monkeypatch.setattr(
        tasks.Embedder, "random", lambda *args: (draws.append(args[-1]), random(*args))[1]
    )
    monkeypatch.setattr(
        tasks, "top_k_accuracy", lambda *args: (tested.append(args), top_k(*args))[1]
    )
    results = tasks.linear_eval(run_config, tmp_path)
    assert draws == ([0, 1] if cached_crops else [0, 1, 2, 3, 4])
    assert 0 <= results["top1"] <= results["top5"] <= 1
    (scores, labels, k), (_, _, other_k) = tested
    assert (k, other_k) == (1, 5)
    assert scores.shape[0] == len(labels) == 32


def test_tasks_run_on_streamed_data_alike(finished_run, run_config, tmp_path):
    run_config.encoder = str(finished_run[0])
    resident = tasks.retrieval(run_config, tmp_path)
    run_config.data.feed = "stream"
    assert tasks.retrieval(run_config, tmp_path) == resident


def test_coordinates_alone_do_better_than_chance(run_config, tmp_path):
    results = tasks.baseline(run_config, tmp_path)
    assert set(results) == {"knn_accuracy", "ridge_accuracy"}
    # 18 classes, and 64 sequences to learn them from.
    assert all(0.1 < accuracy < 0.9 for accuracy in results.values())


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_recipe_trains(path, data_dir, tmp_path):
    """Two steps of the recipe, narrower and on the embedded data."""
    config = runpy.run_path(str(path))["get_config"]()
    config.data.update(name="synthetic_skeletons/n64x32", dir=str(data_dir))
    config.model.update(hidden=8, layers=1, decoder_hidden=8, decoder_layers=1, prompt_width=2)
    config.method.queue_size = 64
    config.optimizer.update(batch_size=32, epochs=1, decay_epochs=())
    validate(config)
    (tmp_path / "run").mkdir()
    results = tasks.pretrain(config, tmp_path / "run")
    assert results["steps"] == 2
    assert 0 <= results["knn_accuracy"] <= 1
