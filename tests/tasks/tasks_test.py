"""The tasks on a pretrained and on a random encoder."""

import runpy
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from pcm3_jax.config import validate
from pcm3_jax.errors import UserError
from pcm3_jax.inference import convert
from pcm3_jax.runtime.files import save_arrays
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks import features, frozen, inputs, pretrain, supervised, trained
from pcm3_jax.tasks.linear_probe import top_k_accuracy
from pcm3_jax.train.checkpoint import claim_workdir
from tests.running import losses
from tfds_builders import build


def test_retrieval_finds_the_accuracy_that_pretraining_ended_with(
    finished_run, run_config, tmp_path
):
    """The same encoder, from its checkpoint."""
    workdir, (_, out, _) = finished_run
    run_config.encoder = str(workdir)
    accuracy = frozen.retrieval(run_config, tmp_path)["knn_accuracy"]
    assert f'"knn_accuracy": {accuracy}' in out.splitlines()[-1]


def test_a_random_encoder_is_another(finished_run, run_config, data_dir):
    devices = Devices(run_config.mapping)
    _, random = inputs.encoder(run_config, devices)
    run_config.encoder = str(finished_run[0])
    _, trained = inputs.encoder(run_config, devices)
    kernels = [v["params"]["encoder"]["gru"]["layer_0"]["input_kernel"] for v in (random, trained)]
    assert kernels[0].shape == kernels[1].shape
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


@pytest.mark.parametrize("kind", ["checkpoint", "export", "converted"])
def test_whatever_loads_can_be_evaluated(finished_run, run_config, tmp_path, kind):
    run = finished_run[0]
    run_config.encoder = str(run)
    expected = inputs.encoder_variables(run_config)
    if kind == "checkpoint":
        source = max((run / "checkpoints").iterdir(), key=lambda step: int(step.name))
    else:
        source = tmp_path / "model.safetensors"
        model = run
        if kind == "converted":
            convert.run(["to_torch", str(run), str(tmp_path / "model.pth.tar")])
            model = tmp_path / "model.pth.tar"
        convert.run(["export" if model is run else "from_torch", str(model), str(source)])
    run_config.encoder = str(source)
    if kind == "converted":
        # Of how long its crops were the program's checkpoint says nothing.
        with pytest.raises(UserError, match="add --config.views.frames=64"):
            inputs.encoder_variables(run_config)
        run_config.views.frames = 64
    chex.assert_trees_all_equal(inputs.encoder_variables(run_config), expected)


def test_an_encoder_of_other_sizes_names_the_flags(finished_run, run_config):
    run_config.encoder = str(finished_run[0])
    run_config.model.hidden = 9
    run_config.views.stream = "bone"
    with pytest.raises(UserError, match="add --config.model.hidden=8 --config.views.stream=joint"):
        inputs.encoder_variables(run_config)


@pytest.mark.parametrize("cached_crops", [0, 2])
def test_linear_evaluation_encodes_each_crop_once(
    finished_run, run_config, tmp_path, monkeypatch, cached_crops
):
    run_config.encoder = str(finished_run[0])
    run_config.linear.cached_crops = cached_crops
    run_config.linear.epochs = 5
    draws, tested = [], []
    random, top_k = features.Embedder.random, top_k_accuracy
    monkeypatch.setattr(
        features.Embedder, "random", lambda *args: (draws.append(args[-1]), random(*args))[1]
    )
    monkeypatch.setattr(
        frozen, "top_k_accuracy", lambda *args: (tested.append(args), top_k(*args))[1]
    )
    results = frozen.linear_eval(run_config, tmp_path)
    assert draws == ([0, 1] if cached_crops else [0, 1, 2, 3, 4])
    assert 0 <= results["top1"] <= results["top5"] <= 1
    (scores, labels, k), (_, _, other_k) = tested
    assert (k, other_k) == (1, 5)
    assert scores.shape[0] == len(labels) == 32


def test_tasks_run_on_streamed_data_alike(finished_run, run_config, tmp_path):
    run_config.encoder = str(finished_run[0])
    resident = frozen.retrieval(run_config, tmp_path)
    run_config.data.feed = "stream"
    assert frozen.retrieval(run_config, tmp_path) == resident


def test_coordinates_alone_do_better_than_chance(run_config, tmp_path):
    results = frozen.baseline(run_config, tmp_path)
    assert set(results) == {"knn_accuracy", "ridge_accuracy"}
    # 18 classes, and 64 sequences to learn them from.
    assert all(0.1 < accuracy < 0.9 for accuracy in results.values())


def briefly(config):
    """The configuration with so little training that only what is learnt at once is learnt."""
    for task in ("finetune", "detection", "motion_prediction"):
        config[task].update(epochs=2, batch_size=16, decay_epochs=(1,))
    config.finetune.update(fraction=0.5, draws=2)
    config.detection.update(frames=4, stride=4, train_every=40)
    config.motion_prediction.update(observed=8, future=3, hidden=8)
    validate(config)
    return config


def test_finetuning_draws_shares_and_continues_where_it_was(finished_run, run_config, tmp_path):
    config = briefly(run_config)
    config.encoder = str(finished_run[0])
    results = trained.finetune(config, tmp_path)
    assert results["labelled"] == 32
    assert len(results["top1_draws"]) == 2
    assert results["top1"] == pytest.approx(np.mean(results["top1_draws"]))
    assert results["top1_std"] == pytest.approx(np.std(results["top1_draws"], ddof=1))
    # From the checkpoints, without a step.
    assert trained.finetune(config, tmp_path) == results


def test_a_draw_that_is_not_finite_can_be_repeated(run_config, tmp_path):
    config = briefly(run_config)
    config.finetune.learning_rate = 1e38
    for workdir in (tmp_path, tmp_path / "failure"):
        claim_workdir(workdir, config)
        with pytest.raises(UserError, match="is not finite") as caught:
            trained.finetune(config, workdir)
        assert str(workdir / "failure") in str(caught.value)
    told = [folder / "failure" / "metrics.json" for folder in (tmp_path, tmp_path / "failure")]
    assert told[0].read_text() == told[1].read_text()


def test_occlusions_when_testing_do_not_depend_on_the_batches(run_config, tmp_path):
    config = briefly(run_config)
    config.occlusion.kind = "spatial"
    config.finetune.draws = 1
    results = []
    for batch_size in (16, 5):
        config.eval.batch_size = batch_size
        results.append(trained.finetune(config, tmp_path))
    assert results[0] == results[1]


def test_all_draws_are_trained_by_one_program(run_config, tmp_path, monkeypatch):
    def counted(*arguments):
        loss = made(*arguments)
        return lambda *inputs: (traced.append(1), loss(*inputs))[1]

    traced, made = [], supervised.classification_loss
    monkeypatch.setattr(supervised, "classification_loss", counted)
    config = briefly(run_config)
    config.finetune.draws = 3
    assert len(trained.finetune(config, tmp_path)["top1_draws"]) == 3
    assert len(traced) == 1


def test_of_several_processes_the_first_writes_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    save_arrays(tmp_path / "a.npz", x=np.zeros(2))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    for values in ([1, 2], [3]):
        save_arrays(tmp_path / "a.npz", x=np.array(values))
        with np.load(tmp_path / "a.npz") as file:
            assert file["x"].tolist() == values
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.fixture
def optimised():
    """Programs as users have them, whose rounding decides what a short training learns."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.usefixtures("optimised")
def test_finetuning_on_everything_learns(run_config, tmp_path):
    config = briefly(run_config)
    config.finetune.update(
        fraction=1.0, draws=1, epochs=40, decay_epochs=(), name="adamw", learning_rate=1e-2
    )
    results = trained.finetune(config, tmp_path)
    found = losses(tmp_path / "draw_0")
    assert found[:4].mean() > 2  # 18 classes at random: 2.9
    assert found[-4:].mean() < 0.5
    assert results["top1"] > 0.25  # one of 18 classes at random: 0.06


@pytest.mark.parametrize("task", ["finetune", "detection", "motion_prediction"])
def test_batches_that_do_not_divide_are_refused(run_config, tmp_path, monkeypatch, task):
    """Else the rows of what the devices give would no longer be the samples'."""
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    run_config[task].batch_size = 16
    with pytest.raises(UserError, match=rf"config\.{task}\.batch_size is 16, .* over 3 devices"):
        getattr(trained, task)(run_config, tmp_path)
    run_config[task].batch_size = 15
    with pytest.raises(UserError, match=r"config\.eval\.batch_size is 16, .* over 3 devices"):
        getattr(trained, task)(run_config, tmp_path)


def test_detection(finished_run, run_config, tmp_path):
    config = briefly(run_config)
    build.build("synthetic_skeletons/n4x2_untrimmed", tmp_path)
    config.data.update(name="synthetic_skeletons/n4x2_untrimmed", dir=str(tmp_path))
    config.encoder = str(finished_run[0])
    results = trained.detection(config, tmp_path / "run")
    maps = {f"map_{kind}@{o}" for kind in ("action", "video") for o in (0.1, 0.3, 0.5)}
    assert results.keys() == maps | {"frame_accuracy"}
    assert all(0 <= value <= 1 for value in results.values())
    assert results["map_action@0.1"] >= results["map_action@0.5"]


def test_tasks_refuse_the_other_kind_of_data(run_config, tmp_path):
    with pytest.raises(UserError, match="has recordings of one action, but this task needs whole"):
        trained.detection(run_config, tmp_path)
    build.build("synthetic_skeletons/n4x2_untrimmed", tmp_path)
    run_config.data.update(name="synthetic_skeletons/n4x2_untrimmed", dir=str(tmp_path))
    with pytest.raises(UserError, match="has whole videos with their actions, but this task"):
        frozen.retrieval(run_config, tmp_path)


def test_motion_prediction_is_better_than_standing_still(run_config, tmp_path):
    config = briefly(run_config)
    # Velocities say more of the next pose, to a small network in a short run.
    config.views.stream = "motion"
    config.motion_prediction.update(epochs=20, decay_epochs=(), learning_rate=1e-3)
    results = trained.motion_prediction(config, tmp_path)
    assert results["mpjpe"] < 0.995 * results["zero_velocity"]
    by_frame = [results[f"mpjpe@{i}"] for i in (1, 2, 3)]
    assert by_frame == sorted(by_frame)
    assert results["sequences"] == 32


def test_fusion_of_streams(run_config, tmp_path):
    runs = {}
    for stream in ("joint", "bone"):
        run_config.views.stream = stream
        (tmp_path / stream).mkdir()
        runs[stream] = frozen.linear_eval(run_config, tmp_path / stream)["top1"]
    run_config.fusion.update(
        runs=tuple(str(tmp_path / stream) for stream in runs), weights=(1.0, 0.0)
    )
    assert frozen.fusion(run_config, tmp_path)["top1"] == pytest.approx(runs["joint"])
    run_config.fusion.weights = (1.0, 1.0)
    scores = [np.load(tmp_path / stream / "scores.npz") for stream in runs]
    total = sum(np.exp(s["scores"]) / np.exp(s["scores"]).sum(1, keepdims=True) for s in scores)
    expected = (total.argmax(1) == scores[0]["label"]).mean()
    assert frozen.fusion(run_config, tmp_path)["top1"] == pytest.approx(expected)


def test_fusion_refuses_what_does_not_fit(run_config, tmp_path):
    run_config.fusion.update(runs=(str(tmp_path),), weights=(1.0,))
    with pytest.raises(UserError, match="no finished linear evaluation"):
        frozen.fusion(run_config, tmp_path)
    run_config.fusion.weights = (1.0, 1.0)
    with pytest.raises(UserError, match="give one weight for each"):
        frozen.fusion(run_config, tmp_path)


def test_occlusion_changes_what_is_evaluated(finished_run, run_config, tmp_path):
    run_config.encoder = str(finished_run[0])
    devices = Devices(run_config.mapping)
    train_split, _ = inputs.read_splits(run_config, devices)
    features = {}
    for kind in ("none", "spatial", "temporal"):
        run_config.occlusion.kind = kind
        embedder, variables = inputs.encoder(run_config, devices)
        features[kind] = embedder.central(variables, train_split)
    assert np.abs(features["spatial"] - features["none"]).max() > 1e-3
    assert np.abs(features["temporal"] - features["none"]).max() > 1e-3


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
    results = pretrain.pretrain(config, tmp_path / "run")
    assert results["steps"] == 2
    assert 0 <= results["knn_accuracy"] <= 1
