"""The classifier of a recogniser: what is held out, its threshold, and suspicious labels."""

import numpy as np
import pytest

from pcm3_jax.errors import UserError
from pcm3_jax.inference import recogniser

NAMES = np.array(["bow", "jump", "sit down", "wave"])


def examples(count=6, classes=4, features=40, spread=0.3, seed=0):
    """Features around one centre a class, their labels, and performers who do every action."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), count)
    centres = rng.normal(size=(classes, features))
    found = centres[labels] + spread * rng.normal(size=(len(labels), features))
    return found.astype(np.float32), NAMES[labels], np.tile(np.arange(count), classes)


def probabilities(fitted, features):
    scores = features @ fitted.kernel + fitted.bias
    odds = np.exp(scores - scores.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 4])
def test_separable_classes_are_told_apart(classes):
    features, labels, performers = examples(classes=classes)
    fitted = recogniser.fit(features, labels, performers)
    assert fitted.classes == tuple(NAMES[:classes]) and fitted.by_performer
    assert fitted.kernel.shape == (40, classes) and fitted.kernel.dtype == np.float32
    assert fitted.accuracy == 1 and fitted.validated.all()
    others, true, _ = examples(classes=classes, spread=0.4)
    assert (NAMES[probabilities(fitted, others).argmax(1)] == true).all()
    np.testing.assert_array_equal(fitted.confusions, 6 * np.eye(classes, dtype=int))


def test_scale_and_offset_of_features_do_not_matter():
    features, labels, performers = examples(spread=1.0)
    plain = recogniser.fit(features, labels, performers)
    scaled = recogniser.fit(features * 7 + 3, labels, performers)
    assert plain.strength == scaled.strength
    np.testing.assert_allclose(plain.held_out, scaled.held_out, atol=1e-2)


def test_probabilities_are_held_out():
    """Labels without any relation to the features are not learned by heart."""
    features, labels, performers = examples(count=30, spread=1.0)
    shuffled = np.random.default_rng(1).permutation(labels)
    fitted = recogniser.fit(features, shuffled, performers)
    assert fitted.accuracy < 0.5
    np.testing.assert_allclose(fitted.held_out.sum(1), 1)


def test_performers_are_held_out_whole():
    """Performers who are recognised by themselves do not help to recognise their actions."""
    rng = np.random.default_rng(0)
    performers = np.repeat(np.arange(6), 4)
    # Every recording of a performer is alike, and half of them do each action.
    features = (10 * rng.normal(size=(6, 40)))[performers] + 0.1 * rng.normal(size=(24, 40))
    labels = np.where(performers % 2, "wave", "bow")
    by_performer = recogniser.fit(features, labels, performers)
    by_recording = recogniser.fit(features, labels)
    assert by_performer.by_performer and not by_recording.by_performer
    assert by_recording.accuracy == 1 and by_performer.accuracy < 0.8


def test_one_performer_an_action_cannot_be_held_out():
    features, labels, _ = examples()
    assert not recogniser.fit(features, labels, labels).by_performer
    assert not recogniser.fit(features, labels, np.zeros(len(labels))).by_performer


def test_a_class_that_cannot_be_held_out_is_fitted_and_not_validated():
    features, labels, performers = examples()
    kept = np.r_[0:18, 18:19]  # one recording of the last class
    for who in (None, performers[kept]):
        fitted = recogniser.fit(features[kept], labels[kept], who)
        assert fitted.validated.tolist() == [True] * 18 + [False]
        assert fitted.accuracy == 1
        assert probabilities(fitted, features[18:24]).argmax(1).tolist() == [3] * 6


def test_the_threshold_misses_few_and_rejects_noise():
    features, labels, performers = examples(count=40, spread=0.8)
    fitted = recogniser.fit(features, labels, performers)
    right = fitted.held_out.argmax(1) == fitted.labels
    below = fitted.held_out.max(1)[right] < fitted.threshold
    assert below.mean() == pytest.approx(0.05, abs=0.01)
    middle = features.mean(0, keepdims=True)
    assert probabilities(fitted, middle).max() < fitted.threshold


def test_swapped_labels_are_suspicious():
    features, labels, performers = examples(count=10)
    assert recogniser.suspects(features, recogniser.fit(features, labels, performers)) == []
    labels[[3, 25]] = "wave", "bow"
    fitted = recogniser.fit(features, labels, performers)
    found = recogniser.suspects(features, fitted, performers)
    assert {index for index, _ in found} == {3, 25}
    assert {(str(labels[near]), performers[near] != performers[i]) for i, near in found} == {
        ("bow", True), ("sit down", True),
    }  # fmt: skip


@pytest.mark.parametrize(
    "labels, performers, sentence",
    [
        (["a"] * 4, None, "All recordings have the label 'a'"),
        (["a", "b", "c", "d"], None, "one recording of each label"),
        (["a", "a", "b"], None, "3 labels for 4 recordings"),
        (["a", "a", "b", "b"], [1], "1 performers for 4 recordings"),
    ],
)
def test_what_cannot_be_fitted(labels, performers, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        recogniser.fit(np.eye(4, dtype=np.float32), labels, performers)
    assert "\n" not in str(error.value)


def test_equal_features_do_no_harm():
    fitted = recogniser.fit(np.ones((6, 5), np.float32), ["a", "b"] * 3)
    assert np.isfinite(fitted.kernel).all() and np.isfinite(fitted.bias).all()
