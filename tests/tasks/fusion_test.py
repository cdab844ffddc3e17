"""Fusion of the class probabilities of several linear evaluations."""

import numpy as np
import pytest

from pcm3_jax.errors import UserError
from pcm3_jax.tasks.fusion import Fusion
from pcm3_jax.tasks.linear_probe import LinearProbe


def test_fusion_of_streams(run_config, tmp_path):
    runs = {}
    for stream in ("joint", "bone"):
        run_config.views.stream = stream
        (tmp_path / stream).mkdir()
        runs[stream] = LinearProbe().run(run_config, tmp_path / stream)["top1"]
    run_config.fusion.update(
        runs=tuple(str(tmp_path / stream) for stream in runs), weights=(1.0, 0.0)
    )
    assert Fusion().run(run_config, tmp_path)["top1"] == pytest.approx(runs["joint"])
    run_config.fusion.weights = (1.0, 1.0)
    scores = [np.load(tmp_path / stream / "scores.npz") for stream in runs]
    total = sum(np.exp(s["scores"]) / np.exp(s["scores"]).sum(1, keepdims=True) for s in scores)
    expected = (total.argmax(1) == scores[0]["label"]).mean()
    assert Fusion().run(run_config, tmp_path)["top1"] == pytest.approx(expected)


def test_fusion_refuses_what_does_not_fit(run_config, tmp_path):
    run_config.fusion.update(runs=(str(tmp_path),), weights=(1.0,))
    with pytest.raises(UserError, match="no finished linear evaluation"):
        Fusion().run(run_config, tmp_path)
    run_config.fusion.weights = (1.0, 1.0)
    with pytest.raises(UserError, match="give one weight for each"):
        Fusion().run(run_config, tmp_path)
