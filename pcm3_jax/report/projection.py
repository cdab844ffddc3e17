"""Features on a plane: t-SNE where scikit-learn is there, else principal components."""

from __future__ import annotations

import numpy as np

_COMPONENTS = 50
_PERPLEXITY = 30


def plane(features: np.ndarray, seed: int = 0) -> tuple[np.ndarray, str]:
    """Lays features (S, F) out on a plane by their cosine similarity.

    Returns:
      (S, 2), each axis within [0, 1], and the name of the method.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    components = principal_components(features / np.maximum(lengths, 1e-12), _COMPONENTS)
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        TSNE = None
    # With fewer points there are no neighbourhoods to keep.
    if TSNE is None or len(features) < 10:
        places, method = components[:, :2], "PCA"
    else:
        perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        # Its threads wait for each other in every one of a thousand short steps.
        with threadpool_limits(1):
            places, method = tsne.fit_transform(components), "t-SNE"
    span = np.ptp(places, axis=0)
    return (places - places.min(0)) / np.where(span > 0, span, 1), method


def principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """The first components of features (S, F), (S, max(2, at most count))."""
    centred = features - features.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    components = (left * values)[:, :count]
    return np.pad(components, ((0, 0), (0, max(0, 2 - components.shape[1]))))
