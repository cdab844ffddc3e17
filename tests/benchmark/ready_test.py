"""The measurement of the shipped encoders, on small data and with small models."""

import re

import numpy as np
import pytest

from pcm3_jax.benchmark import ready
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file, shipped_models
from pcm3_jax.inference.shipped_models import Shipped

DATA = "synthetic_skeletons/n64x32"


@pytest.fixture
def small(monkeypatch, tmp_path, finished_run):
    """One shipped model, of the small run, and one data set."""
    run, _ = finished_run
    model_file.save(tmp_path / "small.safetensors", model_file.load(run))
    models = {
        name: Shipped("small.safetensors", "small", stream)
        for name, stream in (("base", None), ("base-motion", None))
    }
    monkeypatch.setattr(shipped_models, "FOLDER", tmp_path)
    monkeypatch.setattr(shipped_models, "MODELS", models)
    monkeypatch.setattr(ready, "SETS", {"generated": DATA})
    monkeypatch.setattr(ready, "IRDS", DATA)


def test_frozen_features_are_measured(small, data_dir, capsys):
    ready.run([f"--data_dir={data_dir}", "--frozen"])
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head == "| data | features | 1-NN | linear | fit | 5 a class |"
    assert rule.count("---") == 6
    assert [row.split(" | ")[1] for row in rows] == ["raw coordinates", "base", "base-motion"]
    for row in rows:
        assert re.fullmatch(r"\| generated \| [\w -]+ \|( \d+\.\d \|){4}", row)
    assert rows[1].split(" | ")[2:] == rows[2].split(" | ")[2:]


def test_trainings_start_from_the_encoder_or_from_random_weights(
    small, data_dir, tmp_path, monkeypatch
):
    changes = {"finetune.fraction": 0.5, "finetune.epochs": 1, "views.stream": "joint"}
    monkeypatch.setattr(ready, "trainings", lambda: [("finetune", "top1", "%", changes)])
    monkeypatch.setattr(ready, "SEEDS", (0, 1))
    rows = list(ready.trained_rows(str(data_dir), tmp_path / "runs"))
    assert [row[1] for row in rows] == ["random weights", "base"]
    assert all(re.fullmatch(r"\d+\.\d % \(± \d+\.\d\)", row[2]) for row in rows)
    assert len(list((tmp_path / "runs").iterdir())) == 4


def test_shares_of_the_labels_are_fitted_with_frozen_encoders(small, data_dir, monkeypatch):
    monkeypatch.setattr(ready, "FRACTIONS", (0.5, 1.0))
    half, whole = ready.fraction_rows(str(data_dir))
    assert half[:2] == ("fit, fraction=0.5", "base, frozen")
    assert re.fullmatch(r"\d+\.\d % \(± \d+\.\d\)", half[2])
    assert whole[2].endswith("(± 0.0)")  # the same recordings in every draw


def test_every_trained_row_has_a_configuration(data_dir):
    for task, _, _, changes in ready.trainings():
        config = ready.training_config(task, "base", changes, 1, str(data_dir))
        assert (config.task, config.encoder, config.data.extra) == (task, "base", ())


def test_accuracies_of_separable_and_of_random_features():
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(4), 20)
    performer = np.arange(len(label)) % 5
    splits = {part: ready.Split([], label, performer) for part in ("train", "test")}
    told = {part: np.eye(4)[label] + 0.01 * rng.normal(size=(80, 4)) for part in splits}
    assert set(ready.frozen(told, splits).values()) == {1.0}
    blind = {part: rng.normal(size=(80, 4)) for part in splits}
    assert max(ready.frozen(blind, splits).values()) < 0.5


def test_raw_coordinates_are_resampled_to_even_times():
    ramp = np.arange(32, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 25, 3), np.float32)
    features = ready.raw_coordinates([ramp, ramp[:16]]).reshape(2, 16, 150)
    np.testing.assert_allclose(features[0, :, 0], np.arange(16) * 2 + 0.5)
    np.testing.assert_allclose(features[1, :, 0], np.arange(16))


def test_data_that_is_not_built_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="There is no data set 'intellirehabds/cross_subject'"):
        ready.run([f"--data_dir={tmp_path}"])
