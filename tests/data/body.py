"""A body for tests, in the joints of any layout."""

import numpy as np

from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS, LAYOUTS

# Somebody in Kinect v2's axes (x to the sensor's left, y up, z away) who looks at the sensor. Right
# joints have x of the other sign.
MIDDLE = {
    "spine_base": (0, 0, 2.5), "spine_mid": (0, 0.25, 2.5), "spine_shoulder": (0, 0.48, 2.5),
    "neck": (0, 0.55, 2.5), "head": (0, 0.7, 2.48),
}  # fmt: skip
LEFT = {
    "shoulder": (-0.18, 0.45, 2.5), "elbow": (-0.22, 0.18, 2.48), "wrist": (-0.2, 0.05, 2.27),
    "hand": (-0.2, 0.04, 2.2), "hand_tip": (-0.2, 0.03, 2.12), "thumb": (-0.16, 0.06, 2.18),
    "hip": (-0.09, -0.02, 2.5), "knee": (-0.1, -0.42, 2.47), "ankle": (-0.1, -0.82, 2.52),
    "foot": (-0.11, -0.87, 2.4),
}  # fmt: skip


def person(frames=20, seed=0):
    """(T, 1, 25, 3): the arms swing, and the sensor's noise is a centimetre."""
    at = {name: np.tile(place, (frames, 1)) for name, place in MIDDLE.items()}
    time = np.linspace(0, 6, frames)
    for side, sign in (("left", 1), ("right", -1)):
        for name, place in LEFT.items():
            at[f"{name}_{side}"] = np.tile(np.multiply(place, (sign, 1, 1)), (frames, 1))
        swing = 0.1 * np.sin(time + sign)
        for name in ("wrist", "hand", "hand_tip", "thumb"):
            at[f"{name}_{side}"][:, 0] += swing
    body = np.stack([at[name] for name in KINECT_V2_JOINTS], axis=1)[:, None]
    noise = 0.01 * np.random.default_rng(seed).normal(size=body.shape)
    return (body + noise).astype(np.float32)


def in_order_of(layout, body):
    """The body (T, M, 25, 3) as (T, M, J, 3); joints that Kinect v2 lacks are beside its hips."""
    names = LAYOUTS[layout].joints
    found = np.tile(body[:, :, :1] + 0.1, (1, 1, len(names), 1))
    for target, sources in LAYOUTS[layout].sources.items():
        if len(sources) == 1:
            found[:, :, names.index(sources[0])] = body[:, :, KINECT_V2_JOINTS.index(target)]
    return found
