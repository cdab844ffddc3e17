"""Ridge regression on coordinates against scikit-learn, and the task "baseline"."""

import numpy as np
from sklearn.linear_model import RidgeClassifier

from pcm3_jax.tasks.coordinates import Coordinates, ridge_scores


def test_ridge_scores_equal_scikit_learns():
    random = np.random.default_rng(0)
    features, queries = random.normal(size=(60, 7)), random.normal(size=(9, 7))
    labels = random.integers(0, 4, 60)
    ours = ridge_scores(features, labels, queries, 4, 2.5)
    theirs = RidgeClassifier(alpha=2.5).fit(features, labels).decision_function(queries)
    # Both in double precision; the solvers differ.
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_coordinates_alone_do_better_than_chance(run_config, tmp_path):
    results = Coordinates().run(run_config, tmp_path)
    assert set(results) == {"knn_accuracy", "ridge_accuracy"}
    # 18 classes, and 64 sequences to learn them from.
    assert all(0.1 < accuracy < 0.9 for accuracy in results.values())
