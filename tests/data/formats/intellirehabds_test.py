"""IntelliRehabDS's files; the builder's tests cover the flaws."""

import numpy as np

from pcm3_jax.data.formats.intellirehabds import bridge_lost_joints


def test_lost_joints_are_bridged_and_unseen_ones_stay():
    time = np.arange(1.0, 7.0)[:, None, None]
    skeleton = (time * np.ones((6, 25, 3))).astype(np.float32)
    expected = skeleton.copy()
    skeleton[2:4, 1] = 0.0
    skeleton[0, 5] = 0.0
    expected[0, 5] = 2.0  # held from its first known frame
    skeleton[:, 24] = expected[:, 24] = 0.0
    skeleton[5] = expected[5] = 0.0
    np.testing.assert_allclose(bridge_lost_joints(skeleton), expected, atol=1e-6)
