"""An articulated body with the joints of NTU RGB+D, and the errors of a depth sensor.

Body and camera frames are right-handed: x to the person's right, y up, z backwards (a person who
faces the camera looks along -z; the camera's axes are those of Kinect v2).  Metres and radians.
"""

from collections.abc import Mapping, Sequence

import numpy as np

X, Y, Z = range(3)
JOINTS = 25
# Node 25 is a second joint at the hip centre that bends the trunk and leaves the legs alone.
LUMBAR = 25
# node: (parent, offset from the parent in metres for a body 1.75 m tall, arms hanging, limb)
BODY = {
    0: (-1, (0.0, 0.0, 0.0), "trunk"),
    LUMBAR: (0, (0.0, 0.0, 0.0), "trunk"),
    1: (LUMBAR, (0.0, 0.29, 0.0), "trunk"),
    20: (1, (0.0, 0.24, 0.0), "trunk"),
    2: (20, (0.0, 0.08, 0.0), "trunk"),
    3: (2, (0.0, 0.14, -0.02), "trunk"),
    4: (20, (-0.17, -0.05, 0.0), "width"),
    5: (4, (-0.02, -0.27, 0.0), "arm"),
    6: (5, (0.0, -0.25, 0.0), "arm"),
    7: (6, (0.0, -0.07, 0.0), "arm"),
    21: (7, (0.0, -0.08, 0.0), "arm"),
    22: (7, (0.02, -0.03, -0.04), "arm"),
    8: (20, (0.17, -0.05, 0.0), "width"),
    9: (8, (0.02, -0.27, 0.0), "arm"),
    10: (9, (0.0, -0.25, 0.0), "arm"),
    11: (10, (0.0, -0.07, 0.0), "arm"),
    23: (11, (0.0, -0.08, 0.0), "arm"),
    24: (11, (-0.02, -0.03, -0.04), "arm"),
    12: (0, (-0.08, -0.04, 0.0), "width"),
    13: (12, (-0.01, -0.41, 0.0), "leg"),
    14: (13, (0.0, -0.39, 0.0), "leg"),
    15: (14, (0.0, -0.07, -0.12), "leg"),
    16: (0, (0.08, -0.04, 0.0), "width"),
    17: (16, (0.01, -0.41, 0.0), "leg"),
    18: (17, (0.0, -0.39, 0.0), "leg"),
    19: (18, (0.0, -0.07, -0.12), "leg"),
}
OFFSETS = np.array([BODY[node][1] for node in range(len(BODY))])
LIMBS = ("trunk", "width", "arm", "leg")
LIMB_OF_NODE = np.array([LIMBS.index(BODY[node][2]) for node in range(len(BODY))])

# Joints that a depth sensor loses together; it rarely loses the trunk.
LOSSES = ([6, 7, 21, 22], [10, 11, 23, 24], [21, 22], [23, 24], [14, 15], [18, 19], [15], [19],
           [5, 6, 7, 21, 22], [9, 10, 11, 23, 24], [3])  # fmt: skip
_JOINT_NOISE = np.ones(25)  # relative: hands and feet jitter most
_JOINT_NOISE[[6, 10, 14, 18]] = 1.5
_JOINT_NOISE[[7, 11, 15, 19, 21, 22, 23, 24]] = 2.2

Rotations = Mapping[str, Sequence[tuple[int, int, float]]]

# channel: the rotations it drives, as (node, axis, share). Left and right are mirror images: a
# positive angle is the same anatomical movement on either side.
ROTATIONS: Rotations = {
    "l_flex": ((4, X, 1.0),),  # raise the arm forwards
    "l_abduct": ((4, Z, -1.0),),  # raise it sideways
    "l_twist": ((4, Y, -1.0),),  # turn it inwards about its own axis
    "l_elbow": ((5, X, 1.0),),
    "l_wrist": ((6, X, 1.0),),
    "l_hip": ((12, X, 1.0),),  # raise the thigh forwards
    "l_spread": ((12, Z, -1.0),),
    "l_knee": ((13, X, -1.0),),
    "r_flex": ((8, X, 1.0),),
    "r_abduct": ((8, Z, 1.0),),
    "r_twist": ((8, Y, 1.0),),
    "r_elbow": ((9, X, 1.0),),
    "r_wrist": ((10, X, 1.0),),
    "r_hip": ((16, X, 1.0),),
    "r_spread": ((16, Z, 1.0),),
    "r_knee": ((17, X, -1.0),),
    "bend": ((LUMBAR, X, -0.7), (1, X, -0.3)),  # trunk forwards
    "lean": ((LUMBAR, Z, -0.6), (1, Z, -0.4)),  # trunk to the right
    "turn": ((LUMBAR, Y, -0.5), (1, Y, -0.5)),  # trunk to the right, feet standing
    "nod": ((2, X, -1.0),),
    "yaw": ((0, Y, -1.0),),  # whole body to the right
}

TRANSLATIONS = ("sideways", "lift", "forward")
# Channels whose sign changes in a mirror.
ANTISYMMETRIC = ("lean", "turn", "yaw", "roll", "look", "tilt", "sideways")


class Rig:
    """What moves a body: named channels that rotate its nodes, and three translations.

    Attributes:
        channels: names of the rotations, then `TRANSLATIONS`.
    """

    def __init__(self, rotations: Rotations, ground: Sequence[int]) -> None:
        """Channels that each rotate some nodes.

        Args:
            rotations: for every channel the rotations it drives, as (node, axis, share).
            ground: the joints that may touch the ground; the lowest of them does.
        """
        self.channels = (*rotations, *TRANSLATIONS)
        self._ground = list(ground)
        # (channels, nodes, 3): angles about each node's axes per channel.
        self._map = np.zeros((len(self.channels), len(BODY), 3))
        for channel, drives in enumerate(rotations.values()):
            for node, axis, share in drives:
                self._map[channel, node, axis] = share
        partner = {"l_": "r_", "r_": "l_"}
        self._mirror = [
            self.channels.index(partner.get(name[:2], name[:2]) + name[2:])
            for name in self.channels
        ]
        self._sign = np.where(np.isin(self.channels, ANTISYMMETRIC), -1.0, 1.0)
        self._turning = np.any(self._map, axis=(0, 2))

    def mirrored(self, channels: np.ndarray, *, signed: bool = True) -> np.ndarray:
        """Left and right exchanged (..., channels); amounts without a direction are not signed."""
        mirrored: np.ndarray = (channels * self._sign if signed else channels)[..., self._mirror]
        return mirrored

    def joints(self, channels: np.ndarray, bones: np.ndarray) -> np.ndarray:
        """Forward kinematics: joint positions (frames, 25, 3), metres.

        The lowest ground joint is `lift` above y = 0.

        Args:
            channels: (frames, channels) radians, the last three metres.
            bones: (frames, nodes, 3) offset of every node from its parent, metres.
        """
        turns = self._map.reshape(len(self.channels), -1).astype(channels.dtype)
        angles = (channels @ turns).reshape(-1, len(BODY), 3)
        rotation, position = {}, {}
        for node, (parent, _, _) in BODY.items():
            if parent < 0:
                rotation[node] = euler(angles[:, node])
                position[node] = np.zeros((len(channels), 3), channels.dtype)
                continue
            position[node] = position[parent] + np.einsum(
                "fij,fj->fi", rotation[parent], bones[:, node]
            )
            rotation[node] = rotation[parent]
            if self._turning[node]:
                rotation[node] = rotation[parent] @ euler(angles[:, node])
        joints = np.stack([position[node] for node in range(JOINTS)], axis=1)

        sideways, lift, forward = channels[:, -3:].T
        ground = joints[:, self._ground, Y].min(axis=1)
        joints += np.stack([sideways, lift - ground, -forward], axis=1)[:, None]
        return joints


def euler(angles: np.ndarray) -> np.ndarray:
    """(n, 3, 3) = Rx Rz Ry of (n, 3) angles: twist about the bone, spread it, then raise it."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles).T, np.sin(angles).T
    matrices = np.empty((len(angles), 3, 3), angles.dtype)
    matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 0, 2] = cz * cy, -sz, cz * sy
    matrices[:, 1, 0] = cx * sz * cy + sx * sy
    matrices[:, 1, 1] = cx * cz
    matrices[:, 1, 2] = cx * sz * sy - sx * cy
    matrices[:, 2, 0] = sx * sz * cy - cx * sy
    matrices[:, 2, 1] = sx * cz
    matrices[:, 2, 2] = sx * sz * sy + cx * cy
    return matrices


def sensor_noise(
    rng: np.random.Generator, shape: tuple[int, ...], clip_of_frame: np.ndarray
) -> np.ndarray:
    """White noise plus noise correlated over about a quarter of a second, metres."""
    frames = shape[0]
    spacing = 8
    knots = rng.standard_normal((frames // spacing + 2, *shape[1:]), dtype=np.float32)
    at, weight = np.divmod(np.arange(frames), spacing)
    weight = (weight / spacing).astype(np.float32)[:, None, None, None]
    wander = knots[at] * (1 - weight) + knots[at + 1] * weight
    white = rng.standard_normal(shape, dtype=np.float32)
    level = rng.uniform(0.5, 1.5, clip_of_frame[-1] + 1)[clip_of_frame]
    scale = level[:, None, None, None] * _JOINT_NOISE[:, None]
    return scale * (0.012 * wander + 0.004 * white)


def lose_joints(rng: np.random.Generator, clip: np.ndarray) -> None:
    """Sets joints to zero, in place, for runs of frames, in about half of the clips."""
    for _ in range(rng.poisson(0.8)):
        joints = LOSSES[rng.integers(len(LOSSES))]
        start = rng.integers(len(clip))
        clip[start : start + rng.integers(3, 25), rng.integers(2), joints] = 0.0


def smooth_step(x: np.ndarray) -> np.ndarray:
    """From 0 for x <= 0 to 1 for x >= 1, with zero slope at both."""
    x = x.clip(0.0, 1.0)
    return x * x * (3 - 2 * x)
