"""Pretraining with every recipe, and what its plan says."""

import runpy
from pathlib import Path

import jax
import pytest

from pcm3_jax.config import default_config, validate
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.state import build_model, create_state
from pcm3_jax.tasks import pretrain
from pcm3_jax.tasks.pretrain import Pretrain


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
    results = Pretrain().run(config, tmp_path / "run")
    assert results["steps"] == 2
    assert 0 <= results["knn_accuracy"] <= 1


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
