"""A configuration of short trainings, and videos to find windows in."""

import jax
import numpy as np
import pytest

from pcm3_jax.config import validate
from pcm3_jax.data.recordings import Recordings


@pytest.fixture
def brief_config(run_config):
    """A configuration with very short trainings."""
    config = run_config
    for section in (config.finetune, config.detection, config.motion_prediction):
        section.update(epochs=2, batch_size=16, decay_epochs=(1,))
    config.finetune.update(fraction=0.5, draws=2)
    config.detection.update(frames=4, stride=4, train_every=40)
    config.motion_prediction.update(observed=8, future=3, hidden=8)
    validate(config)
    return config


@pytest.fixture
def optimised():
    """Compiles with XLA's usual optimisations, whose rounding affects what a short run learns."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def videos():
    """Two untrimmed videos, of 70 and 40 frames; in the n-th frame all coordinates are n."""
    lengths = np.array([70, 40], np.int32)
    return Recordings(
        split="videos (train)",
        length=lengths,
        label=np.full(2, -1, np.int32),
        name=["video_0", "video_1"],
        classes=["a", "b"],
        max_frames=1000,
        # Of one person.
        frames=np.repeat(np.arange(110, dtype=np.float32)[:, None], 75, axis=1),
        start=np.cumsum(lengths, dtype=np.int32) - lengths,
        source=None,
        actions=[np.array([[1, 10, 20]]), np.array([[0, 0, 5], [1, 38, 40]])],
    )
