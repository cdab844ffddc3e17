"""Whitening: decorrelated features, in files, online, and in the exported program."""

import dataclasses

import jax
import numpy as np
import pytest

from pcm3_jax import convert as command
from pcm3_jax.data.normalization import normalize_sequence
from pcm3_jax.errors import UserError
from pcm3_jax.inference import convert, model_file, torch_layout
from pcm3_jax.inference import model as library
from pcm3_jax.inference.weights import ModelWeights
from pcm3_jax.inference.whitening import fit_whitening, of_unit_length
from tests import golden_vectors
from tests.inference.model_test import walk

LAYERS, POOLING = (1, 3), ("last", "mean", "max")


@pytest.fixture(scope="module")
def plain():
    """The golden network with pooled features."""
    tensors = golden_vectors.load_step("cutmix").init
    weights = torch_layout.weights_from_torch(tensors, "motion", "golden").only
    config = weights.config.copy()
    config.eval.update(layers=LAYERS, pooling=POOLING)
    return ModelWeights.of(dataclasses.replace(weights, config=config))


@pytest.fixture(scope="module")
def model(plain, data_dir):
    return convert.whitened(plain, "synthetic_skeletons/n64x32", str(data_dir))


def test_strong_directions_become_equal_and_weak_ones_stay_weak():
    rng = np.random.default_rng(0)
    spread = np.array([10.0, 5.0, 2.0, 1e-4])
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    features = (rng.normal(size=(4000, 4)) * spread) @ rotation.T + 7
    (mean,), (matrix,) = fit_whitening(features, 1)
    white = (features - mean) @ matrix
    found = np.linalg.svd(white - white.mean(0), compute_uv=False) / np.sqrt(len(white))
    np.testing.assert_allclose(found[:3] / found[0], [1, 1, 1], atol=0.15)
    assert found[3] < 0.01 * found[0]
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-3 * found[0])


def test_fewer_samples_than_features_give_a_full_matrix():
    features = np.random.default_rng(0).normal(size=(5, 8))
    assert np.linalg.matrix_rank(fit_whitening(features, 1).matrix[0]) == 8


def test_parts_are_whitened_by_themselves():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 12)) * np.repeat([1, 5, 9], 4)
    whitening = fit_whitening(features, 3)
    parts = [fit_whitening(part, 1)(part) for part in np.split(features, 3, axis=1)]
    np.testing.assert_allclose(whitening(features), np.concatenate(parts, axis=1), atol=1e-6)


def test_features_are_pooled_and_whitened(plain, model):
    skeletons = walk(50)
    before = library.Model(plain).embed(skeletons)
    parts = before.reshape(1, len(POOLING) * len(LAYERS), -1)
    np.testing.assert_allclose(np.linalg.norm(parts, axis=-1), 1, atol=1e-5)
    after = library.Model(model).embed(skeletons)
    assert after.shape == before.shape == (1, model.features)
    whitening = library.Model(model).encoders["motion"].whitening
    np.testing.assert_allclose(after, whitening(before), atol=1e-5)


def test_a_whitened_model_survives_its_file(model, tmp_path):
    path = tmp_path / "model.safetensors"
    model_file.save(path, model)
    skeletons = walk(50)
    again = library.Model(model_file.load(path)).embed(skeletons)
    np.testing.assert_array_equal(again, library.Model(model).embed(skeletons))


def test_joined_models_keep_their_whitening(model):
    joined = convert.join([model, model])
    features = library.Model(joined).embed(walk(50)).reshape(2, -1)
    alone = of_unit_length(library.Model(model).embed(walk(50)))
    # Parameters of joined models are rounded to float16.
    np.testing.assert_allclose(features, np.repeat(alone, 2, axis=0), atol=0.02)


def test_online_features_are_those_of_every_prefix(model):
    whole = library.Model(model)
    frames = normalize_sequence(walk(12))
    online = whole.online(window=0, normalize=False)
    for time in range(12):
        expected = whole.embed(frames[: time + 1], normalize=False, resample=False)[0]
        np.testing.assert_allclose(online.push(frames[time]), expected, atol=1e-4)


def test_the_exported_program_whitens(model):
    frames = model.only.config.views.frames
    skeletons = np.stack([normalize_sequence(walk(frames, seed=seed)) for seed in range(3)])
    program = jax.export.deserialize(convert.stablehlo(model))
    config = model.only.config.copy()
    config.views.eval_crop_ratio = 1.0
    whole = ModelWeights.of(dataclasses.replace(model.only, config=config))
    expected = library.Model(whole).embed(skeletons, normalize=False)
    np.testing.assert_allclose(program.call(skeletons), expected, atol=1e-4)


def test_data_that_is_normalised_otherwise_is_refused(plain, data_dir):
    with pytest.raises(UserError, match=r"recorded is not normalised as"):
        convert.whitened(plain, "synthetic_skeletons/n64x32_recorded", str(data_dir))


def test_the_command_whitens(plain, data_dir, tmp_path, capsys):
    source, out = tmp_path / "plain.safetensors", tmp_path / "white.safetensors"
    model_file.save(source, plain)
    flags = ["--whiten=synthetic_skeletons/n64x32", f"--data_dir={data_dir}"]
    command.run(["export", str(source), str(out), *flags])
    capsys.readouterr()
    made = model_file.load(out)
    assert "whitening" in made.only.tree
    assert made.provenance["motion"]["whitening"] == "synthetic_skeletons/n64x32"
    assert "decoder" not in made.only.tree["params"]
