"""Whether axes are left-handed, which shows people mirrored: their feet point backwards."""

import numpy as np

from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS


def seems_mirrored(skeleton: np.ndarray) -> bool | None:
    """Whether the first person's feet point backwards in most frames.

    Up (along the spine) times right (from shoulder to shoulder) is forward in right-handed axes and
    backward in left-handed ones, whichever way the axes lie.

    Args:
        skeleton: (T, M, 25, 3), NaN where a joint is missing, zeros where a person is absent.

    Returns:
        None where too many joints are missing to tell.
    """
    at = dict(zip(KINECT_V2_JOINTS, skeleton[:, 0].swapaxes(0, 1), strict=True))
    up = at["spine_mid"] - at["spine_base"]
    right = at["shoulder_right"] - at["shoulder_left"]
    feet = at["foot_left"] - at["ankle_left"] + at["foot_right"] - at["ankle_right"]
    forward = (np.cross(up, right) * feet).sum(axis=-1)
    forward = forward[~np.isnan(forward) & (forward != 0)]
    return bool(np.median(np.sign(forward)) < 0) if len(forward) else None
