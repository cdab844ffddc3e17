"""What is shown of a recording whose frames arrive one by one."""

import numpy as np
import pytest

from pcm3_jax.errors import UserError
from pcm3_jax.inference import model as library
from pcm3_jax.inference import torch_layout
from pcm3_jax.inference.online import OnlineWindow
from pcm3_jax.inference.weights import ModelWeights
from tests import golden_vectors


def told(frames, threshold=0.6, hold=2, every=1, length=3):
    """What is shown after each frame, whose number of metres is the probability of "wave"."""
    seen = []

    def embed(poses, visible):
        seen.append(poses.shape[:2])
        values = poses[:, 0, 0, 0]
        return values[values > 0][-1:] if poses.any() else None

    def labels(feature):
        return sorted([("wave", feature[0]), ("jump", 1 - feature[0])], key=lambda pair: -pair[1])

    online = OnlineWindow(embed, length, every, labels, threshold, hold, None)
    shown = []
    for value in frames:
        online.push(np.full((1, 25, 3), value))
        shown.append(online.label)
    return shown, seen, online


def test_a_label_is_shown_once_it_has_held_above_the_threshold():
    shown, _, _ = told([0.9, 0.1, 0.9, 0.9, 0.5, 0.9, 0.1, 0.1, 0.5, 0.5])
    wave, jump = "wave", "jump"
    assert shown == [None, None, None, wave, wave, wave, wave, jump, jump, None]


def test_a_shown_label_stays_until_it_is_half_as_probable():
    shown, *_ = told([0.6, 0.6, 0.9, 0.9, 0.6, 0.6, 0.6], threshold=0.8)
    assert shown == [None, None, None, "wave", "wave", "wave", "wave"]


def test_nobody_is_no_label():
    shown, _, online = told([0.9, 0.9, 0, 0, 0, 0, 0])
    # The window holds three frames, and nothing must have held twice.
    assert shown == [None, "wave", "wave", "wave", "wave", None, None]
    assert online.labels == [] and online.feature is None


def test_the_last_frames_are_encoded_every_few_frames():
    _, seen, online = told(np.linspace(0.1, 0.9, 8), every=3, length=4)
    assert seen == [(1, 1), (4, 1), (4, 1)] and not online.fresh
    online.push(np.zeros((2, 25, 3)))
    online.push(np.ones((1, 25, 3)))
    assert seen[-1] == (4, 2) and online.fresh
    online.reset()
    online.push(np.ones((25, 3)))
    assert seen[-1] == (1, 1) and online.frames == 1


@pytest.fixture(scope="module")
def model():
    tensors = golden_vectors.load_step("cutmix").init
    return library.Model(
        ModelWeights.of(torch_layout.weights_from_torch(tensors, "joint", "golden").only)
    )


@pytest.mark.parametrize(
    "wrong", [{"rate": 0}, {"every": 0}, {"hold": 0}, {"window": -1.0}, {"window": float("nan")}]
)
def test_numbers_out_of_range_are_refused(model, wrong):
    ((name, _),) = wrong.items()
    with pytest.raises(UserError, match=f"{name} is .*; it must be"):
        model.online(**wrong)


def test_encoders_trained_at_the_recordings_pace_encode_each_frame_once(model):
    (encoder,) = model.encoders.values()
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(6, 1, 25, 3)) + [0, 0, 3]
    assert isinstance(model.online(), OnlineWindow)
    encoder.config.views.resize = False
    try:
        online = model.online()
        assert not isinstance(online, OnlineWindow)
        # Persons keep the places in which they were first seen.
        second = np.concatenate([np.zeros_like(frames), frames], axis=1)
        other = model.online()
        for one, two in zip(frames, second, strict=True):
            np.testing.assert_array_equal(online.push(one), other.push(two))
        assert isinstance(model.online(window=2.0), OnlineWindow)
    finally:
        encoder.config.views.resize = True


def test_built_data_whose_spine_is_the_origin_are_seen(model):
    """Also where they are normalised once more."""
    rng = np.random.default_rng(0)
    frames = 0.3 * rng.normal(size=(6, 1, 25, 3))
    frames[:, 0, 1] = 0
    for window in (0, 1.0):
        online = model.online(window=window, every=1)
        for time, frame in enumerate(frames):
            feature = online.push(frame)
            assert feature is not None
            if window:
                np.testing.assert_allclose(feature, model.embed(frames[: time + 1])[0], atol=1e-5)
