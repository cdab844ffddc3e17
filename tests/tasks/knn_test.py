"""1-NN retrieval by cosine: against scikit-learn, and on a pretrained encoder."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from pcm3_jax.tasks import knn
from pcm3_jax.tasks.knn import Retrieval, knn_accuracy, nearest_neighbours


def make_features(count: int, seed: int, width: int = 16) -> np.ndarray:
    features = np.random.default_rng(seed).normal(size=(count, width))
    # Different norms, which change a scalar product but not a cosine.
    return (features * np.geomspace(0.01, 100, count)[:, None]).astype(np.float32)


@pytest.mark.parametrize(("gallery_size", "query_size"), [(1, 1), (90, 7), (33, 1024), (50, 1025)])
def test_accuracy_is_scikit_learns(gallery_size, query_size):
    rng = np.random.default_rng(gallery_size)
    gallery, queries = make_features(gallery_size, 1), make_features(query_size, 2)
    gallery_labels = rng.integers(0, 5, gallery_size)
    labels = rng.integers(0, 5, query_size)
    judge = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
    judge.fit(gallery, gallery_labels)
    assert knn_accuracy(gallery, gallery_labels, queries, labels) == judge.score(queries, labels)


def test_neighbours_are_the_largest_cosines():
    gallery, queries = make_features(40, 1), make_features(30, 2)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, gallery)]
    np.testing.assert_array_equal(
        nearest_neighbours(gallery, queries), (unit[0] @ unit[1].T).argmax(1)
    )


def test_a_sequence_finds_itself():
    features = make_features(200, 3)
    np.testing.assert_array_equal(nearest_neighbours(features, features), np.arange(200))


def test_a_zero_feature_has_zero_similarity():
    gallery = np.array([[0, 0], [1, 1], [-1, 0]], np.float32)
    assert nearest_neighbours(gallery, np.array([[2, 2.1]], np.float32)).tolist() == [1]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("block", ["_QUERIES", "_GALLERY"])
def test_blocks_and_devices_find_the_same(monkeypatch, block, backend):
    gallery, queries = make_features(40, 1), make_features(21, 2)
    gallery[30] = gallery[2]  # the first in a tie
    whole = nearest_neighbours(gallery, queries)
    monkeypatch.setattr(knn, block, 8)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    np.testing.assert_array_equal(nearest_neighbours(gallery, queries), whole)


def test_a_gallery_on_disk(tmp_path):
    gallery, queries = make_features(40, 1), make_features(21, 2)
    np.save(tmp_path / "gallery.npy", gallery)
    on_disk = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        nearest_neighbours(on_disk, queries), nearest_neighbours(gallery, queries)
    )


def test_retrieval_finds_the_accuracy_that_pretraining_ended_with(
    finished_run, run_config, tmp_path
):
    """The same encoder, from its checkpoint."""
    workdir, (_, out, _) = finished_run
    run_config.encoder = str(workdir)
    accuracy = Retrieval().run(run_config, tmp_path)["knn_accuracy"]
    assert f'"knn_accuracy": {accuracy}' in out.splitlines()[-1]


def test_data_read_from_disk_give_the_same_accuracy(finished_run, run_config, tmp_path):
    run_config.encoder = str(finished_run[0])
    resident = Retrieval().run(run_config, tmp_path)
    run_config.data.feed = "disk"
    assert Retrieval().run(run_config, tmp_path) == resident
