"""The vocabulary of generated movement: channels of a body, postures, key poses, swings and gaits.

All of it is written right-handed; `RIG.mirrored` gives the other side.  In names, {right} and
{left} stand for the sides.  Radians, metres for translations; axes as in `body`.
"""

import functools

import numpy as np

from tfds_builders.synthetic_skeletons.body import OFFSETS, ROTATIONS, Rig, X, Y, Z

RIG = Rig(
    {
        **ROTATIONS,
        "l_turnout": ((12, Y, -1.0),),
        "r_turnout": ((16, Y, 1.0),),
        "pitch": ((0, X, 1.0),),  # whole body backwards
        "roll": ((0, Z, -1.0),),  # whole body to the right
        "look": ((2, Y, -1.0),),  # head to the right
        "tilt": ((2, Z, -1.0),),
    },
    ground=range(25),
)
CHANNELS = RIG.channels
AT = {name: index for index, name in enumerate(CHANNELS)}
LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG, TRUNK, HEAD, ROOT = range(7)
_LIMB = {"flex": 0, "abduct": 0, "twist": 0, "elbow": 0, "wrist": 0,
         "hip": 2, "spread": 2, "knee": 2, "turnout": 2}  # fmt: skip
_OTHERS = {"bend": TRUNK, "lean": TRUNK, "turn": TRUNK, "nod": HEAD, "look": HEAD, "tilt": HEAD}
# (channels,) the limb that each channel belongs to.
LIMB = np.array(
    [
        _LIMB[name[2:]] + (name[0] == "r") if name[2:] in _LIMB else _OTHERS.get(name, ROOT)
        for name in CHANNELS
    ]
)


def columns(name: str) -> list[int]:
    """Columns of a channel, or of both sides' if the name has no side."""
    return [AT[name]] if name in AT else [AT[f"l_{name}"], AT[f"r_{name}"]]


def vector(**amounts: float) -> np.ndarray:
    """(channels,) of amounts by name; a name without a side sets both sides."""
    made = np.zeros(len(CHANNELS))
    for name, amount in amounts.items():
        made[columns(name)] = amount
    return made


def limbs_of(channels: np.ndarray) -> np.ndarray:
    """(channels,) booleans: all channels of the limbs in which any of (..., channels) is used."""
    used = np.reshape(channels != 0, (-1, len(CHANNELS))).any(axis=0)
    return np.isin(LIMB, LIMB[used])


POSTURES = {
    "standing": vector(),
    "sitting": vector(hip=1.45, knee=1.5, spread=0.1),
    "on the floor": vector(hip=1.5, knee=0.3, spread=0.15),
    "kneeling": vector(hip=0.15, knee=1.65),
    "on one knee": vector(l_hip=0.1, l_knee=1.6, r_hip=1.4, r_knee=1.5),
    "crouching": vector(hip=1.8, knee=2.2, bend=0.6),
    "leaning forward": vector(bend=0.9, hip=0.25, knee=0.3),
    "lying on the back": vector(pitch=1.5),
    "lying on the side": vector(roll=1.5, hip=0.4, knee=0.6),
    "on all fours": vector(pitch=-1.2, hip=1.3, knee=1.5, flex=1.4),
}
# Arm poses.
DIRECTIONS = {
    "forward": vector(r_flex=1.5),
    "sideways": vector(r_abduct=1.5),
    "up": vector(r_flex=2.9),
    "up sideways": vector(r_abduct=2.3),
    "forward up": vector(r_flex=2.2),
    "forward down": vector(r_flex=0.8),
    "across": vector(r_flex=1.4, r_abduct=-0.6),
    "across up": vector(r_flex=2.1, r_abduct=-0.5),
    "across down": vector(r_flex=0.6, r_abduct=-0.5),
    "back": vector(r_flex=-0.8),
    "diagonal": vector(r_flex=1.2, r_abduct=0.9),
    "bent": vector(r_elbow=1.9),
    "bent up": vector(r_flex=1.4, r_elbow=1.8, r_abduct=0.5),
    "bent sideways": vector(r_abduct=1.4, r_elbow=1.5, r_twist=-1.0),
    "scarecrow": vector(r_abduct=1.5, r_elbow=1.5, r_twist=0.3),
    "bent forward": vector(r_flex=0.7, r_elbow=1.0),
    "bent inwards": vector(r_flex=0.6, r_elbow=1.4, r_twist=0.9),
}
# Wind-up and strike.
STRIKES = {
    "overarm throw": (
        vector(r_abduct=1.5, r_flex=0.9, r_elbow=1.8, turn=0.6, bend=-0.15, l_flex=0.6),
        vector(r_flex=1.5, r_elbow=0.3, turn=-0.5, bend=0.4, l_hip=0.4, l_knee=0.3),
    ),
    "underarm throw": (
        vector(r_flex=-0.9, r_elbow=0.2, turn=0.3, bend=0.3),
        vector(r_flex=1.5, r_elbow=0.3, turn=-0.2, l_hip=0.3),
    ),
    "sidearm swing": (
        vector(r_abduct=1.2, r_flex=0.2, turn=0.8, l_flex=0.8, l_abduct=-0.5),
        vector(r_flex=1.3, r_abduct=-0.6, r_elbow=0.6, turn=-0.8),
    ),
    "backhand swing": (
        vector(r_flex=1.2, r_abduct=-0.7, r_elbow=1.2, turn=-0.7),
        vector(r_abduct=1.4, r_flex=0.5, turn=0.5),
    ),
    "punch": (
        vector(r_flex=0.3, r_elbow=1.9, l_flex=0.6, l_elbow=1.8, turn=0.2),
        vector(r_flex=1.5, r_elbow=0.15, l_flex=0.5, l_elbow=1.8, turn=-0.5, bend=0.1),
    ),
    "uppercut": (
        vector(r_flex=-0.3, r_elbow=1.5, bend=0.3),
        vector(r_flex=1.9, r_elbow=1.7, turn=-0.4),
    ),
    "chop": (
        vector(flex=2.6, elbow=1.0, twist=0.4, bend=-0.2),
        vector(flex=0.7, elbow=0.3, twist=0.3, bend=0.6),
    ),
    "swing of a bat": (
        vector(r_flex=1.3, r_abduct=0.4, r_elbow=1.5, l_flex=1.4, l_abduct=-0.6, l_elbow=0.5,
                turn=0.7, twist=0.4),
        vector(r_flex=1.4, r_abduct=-0.5, r_elbow=0.4, l_flex=1.3, l_abduct=0.5, l_elbow=0.6,
                turn=-0.9, twist=0.3),
    ),
    "shot of a ball": (
        vector(flex=1.4, elbow=2.0, hip=0.4, knee=0.7, bend=0.2, twist=0.4),
        vector(flex=2.5, elbow=0.3, lift=0.15, twist=0.2),
    ),
    "push": (
        vector(flex=0.5, elbow=1.9),
        vector(flex=1.5, elbow=0.15, bend=0.3, r_hip=-0.2, l_hip=0.4, l_knee=0.5),
    ),
    "pull": (
        vector(flex=1.5, elbow=0.2, bend=0.3),
        vector(flex=-0.1, elbow=1.7, bend=-0.2),
    ),
    "bowling": (
        vector(r_flex=-1.0, bend=0.5, l_hip=0.5, l_knee=0.6),
        vector(r_flex=1.6, bend=0.7, l_hip=1.0, l_knee=1.1, r_hip=-0.3, r_knee=0.6),
    ),
    "bow and arrow": (
        vector(r_abduct=1.5, l_flex=1.0, l_abduct=-0.8, l_elbow=0.4, look=1.0),
        vector(r_abduct=1.5, l_abduct=1.4, l_elbow=2.2, l_twist=0.9, look=1.0),
    ),
    "tennis serve": (
        vector(l_flex=2.6, r_abduct=1.2, r_flex=0.6, r_elbow=1.9, bend=-0.25),
        vector(r_flex=2.4, r_elbow=0.2, bend=0.4, turn=-0.5, l_flex=0.3),
    ),
}  # fmt: skip
LEGS = {
    "kick forward": (
        vector(r_hip=-0.5, r_knee=1.2, r_flex=0.3, l_flex=-0.3),
        vector(r_hip=1.2, r_knee=0.1, l_flex=0.6, r_flex=-0.4, bend=-0.2),
    ),
    "low kick": (vector(r_hip=-0.4, r_knee=0.9), vector(r_hip=0.7, r_knee=0.05)),
    "kick sideways": (vector(r_hip=0.8, r_knee=1.5), vector(r_spread=1.1, lean=-0.4)),
    "kick backwards": (vector(r_hip=0.5, r_knee=0.9), vector(r_hip=-0.7, bend=0.5, r_knee=0.3)),
    "kick across": (
        vector(r_spread=0.6, r_hip=-0.2, r_knee=0.8),
        vector(r_hip=0.9, r_spread=-0.4, turn=0.4),
    ),
    "raise the knee": (vector(r_hip=1.6, r_knee=1.7),),
    "raise the knee sideways": (vector(r_hip=1.2, r_knee=1.8, r_turnout=-0.9, r_spread=0.5),),
    "raise the leg": (vector(r_hip=1.2, r_knee=0.1),),
    "leg sideways": (vector(r_spread=0.7, lean=-0.1),),
    "leg back": (vector(r_hip=-0.5),),
    "heel up": (vector(r_hip=-0.1, r_knee=1.9),),
    "tap sideways": (vector(r_spread=0.45, r_hip=0.1),),
    "step forward": (vector(r_hip=0.6, r_knee=0.4, l_hip=-0.25, forward=0.25),),
    "step sideways": (vector(r_spread=0.4, sideways=0.2), vector(sideways=0.35)),
    "lunge": (vector(r_hip=1.3, r_knee=1.4, l_hip=-0.5, l_knee=0.8, forward=0.3),),
    "side lunge": (vector(r_hip=0.9, r_knee=1.3, r_spread=0.5, l_spread=0.6, lean=0.2),),
    "balance": (vector(r_hip=-0.9, bend=0.9, l_abduct=1.4, r_abduct=1.4),),
}
TRUNKS = {
    "bow": (vector(bend=1.0, nod=0.3),),
    "deep bow": (vector(bend=1.5, flex=1.2, hip=0.2),),
    "lean back": (vector(bend=-0.5, knee=0.2, hip=0.1),),
    "lean": (vector(lean=0.55),),
    "lean, arm up": (vector(lean=0.5, l_abduct=2.7),),
    "twist": (vector(turn=0.9),),
    "twist, arms out": (vector(turn=0.9, abduct=1.4),),
    "turn": (vector(yaw=1.57, r_hip=0.2),),
    "turn around": (vector(yaw=1.57, r_hip=0.2), vector(yaw=3.1, l_hip=0.2)),
    "squat": (vector(hip=1.5, knee=1.9, bend=0.5, flex=0.9),),
    "half squat": (vector(hip=0.8, knee=1.0, bend=0.3),),
    "jump": (vector(hip=0.8, knee=1.2, bend=0.4, flex=-0.4), vector(lift=0.3, flex=1.2)),
    "jump, arms up": (vector(hip=0.7, knee=1.1, bend=0.3), vector(lift=0.3, flex=2.8)),
    "jump forward": (
        vector(hip=0.8, knee=1.1, bend=0.5, flex=-0.6),
        vector(lift=0.25, forward=0.5, flex=1.3, hip=0.4),
        vector(forward=0.9, hip=0.5, knee=0.8),
    ),
    "star": (vector(abduct=2.4, spread=0.5, lift=0.05),),
    "sit-up": (vector(bend=1.0, hip=0.6),),
    "push-up": (vector(elbow=1.3),),
    "nod": (vector(nod=0.5),),
    "look up": (vector(nod=-0.6),),
    "look aside": (vector(look=1.1),),
    "tilt the head": (vector(tilt=0.5),),
    "shrug": (vector(abduct=0.45, elbow=0.9, twist=-0.5),),
}
# The posture of trunk movements that are not only for standing.
POSTURE_OF_TRUNK = {
    "bow": "any", "nod": "any", "look up": "any", "look aside": "any", "tilt the head": "any",
    "shrug": "any", "sit-up": "lying on the back", "push-up": "on all fours",
}  # fmt: skip
# Resting poses.
RESTS = (
    vector(), vector(), vector(flex=0.1, elbow=0.3),
    vector(flex=0.3, elbow=1.4, twist=0.6),
    vector(r_abduct=0.8, r_elbow=1.7, r_twist=0.9, lean=0.08),
    vector(flex=-0.4, elbow=0.4),
    vector(abduct=0.7, elbow=1.7, twist=0.9),
    vector(r_hip=0.25, r_knee=0.4, r_spread=0.15, lean=-0.06),
    vector(spread=0.2, abduct=0.2),
    vector(l_flex=0.5, l_elbow=1.6, l_twist=0.5),
)  # fmt: skip
# Swings about a key pose: amplitude and phase, in turns, of each channel.
ARM_SWINGS = {
    "wave": {"r_elbow": (0.45, 0.0), "r_twist": (0.3, 0.1)},
    "shake": {"r_flex": (0.2, 0.0), "r_elbow": (0.3, 0.5)},
    "stir": {"r_twist": (0.4, 0.0), "r_elbow": (0.3, 0.25)},
    "circle": {"r_flex": (0.5, 0.0), "r_abduct": (0.5, 0.25)},
    "big circle": {"r_flex": (1.4, 0.0), "r_abduct": (0.6, 0.25)},
    "beckon": {"r_elbow": (0.5, 0.0), "r_wrist": (0.6, 0.05)},
    "knock": {"r_wrist": (0.6, 0.0), "r_elbow": (0.25, 0.1)},
    "saw": {"r_flex": (0.35, 0.0), "r_elbow": (0.8, 0.5)},
    "wipe": {"r_abduct": (0.4, 0.0), "r_twist": (0.4, 0.0)},
    "flap": {"r_abduct": (0.5, 0.0)},
    "drum": {"r_elbow": (0.4, 0.0), "l_elbow": (0.4, 0.5)},
    "clap": {"r_twist": (0.35, 0.0), "l_twist": (0.35, 0.0)},
    "row": {"flex": (0.5, 0.0), "elbow": (0.8, 0.5), "bend": (0.25, 0.0)},
    "swim": {"r_flex": (1.4, 0.0), "l_flex": (1.4, 0.5), "turn": (0.3, 0.0)},
    "rub": {"r_elbow": (0.2, 0.0), "l_elbow": (0.2, 0.5)},
}
BODY_SWINGS = {
    "twist": {"turn": (0.5, 0.0)},
    "bounce": {"hip": (0.25, 0.0), "knee": (0.4, 0.0)},
    "hips": {"lean": (0.25, 0.0), "l_spread": (0.15, 0.5), "turn": (0.15, 0.25)},
    "nod": {"nod": (0.3, 0.0)},
    "shake the head": {"look": (0.5, 0.0)},
}
# What poses of a hand are drawn from: ranges of channels.
_REACH = {
    "r_flex": (-0.9, 3.0),
    "r_abduct": (-0.7, 2.6),
    "r_twist": (-1.2, 1.4),
    "r_elbow": (0, 2.5),
}
_STOOP = {**_REACH, "bend": (0.2, 1.5), "lean": (-0.3, 0.4), "turn": (-0.4, 0.4)}
_DOWN = {**_STOOP, "hip": (0, 1.9), "knee": (0, 2.2)}
# What the right hand touches: a joint (or the height above the floor), the offset from it, and the
# channels to draw.
CONTACTS: dict[
    str, tuple[int | None, tuple[float, float, float], dict[str, tuple[float, float]]]
] = {
    "top of the head": (3, (0.0, 0.12, 0.0), _REACH),
    "mouth": (3, (0.0, -0.06, -0.12), _REACH),
    "{right} ear": (3, (0.12, 0.0, 0.0), _REACH),
    "{left} ear": (3, (-0.1, 0.0, -0.08), _REACH),
    "neck": (2, (0.03, 0.0, 0.08), _REACH),
    "{left} shoulder": (4, (0.0, 0.03, -0.08), _REACH),
    "{right} shoulder": (8, (0.0, 0.05, -0.06), _REACH),
    "chest": (20, (0.0, -0.08, -0.14), _REACH),
    "belly": (1, (0.0, -0.1, -0.16), _REACH),
    "lower back": (1, (0.1, -0.2, 0.13), _REACH),
    "{right} hip": (16, (0.12, 0.05, 0.0), _REACH),
    "{left} hip": (12, (-0.08, 0.05, -0.08), _REACH),
    "{left} elbow": (5, (0.0, 0.0, -0.06), _REACH),
    "{right} knee": (17, (0.0, 0.0, -0.08), _STOOP | {"r_hip": (0.2, 1.6), "r_knee": (0.2, 1.6)}),
    "{left} knee": (13, (0.0, 0.0, -0.08), _STOOP | {"l_hip": (0.2, 1.6), "l_knee": (0.2, 1.6)}),
    "{right} foot": (19, (0.0, 0.0, 0.0), _DOWN),
    "{left} foot": (15, (0.0, 0.0, 0.0), _DOWN),
    "floor": (None, (0.0, 0.0, 0.0), _DOWN),
    "low shelf": (None, (0.0, 0.45, 0.0), _DOWN),
}
_PALM, _ELBOW = 11, 9
_SAMPLES, _KEPT = 3000, 24


@functools.cache
def contact_poses(name: str) -> np.ndarray:
    """(poses, channels): of many random poses, those with the right hand nearest to its target."""
    joint, offset, ranges = CONTACTS[name]
    rng = np.random.default_rng([7, list(CONTACTS).index(name)])
    low, high = np.transpose(list(ranges.values()))
    drawn = rng.uniform(low, high, (_SAMPLES, len(ranges)))
    for spread in (0.2, 0.1, 0.0):
        poses = np.zeros((len(drawn), len(CHANNELS)))
        for column, channel in enumerate(ranges):
            poses[:, columns(channel)] = drawn[:, column, None]
        joints = RIG.joints(poses, np.broadcast_to(OFFSETS, (len(poses), *OFFSETS.shape)))
        hand, elbow = joints[:, _PALM], joints[:, _ELBOW]
        if joint is None:
            distance = np.abs(hand[:, Y] - offset[Y])
        else:
            distance = np.linalg.norm(hand - (joints[:, joint] + offset), axis=1)
        # An elbow within the trunk makes a pose impossible.
        distance += (elbow[:, X] < 0.02) & (elbow[:, Z] > -0.08)
        best = np.argsort(distance)[:_KEPT]
        # Searches on around the best poses.
        near = np.repeat(drawn[best], _SAMPLES // 2 // _KEPT, axis=0)
        near += spread * (high - low) * rng.normal(size=near.shape)
        drawn = np.concatenate([drawn[best], near.clip(low, high)])
    return poses[best]


# Ways of moving on, and their cycles per second.
GAITS = {"walk": 0.9, "run": 1.35, "walk backwards": 0.8, "side-step": 0.8, "march": 0.8,
         "heel kicks": 0.8, "hop": 1.2, "jumping jack": 0.8, "skip": 0.8, "turn on the spot": 0.7,
         "pedal": 0.8, "sway": 0.5, "tiptoe": 0.9, "limp": 0.8, "dance": 0.8}  # fmt: skip


def gait_channels(name: str, phase: np.ndarray, size: float) -> dict[str, np.ndarray]:
    """{channel: (frames,)} of a way of moving on at phases in radians; advances in metres."""
    sin, cos = np.sin(phase), np.cos(phase)
    up, down = np.maximum(cos, 0.0), np.maximum(-cos, 0.0)
    turns = phase / (2 * np.pi)
    if name in ("walk", "walk backwards", "tiptoe", "limp"):
        limp = 0.4 if name == "limp" else 1.0
        ahead = -0.8 if "backwards" in name else 1.1
        return {
            "l_hip": 0.42 * size * sin, "r_hip": -0.42 * size * limp * sin,
            "l_knee": 0.1 + 0.9 * size * up, "r_knee": 0.1 + 0.9 * size * limp * down,
            "l_flex": -0.4 * size * sin, "r_flex": 0.4 * size * sin,
            "l_elbow": 0.3 + 0.15 * sin, "r_elbow": 0.3 - 0.15 * sin,
            "turn": 0.1 * sin, "lean": 0.04 * (1 if limp == 1 else 3) * cos,
            "forward": ahead * size * turns, "lift": 0.02 * np.abs(cos),
        }  # fmt: skip
    if name in ("run", "skip"):
        return {
            "l_hip": 0.3 + 0.75 * size * sin, "r_hip": 0.3 - 0.75 * size * sin,
            "l_knee": 0.3 + 1.3 * size * up, "r_knee": 0.3 + 1.3 * size * down,
            "l_flex": -0.7 * size * sin, "r_flex": 0.7 * size * sin,
            "l_elbow": 1.5 + 0 * sin, "r_elbow": 1.5 + 0 * sin,
            "bend": 0.15 + 0 * sin, "turn": 0.15 * sin,
            "forward": 2.0 * size * turns, "lift": (0.08 + 0.1 * (name == "skip")) * np.abs(cos),
        }  # fmt: skip
    if name == "side-step":
        return {
            "l_spread": 0.3 * size * np.maximum(sin, 0),
            "r_spread": 0.3 * size * np.maximum(sin, 0),
            "l_knee": 0.3 * up, "r_knee": 0.3 * down, "sideways": 0.5 * size * turns,
        }  # fmt: skip
    if name in ("march", "pedal"):
        return {
            "l_hip": 1.1 * size * np.maximum(sin, 0), "r_hip": 1.1 * size * np.maximum(-sin, 0),
            "l_knee": 1.3 * size * np.maximum(sin, 0), "r_knee": 1.3 * size * np.maximum(-sin, 0),
            "l_flex": -0.4 * sin, "r_flex": 0.4 * sin, "l_elbow": 0.5 + 0 * sin,
            "r_elbow": 0.5 + 0 * sin,
        }  # fmt: skip
    if name == "heel kicks":
        return {
            "l_knee": 1.8 * size * np.maximum(sin, 0), "r_knee": 1.8 * size * np.maximum(-sin, 0),
            "lift": 0.05 * np.abs(sin), "l_flex": -0.3 * sin, "r_flex": 0.3 * sin,
        }  # fmt: skip
    if name == "hop":
        crouch = np.maximum(-sin, 0) * 0.5 * size
        return {
            "l_hip": crouch, "r_hip": crouch, "l_knee": 1.6 * crouch, "r_knee": 1.6 * crouch,
            "lift": 0.25 * size * np.maximum(sin, 0), "l_flex": 0.3 * sin, "r_flex": 0.3 * sin,
        }  # fmt: skip
    if name == "jumping jack":
        open_ = 0.5 - 0.5 * cos
        return {
            "l_abduct": 2.6 * size * open_, "r_abduct": 2.6 * size * open_,
            "l_spread": 0.5 * open_, "r_spread": 0.5 * open_, "lift": 0.1 * np.abs(sin),
        }  # fmt: skip
    if name == "turn on the spot":
        return {
            "yaw": 1.4 * size * turns, "l_hip": 0.3 * np.maximum(sin, 0),
            "r_hip": 0.3 * np.maximum(-sin, 0), "l_knee": 0.5 * np.maximum(sin, 0),
            "r_knee": 0.5 * np.maximum(-sin, 0),
        }  # fmt: skip
    if name == "dance":
        return {
            "lean": 0.2 * size * sin, "turn": 0.3 * size * cos, "sideways": 0.12 * sin,
            "l_flex": 0.8 + 0.6 * sin, "r_flex": 0.8 - 0.6 * sin, "l_elbow": 1.3 + 0.4 * cos,
            "r_elbow": 1.3 - 0.4 * cos, "l_knee": 0.3 * up, "r_knee": 0.3 * down,
        }  # fmt: skip
    return {"lean": 0.2 * size * sin, "l_abduct": 0.2 - 0.15 * sin, "r_abduct": 0.2 + 0.15 * sin}
