"""Finetuning on shares of the labels."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import pcm3_jax
from pcm3_jax import convert
from pcm3_jax.errors import UserError
from pcm3_jax.inference.model_file import MODEL_FILE
from pcm3_jax.main import run
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks import finetune
from pcm3_jax.tasks.common import encoder_variables, read_splits
from pcm3_jax.tasks.finetune import Finetune
from pcm3_jax.train.workdir import claim_workdir
from tests.running import losses


def test_finetuning_draws_subsets_and_resumes(finished_run, brief_config, tmp_path):
    brief_config.encoder = str(finished_run[0])
    results = Finetune().run(brief_config, tmp_path)
    assert results["labelled"] == 32
    assert len(results["top1_draws"]) == 2
    assert results["top1"] == pytest.approx(np.mean(results["top1_draws"]))
    assert results["top1_std"] == pytest.approx(np.std(results["top1_draws"], ddof=1))
    # From the checkpoints, without a step.
    kept = load_file(tmp_path / MODEL_FILE)
    assert Finetune().run(brief_config, tmp_path) == results
    again = load_file(tmp_path / MODEL_FILE)
    assert kept.keys() == again.keys()
    assert all(np.array_equal(kept[name], again[name]) for name in kept)


def test_a_draw_that_is_not_finite_can_be_repeated(brief_config, tmp_path):
    brief_config.finetune.learning_rate = 1e38
    for workdir in (tmp_path, tmp_path / "failure"):
        claim_workdir(workdir, brief_config)
        with pytest.raises(UserError, match="is not finite") as caught:
            Finetune().run(brief_config, workdir)
        assert str(workdir / "failure") in str(caught.value)
    told = [folder / "failure" / "metrics.json" for folder in (tmp_path, tmp_path / "failure")]
    assert told[0].read_text() == told[1].read_text()


def test_occlusions_when_testing_do_not_depend_on_the_batches(brief_config, tmp_path):
    brief_config.occlusion.kind = "spatial"
    brief_config.finetune.draws = 1
    results = []
    for batch_size in (16, 5):
        brief_config.eval.batch_size = batch_size
        results.append(Finetune().run(brief_config, tmp_path))
    assert results[0] == results[1]


def test_all_draws_are_trained_by_one_program(brief_config, tmp_path, monkeypatch):
    def counted(*arguments):
        loss = made(*arguments)
        return lambda *inputs: (traced.append(1), loss(*inputs))[1]

    traced, made = [], finetune.classification_loss
    monkeypatch.setattr(finetune, "classification_loss", counted)
    brief_config.finetune.draws = 3
    assert len(Finetune().run(brief_config, tmp_path)["top1_draws"]) == 3
    assert len(traced) == 1


@pytest.mark.usefixtures("optimised")
def test_finetuning_on_everything_learns(brief_config, tmp_path):
    brief_config.finetune.update(
        fraction=1.0, draws=1, epochs=40, decay_epochs=(), name="adamw", learning_rate=1e-2
    )
    results = Finetune().run(brief_config, tmp_path)
    found = losses(tmp_path / "draw_0")
    assert found[:4].mean() > 2  # 18 classes at random: 2.9
    assert found[-4:].mean() < 0.5
    assert results["top1"] > 0.25  # one of 18 classes at random: 0.06


def sequences_of(config):
    """The test split, and its sequences."""
    _, split = read_splits(config, Devices(config.mapping))
    frames = np.asarray(split.frames).reshape(split.length.sum(), -1, 25, 3)
    return split, np.split(frames, split.start[1:])


def accuracy(labels, split):
    right = [found[0][0] == split.classes[true]
             for found, true in zip(labels, split.label, strict=True)]  # fmt: skip
    return np.mean(right)


def test_the_model_of_the_first_draw_is_kept(brief_config, tmp_path):
    brief_config.update(task="finetune")
    brief_config.finetune.update(epochs=8, learning_rate=3e-2)
    results = run(brief_config, tmp_path / "run")
    assert results["top1_draws"][0] != results["top1_draws"][1]
    split, sequences = sequences_of(brief_config)
    model = pcm3_jax.load(tmp_path / "run")
    assert model.heads == ("classifier",) and model.classes == tuple(split.classes)
    labels = model.classify(sequences, k=1, normalize=False)
    assert accuracy(labels, split) == pytest.approx(results["top1_draws"][0])
    exported = tmp_path / "out.safetensors"
    convert.run(["export", str(tmp_path / "run"), str(exported)])
    assert pcm3_jax.load(exported).classify(sequences, k=1, normalize=False) == labels
    # Its encoder is one to evaluate, without the classifier.
    brief_config.encoder = str(tmp_path / "run")
    encoder = encoder_variables(brief_config)
    assert encoder["params"].keys() == {"encoder"}
    brief_config.update(task="linear_eval")
    run(brief_config, tmp_path / "probe")
    again = pcm3_jax.load(tmp_path / "probe")
    np.testing.assert_array_equal(again.embed(sequences), model.embed(sequences))
    assert again.classify(sequences[0]) != model.classify(sequences[0])


def test_the_model_has_neither_pooling_nor_whitening(whitened_model, brief_config, tmp_path):
    """Its classifier was trained on the last state of the encoder."""
    brief_config.update(task="finetune", encoder=str(whitened_model))
    brief_config.eval.update(layers=(1,), pooling=("last", "mean", "max"))
    brief_config.finetune.update(draws=1, epochs=8, learning_rate=3e-2)
    results = run(brief_config, tmp_path / "run")
    split, sequences = sequences_of(brief_config)
    model = pcm3_jax.load(tmp_path / "run")
    assert model.features == 2 * brief_config.model.hidden
    labels = model.classify(sequences, k=1, normalize=False)
    assert accuracy(labels, split) == pytest.approx(results["top1"])
    assert brief_config.eval.pooling == ("last", "mean", "max")


def test_an_unfinished_run_leaves_no_model(brief_config, tmp_path):
    brief_config.update(task="finetune")
    run(brief_config, tmp_path)
    (tmp_path / MODEL_FILE).unlink()
    with pytest.raises(UserError, match="of task 'finetune', has not saved a model"):
        pcm3_jax.load(tmp_path)
