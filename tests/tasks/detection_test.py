"""The task detection: samples, segments of the golden vectors, and the model that it leaves."""

import numpy as np
import pytest

import pcm3_jax
from pcm3_jax import convert
from pcm3_jax.errors import UserError
from pcm3_jax.inference.detection import segments, smooth
from pcm3_jax.inference.validation import read_sequences
from pcm3_jax.main import run
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks import detection
from pcm3_jax.tasks.common import read_splits
from pcm3_jax.tasks.detection import Detection, detection_metrics, detection_samples
from pcm3_jax.tasks.mean_ap import mean_ap_action, mean_ap_video
from tests.golden_vectors import read_archive
from tfds_builders import build

GOLDEN_TOLERANCE = 1e-6
# Float32 rounding of probabilities, in batches of another size.
PROBABILITY_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden():
    """Videos of (probabilities, labels, segments), and {name: mAP}."""
    meta, arrays = read_archive("detection.xz")
    videos = []
    for v in range(meta["videos"]):
        winners, others = arrays[f"{v}/winners_prob"], arrays[f"{v}/others_prob"]
        probabilities = np.empty((winners.shape[1], len(winners) + len(others)), np.float32)
        which = np.isin(np.arange(probabilities.shape[1]), arrays[f"{v}/winners"])
        probabilities[:, which], probabilities[:, ~which] = winners.T, others.T
        videos.append((probabilities, arrays[f"{v}/labels"], arrays[f"{v}/segments"]))
    return videos, meta["means"]


def test_golden(golden):
    videos, means = golden
    found = [segments(smooth(probabilities)) for probabilities, _, _ in videos]
    for ours, (_, _, theirs) in zip(found, videos, strict=True):
        np.testing.assert_array_equal(ours[:, :3], theirs[:, :3])
        np.testing.assert_allclose(ours[:, 3], theirs[:, 3], rtol=0, atol=GOLDEN_TOLERANCE)
    truths = [labels for _, labels, _ in videos]
    measures = {"action": mean_ap_action, "video": mean_ap_video}
    assert len(means) == 4
    for name, expected in means.items():
        kind, threshold = name.removeprefix("map_").split("@")
        ours = measures[kind](found, truths, float(threshold))
        assert ours == pytest.approx(expected, rel=0, abs=GOLDEN_TOLERANCE)


def test_every_frame_has_its_window_and_class(videos):
    samples = detection_samples(videos, frames=4, stride=5)
    assert len(samples) == 110
    np.testing.assert_array_equal(samples.sequence, [0] * 70 + [1] * 40)
    # Centred on the frame, shifted inwards at both ends.
    assert samples.start[[0, 10, 30, 69]].tolist() == [0, 0, 20, 50]
    assert (samples.length == 20).all()
    expected = np.zeros(110)
    expected[10:20] = expected[108:110] = 2
    expected[70:75] = 1
    np.testing.assert_array_equal(samples.target, expected)


@pytest.mark.parametrize("offset", [0, 2])
def test_every_third_frame_of_each_video(videos, offset):
    every = detection_samples(videos, frames=4, stride=5)
    some = detection_samples(videos, frames=4, stride=5, every=3, offset=offset)
    chosen = np.concatenate([np.arange(23) * 3, 70 + np.arange(13) * 3]) + offset
    np.testing.assert_array_equal(some.target, every.target[chosen])
    np.testing.assert_array_equal(some.start, every.start[chosen])


def test_a_video_shorter_than_a_window_is_named(videos):
    with pytest.raises(UserError, match=r"video_1 of videos \(train\): a video of 40 frames"):
        detection_samples(videos, frames=16, stride=4)


@pytest.fixture
def detection_config(finished_run, brief_config, tmp_path):
    build.build("synthetic_skeletons/n4x2_untrimmed", tmp_path)
    brief_config.data.update(name="synthetic_skeletons/n4x2_untrimmed", dir=str(tmp_path))
    brief_config.update(task="detection", encoder=str(finished_run[0]))
    return brief_config


def test_detection(detection_config, tmp_path):
    results = Detection().run(detection_config, tmp_path / "run")
    maps = {f"map_{kind}@{o}" for kind in ("action", "video") for o in (0.1, 0.3, 0.5)}
    assert results.keys() == maps | {"frame_accuracy"}
    assert all(0 <= value <= 1 for value in results.values())
    assert results["map_action@0.1"] >= results["map_action@0.5"]


@pytest.mark.parametrize("stream", ["joint", "motion"])
def test_intervals_are_those_of_the_evaluation(detection_config, tmp_path, monkeypatch, stream):
    def kept(probabilities, *others):
        evaluated.append(probabilities)
        return detection_metrics(probabilities, *others)

    evaluated = []
    monkeypatch.setattr(detection, "detection_metrics", kept)
    config = detection_config
    config.detection.update(train_every=10, learning_rate=3e-2, smoothing=3, threshold=0.5)
    config.views.stream = stream
    config.encoder = ""
    results = run(config, tmp_path / "run")
    _, split = read_splits(config, Devices(config.mapping), untrimmed=True)
    frames = np.asarray(split.frames).reshape(split.length.sum(), -1, 25, 3)
    videos = np.split(frames, split.start[1:])
    model = pcm3_jax.load(tmp_path / "run")
    assert model.heads == ("detector",) and model.classes == tuple(split.classes)
    intervals = model.detect(videos, normalize=False)
    expected = np.split(evaluated[-1], split.start[1:])
    for video, found, probabilities in zip(videos, intervals, expected, strict=True):
        (sequence,) = read_sequences(video)
        ours = model._heads["detector"].probabilities(sequence)
        np.testing.assert_allclose(ours, probabilities, rtol=0, atol=PROBABILITY_TOLERANCE)
        rows = [(1 + split.classes.index(label), *rest) for label, *rest in found]
        theirs = segments(smooth(probabilities, 3), 0.5)
        assert len(theirs)
        np.testing.assert_allclose(rows, theirs, rtol=0, atol=PROBABILITY_TOLERANCE)
    found = [
        np.array([(1 + split.classes.index(label), *rest) for label, *rest in video])
        for video in intervals
    ]
    for name, measure in (("map_action", mean_ap_action), ("map_video", mean_ap_video)):
        assert measure(found, split.actions, 0.1) == pytest.approx(results[f"{name}@0.1"])
    # An exported file has the head's settings, too.
    convert.run(["export", str(tmp_path / "run"), str(tmp_path / "out.safetensors")])
    again = pcm3_jax.load(tmp_path / "out.safetensors")
    assert again.detect(videos, normalize=False) == intervals


def test_a_detector_refuses_what_it_cannot_do(detection_config, tmp_path):
    detection_config.detection.epochs = 1
    run(detection_config, tmp_path / "run")
    model = pcm3_jax.load(tmp_path / "run")
    video = np.random.default_rng(0).normal(size=(16, 1, 25, 3))
    assert len(model.detect(video)) == 1
    with pytest.raises(UserError, match="Sequence 1 has 15 frames, fewer than the 16 of this"):
        model.detect([video, video[:15]])
    with pytest.raises(UserError, match="no forecaster.*config.task='motion_prediction'"):
        model.forecast(video)
    with pytest.raises(UserError, match="no classifier.*config.task='finetune'"):
        model.classify(video)
