"""Pretraining with every recipe, and what its plan says."""

import dataclasses
import json
import runpy
import shutil
import time
from pathlib import Path

import chex
import jax
import pytest

from pcm3_jax import main
from pcm3_jax.config import default_config, validate
from pcm3_jax.data.feed import Sampler
from pcm3_jax.data.skeleton import STREAM_ORDER
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file, shipped_models
from pcm3_jax.inference.weights import ModelWeights, Weights
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.state import build_model, create_state
from pcm3_jax.report.contents import contents
from pcm3_jax.report.runs import read_runs
from pcm3_jax.tasks import pretrain
from pcm3_jax.tasks.pretrain import Pretrain
from pcm3_jax.train.provenance import describe
from tests.running import assert_same_run, checkpoint_steps


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_recipe_trains(path, data_dir, tmp_path):
    """Two steps of the recipe, narrower and on the embedded data."""
    config = runpy.run_path(str(path))["get_config"]()
    data, extra = "synthetic_skeletons/n64x32", len(config.data.extra)
    config.data.update(name=data, dir=str(data_dir), extra=extra * (data,))
    config.model.update(hidden=8, layers=2, decoder_hidden=8, decoder_layers=2, prompt_width=2)
    config.method.queue_size = 64
    config.optimizer.update(batch_size=32, epochs=1, decay_epochs=())
    validate(config)
    (tmp_path / "run").mkdir()
    results = Pretrain().run(config, tmp_path / "run")
    assert results["steps"] == 2 * (1 + extra)
    assert 0 <= results["knn_accuracy"] <= 1


def test_the_plan_counts_extra_data(run_config, tmp_path):
    steps = [dict(Pretrain().plan(run_config, tmp_path))["schedule"]]
    run_config.data.extra = ("synthetic_skeletons/n64x32",)
    steps.append(dict(Pretrain().plan(run_config, tmp_path))["schedule"])
    assert ["6 epochs of 4 steps" in steps[0], "6 epochs of 8 steps" in steps[1]] == [True, True]
    run_config.data.extra = ("synthetic_skeletons/absent",)
    with pytest.raises(UserError, match=r"no data set 'synthetic_skeletons/absent'"):
        Pretrain().run(run_config, tmp_path)


def test_the_network_is_counted(run_config):
    model, optimizer = build_model(run_config), build_optimizer(run_config.optimizer, 1)
    state = jax.eval_shape(lambda: create_state(model, optimizer, run_config))
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert pretrain._parameters(state.params).startswith(f"{size / 1e3:.3g} k parameters: decoder")


@pytest.mark.parametrize(
    "epochs, every, evaluations", [(6, 2, 3), (7, 2, 4), (5, 0, 1), (3, 10, 1), (10, 10, 1)]
)
def test_evaluations_are_counted(epochs, every, evaluations):
    assert pretrain._evaluations(epochs, every) == evaluations


def test_rates_are_those_after_warmup_and_each_decay():
    config = default_config()
    config.optimizer.update(warmup_epochs=10, decay_epochs=(351, 500))
    assert pretrain._rates(config.optimizer, 5) == (
        "learning rate 0.0004 from epoch 0, 0.02 from epoch 10, 0.002 from epoch 351"
    )


@pytest.fixture
def first_state(monkeypatch, tmp_path):
    """Runs a configuration up to the first step and returns the state there, on the host."""

    def make(config):
        states = []

        def train(state, *_):
            states.append(jax.device_get(state))
            return state, {}

        monkeypatch.setattr(pretrain, "train", train)
        Pretrain().run(config, tmp_path)
        return states[0]

    return make


def test_a_start_takes_the_weights_and_nothing_else(finished_run, run_config, first_state, capsys):
    random = first_state(run_config)
    run_config.encoder = str(finished_run[0])
    started = first_state(run_config)
    modules = "decoder, encoder, projector, prompts"
    assert f"starts from {finished_run[0]}: {modules}\n" in capsys.readouterr().out
    trained = model_file.load(finished_run[0]).only.tree
    chex.assert_trees_all_equal(started.params, trained["params"])
    chex.assert_trees_all_equal(started.batch_stats, trained["batch_stats"])
    # The key encoder is a copy of the query encoder, and all else is as at a random start.
    for name in ("encoder", "projector"):
        chex.assert_trees_all_equal(started.key_params[name], started.params[name])
    encoder_stats = started.batch_stats["encoder"]
    chex.assert_trees_all_equal(started.key_batch_stats, {"encoder": encoder_stats})
    names = {field.name for field in dataclasses.fields(random)}
    for name in names - {"params", "batch_stats", "key_params", "key_batch_stats"}:
        chex.assert_trees_all_equal(getattr(started, name), getattr(random, name))


def test_modules_of_other_sizes_start_from_random_weights(
    finished_run, run_config, first_state, tmp_path
):
    run_config.model.update(projection=9, decoder_hidden=9)
    random = first_state(run_config)
    run_config.encoder = str(finished_run[0])
    started, lines = first_state(run_config), main.dry_run(run_config, tmp_path)
    expected = f"{finished_run[0]}: encoder, prompts; random: decoder, projector"
    assert lines["start"] == expected
    trained = model_file.load(finished_run[0]).only.tree["params"]
    for name, source in {"encoder": trained, "projector": random.params}.items():
        chex.assert_trees_all_equal(started.params[name], source[name])
        chex.assert_trees_all_equal(started.key_params[name], source[name])
    chex.assert_trees_all_equal(started.params["decoder"], random.params["decoder"])


def test_a_shipped_model_starts_the_encoder_of_the_stream(
    finished_run, run_config, first_state, tmp_path, monkeypatch
):
    monkeypatch.setattr(shipped_models, "FOLDER", tmp_path)
    one = model_file.load(finished_run[0]).only
    encoders = {}
    for number, stream in enumerate(STREAM_ORDER):
        config = one.config.copy()
        config.views.stream = stream
        tree = {part: {"encoder": one.tree[part]["encoder"]} for part in ("params", "batch_stats")}
        encoders[stream] = Weights(config, jax.tree.map(lambda x, n=number: x + n, tree))
    model_file.save(tmp_path / "base.safetensors", ModelWeights(encoders))
    run_config.encoder, run_config.views.stream = "base", "bone"
    (tmp_path / "run").mkdir()
    validate(run_config)
    lines = main.dry_run(run_config, tmp_path / "run")
    assert lines["start"] == "base: encoder; random: decoder, projector, prompts"
    started = first_state(run_config)
    chex.assert_trees_all_equal(
        started.params["encoder"], encoders["bone"].tree["params"]["encoder"]
    )
    assert describe(run_config)["encoder"] == "base"
    run_config.task = "finetune"
    validate(run_config)
    assert main.dry_run(run_config, tmp_path / "run")["encoder"].startswith("base, ")


@pytest.mark.parametrize("start", [Pretrain().run, main.dry_run])
def test_an_encoder_of_other_settings_to_start_from_names_the_flags(
    finished_run, run_config, tmp_path, start
):
    run_config.encoder = str(finished_run[0])
    run_config.model.update(hidden=9, layers=2)
    run_config.views.stream = "motion"
    flags = "--config.model.hidden=8 --config.model.layers=1 --config.views.stream=joint"
    with pytest.raises(UserError, match=f"add {flags}"):
        start(run_config, tmp_path)


def test_a_started_run_resumes_bitwise_without_its_start(finished_run, program, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(finished_run[0], source)
    arguments = (f"--config.encoder={source}", "--config.seed=1")
    code, out, err = program.run(tmp_path / "whole", *arguments)
    assert (code, err) == (0, "")
    assert out.startswith(f"starts from {source}/checkpoints/24: ")
    killed = tmp_path / "killed"
    with program.start(killed, *arguments) as process:
        while process.poll() is None and not (killed / "checkpoints" / "4").exists():
            time.sleep(0.002)
        process.kill()
    assert checkpoint_steps(killed)[-1] < 24
    shutil.rmtree(source)
    code, out, err = program.run(killed, *arguments)
    assert (code, err) == (0, "")
    assert "starts from" not in out
    assert_same_run(tmp_path / "whole", killed)
    # What the run started from stays on record.
    found = contents(*read_runs([killed]), None)
    assert found["runs"][0]["encoder"] == f"starts from {source}"
    first, *_ = json.loads((killed / "provenance.json").read_text())
    assert first["encoder"] == str(source / "checkpoints" / "24")


def warnings(capsys, changes, sequences: int) -> list[str]:
    """What a pretraining on so many sequences is warned of."""
    config = default_config()
    config.update_from_flattened_dict(changes)
    sampler = Sampler(sequences, config.optimizer.batch_size, seed=0)
    pretrain._warn(config, sampler)
    return capsys.readouterr().err.splitlines()


def test_a_recipe_that_cannot_work_is_warned_about(capsys):
    recipe = {"optimizer.batch_size": 32, "optimizer.epochs": 26, "method.queue_size": 1024}
    assert warnings(capsys, recipe, 1434) == []
    steps, queue = warnings(capsys, recipe, 60)
    assert steps.startswith("warning: 26 optimizer steps (1 per epoch) are too few to train")
    assert queue.startswith("warning: config.method.queue_size is 1024, more than the 60 training")
    # A trained encoder is adapted in few steps; without contrast there are no negatives.
    assert warnings(capsys, recipe | {"encoder": "base"}, 60) == [queue]
    assert warnings(capsys, recipe | {"method.positives": ()}, 60) == [steps]
