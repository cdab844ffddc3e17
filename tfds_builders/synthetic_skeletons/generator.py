"""Synthetic skeleton clips: articulated bodies that perform actions, seen by a noisy depth sensor.

A clip is generated in four steps, each vectorised over all frames of a chunk of clips:

1. *Timing*: each frame's progress in its action gives six waveforms (`WAVES`).
2. *Angles*: an action is a small matrix from waveforms to body channels (`CHANNELS`: anatomical
   joint angles and root translations), written sparsely in `ACTIONS`.
3. *Bodies*: forward kinematics with a performer's bone lengths, feet on the ground.
4. *Sensor*: the scene is rotated before one of three cameras; noise and lost joints are added.

An untrimmed video is one performer's continuous movement through several actions, generated in the
same way: the waveforms of its actions share one time axis.

Body and camera frames are right-handed: x to the person's right, y up, z backwards (a person who
faces the camera looks along -z; the camera's axes are those of Kinect v2). Metres, radians,
seconds; 30 frames per second; joints in the order of NTU RGB+D.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_skeletons.body import (
    LIMB_OF_NODE,
    LIMBS,
    OFFSETS,
    ROTATIONS,
    TRANSLATIONS,
    Rig,
    euler,
    lose_joints,
    sensor_noise,
    smooth_step,
)

FRAME_RATE = 30.0
MIN_FRAMES, MAX_FRAMES = 20, 300
ACTIONS_A_VIDEO = (4, 8)  # minimum and maximum
PAUSE_FRAMES = (15, 60)  # before, between and after a video's actions
CHUNK = 128  # clips drawn together; a clip does not depend on how many are requested
PERFORMERS = MappingProxyType({"train": tuple(range(1, 29)), "test": tuple(range(29, 41))})

_RIG = Rig(ROTATIONS, ground=(14, 15, 18, 19))
CHANNELS = _RIG.channels
# Limb of each channel: an action that uses one channel of a limb takes over the whole limb.
_GROUP = np.repeat(np.arange(5), [5, 3, 5, 3, 8])

# -------------------------------------------------------------------------------------- actions

# Functions of the progress in an action: `hold` rises, stays and falls; `swing` oscillates while
# `hold` is up; `beat` is one bump per cycle, `first` and `second` are a bump in its first and
# second half; `ramp` goes from 0 to 1 and stays there.
WAVES = ("hold", "swing", "beat", "first", "second", "ramp")
_Movement = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Action:
    """One class of movement.

    Attributes:
        name: label.
        cycles: minimum and maximum number of repetitions.
        period: minimum and maximum duration of a cycle, seconds.
        actor: {wave: {channel: amount}}, radians (metres for translations), right-handed.
        partner: the same for the second person, or None for an action of one person.
        sharpness: exponent of the bumps; larger values are more sudden.
        side: the acting hand or foot: "right", "left", or "free" if the label allows both.
        distance: minimum and maximum distance between the two persons' hips, metres.
    """

    name: str
    cycles: tuple[int, int]
    period: tuple[float, float]
    actor: _Movement
    partner: _Movement | None = None
    sharpness: float = 1.0
    side: str = "free"
    distance: tuple[float, float] = (0.0, 0.0)


# fmt: off
_WAVING: _Movement = {
    "hold": {"r_abduct": 1.3, "r_flex": 1.4, "r_elbow": 1.4},
    "swing": {"r_elbow": 0.5, "r_wrist": 0.2},
}
_KICKING: _Movement = {
    "beat": {"r_hip": 1.3, "bend": -0.2, "l_flex": 0.5, "l_knee": 0.15},
    "first": {"r_knee": 1.1, "r_flex": -0.4},
}
_SHAKING: _Movement = {
    "hold": {"r_flex": 0.7, "r_elbow": 0.75, "r_twist": 0.25, "bend": 0.1},
    "swing": {"r_flex": 0.1, "r_elbow": 0.2},
}
_SLAPPING: _Movement = {
    "beat": {"r_flex": 2.1, "r_elbow": 0.5, "r_abduct": 0.15, "bend": 0.1, "forward": 0.1},
}
_HUGGING: _Movement = {
    "hold": {"l_flex": 1.2, "l_abduct": 0.35, "l_elbow": 0.9, "l_twist": 0.8, "bend": 0.15,
             "r_flex": 1.3, "r_abduct": 0.35, "r_elbow": 0.9, "r_twist": 0.8, "forward": 0.32},
}

ACTIONS = (
    Action("wave_left", (2, 6), (0.5, 1.0), _WAVING, side="left"),
    Action("wave_right", (2, 6), (0.5, 1.0), _WAVING, side="right"),
    Action("clap", (2, 8), (0.4, 0.9), {
        "hold": {"l_flex": 0.8, "r_flex": 0.8, "l_elbow": 1.1, "r_elbow": 1.1},
        "beat": {"l_twist": 0.6, "r_twist": 0.6},
    }),
    Action("rub_hands", (2, 8), (0.4, 0.9), {
        "hold": {"l_flex": 0.6, "r_flex": 0.6, "l_elbow": 1.3, "r_elbow": 1.3,
                 "l_twist": 0.6, "r_twist": 0.6},
        "swing": {"l_elbow": 0.25, "r_elbow": -0.25, "l_flex": 0.15, "r_flex": -0.15},
    }),
    Action("drink", (1, 2), (1.6, 3.2), {
        "beat": {"r_flex": 0.75, "r_elbow": 2.2, "r_twist": 0.35, "nod": -0.35, "bend": -0.08},
    }, sharpness=0.6),
    Action("throw", (1, 2), (1.1, 2.0), {
        "first": {"r_abduct": 1.5, "r_flex": 0.9, "r_elbow": 1.7, "turn": 0.5, "bend": -0.15},
        "second": {"r_flex": 1.5, "r_elbow": 0.3, "turn": -0.5, "bend": 0.4, "l_hip": 0.3},
    }, sharpness=1.3),
    Action("punch", (1, 4), (0.5, 1.0), {
        "hold": {"l_flex": 0.5, "l_elbow": 1.8, "r_flex": 0.2, "r_elbow": 1.8},
        "beat": {"r_flex": 1.2, "r_elbow": -1.6, "turn": -0.45, "forward": 0.08},
    }, sharpness=1.5),
    Action("kick_left", (1, 3), (0.8, 1.5), _KICKING, sharpness=1.3, side="left"),
    Action("kick_right", (1, 3), (0.8, 1.5), _KICKING, sharpness=1.3, side="right"),
    Action("squat", (1, 4), (1.2, 2.4), {
        "beat": {"l_hip": 1.4, "r_hip": 1.4, "l_knee": 1.9, "r_knee": 1.9, "bend": 0.5,
                 "l_flex": 0.9, "r_flex": 0.9},
    }),
    Action("jump", (1, 4), (0.7, 1.2), {
        "first": {"l_hip": 0.7, "r_hip": 0.7, "l_knee": 1.1, "r_knee": 1.1, "bend": 0.35,
                  "l_flex": -0.5, "r_flex": -0.5},
        "second": {"lift": 0.3, "l_flex": 1.2, "r_flex": 1.2},
    }),
    Action("bow", (1, 2), (1.6, 2.8), {
        "beat": {"bend": 1.0, "nod": 0.4, "l_flex": 0.2, "r_flex": 0.2},
    }, sharpness=0.7),
    Action("walk_in_place", (2, 8), (0.8, 1.4), {
        "first": {"l_hip": 0.9, "l_knee": 1.2, "r_flex": 0.5, "l_flex": -0.3, "lean": 0.05},
        "second": {"r_hip": 0.9, "r_knee": 1.2, "l_flex": 0.5, "r_flex": -0.3, "lean": -0.05},
    }),
    Action("turn_around", (2, 4), (0.6, 1.0), {
        "ramp": {"yaw": 2.5},
        "first": {"r_hip": 0.3, "r_knee": 0.5},
        "second": {"l_hip": 0.3, "l_knee": 0.5},
    }),
    Action("handshake", (2, 5), (0.4, 0.8), _SHAKING, _SHAKING, distance=(0.85, 1.0)),
    Action("high_five", (1, 3), (0.8, 1.5), _SLAPPING, _SLAPPING, distance=(0.85, 1.05)),
    Action("push", (1, 3), (1.0, 1.8), {
        "first": {"l_flex": 0.5, "r_flex": 0.5, "l_elbow": 1.7, "r_elbow": 1.7},
        "second": {"l_flex": 1.4, "r_flex": 1.4, "bend": 0.2, "forward": 0.15},
    }, {
        "second": {"forward": -0.3, "bend": -0.2, "l_abduct": 0.5, "r_abduct": 0.5,
                   "l_hip": 0.3, "l_knee": 0.4},
    }, sharpness=1.2, distance=(0.75, 0.9)),
    Action("hug", (1, 1), (2.0, 4.0), _HUGGING, _HUGGING, distance=(0.95, 1.15)),
)
# fmt: on
LABELS = tuple(action.name for action in ACTIONS)
SOLO_LABELS = tuple(action.name for action in ACTIONS if action.partner is None)

# Relative drift of each channel: the root turns but does not translate.
_DRIFT = np.array([0.0 if c in TRANSLATIONS else 6.0 if c == "yaw" else 1.0 for c in CHANNELS])

# Resting poses between actions, right-handed; a clip uses a share of one of them.
_RESTS: tuple[dict[str, float], ...] = (
    {},
    {"l_flex": 0.3, "r_flex": 0.3, "l_elbow": 1.4, "r_elbow": 1.4, "l_twist": 0.6, "r_twist": 0.6},
    {"r_abduct": 0.8, "r_elbow": 1.7, "r_twist": 0.9, "lean": 0.08},
    {"l_flex": -0.4, "r_flex": -0.4, "l_elbow": 0.4, "r_elbow": 0.4},
    {"r_flex": 0.5, "r_elbow": 1.9, "r_twist": 0.3},
    {"r_hip": 0.25, "r_knee": 0.4, "r_spread": 0.15, "lean": -0.06},
)


def _row(amounts: dict[str, float]) -> list[float]:
    """{channel: amount} as one amount per channel."""
    return [amounts.get(channel, 0.0) for channel in CHANNELS]


# (actions, 2 persons, waves, channels), radians or metres, right-handed.
_MOVEMENTS = np.array(
    [
        [[_row((role or {}).get(wave, {})) for wave in WAVES] for role in (a.actor, a.partner)]
        for a in ACTIONS
    ]
)
_REST_TABLE = np.array([_row(rest) for rest in _RESTS])
_HAS_PARTNER = np.array([action.partner is not None for action in ACTIONS])

# --------------------------------------------------------------------------------------- sensor

_CAMERA_YAWS = np.radians([0.0, 45.0, -45.0])  # cameras 1, 2, 3


class Clip(NamedTuple):
    """One recording as a sensor gives it, before normalisation.

    Attributes:
        skeleton: (T, 2, 25, 3) float32 metres in camera coordinates; lost joints and an absent
            second person are zeros.
        label: index in `LABELS`.
        performer: of the first person, 1 to 40.
        camera: 1, 2 or 3.
    """

    skeleton: np.ndarray
    label: int
    performer: int
    camera: int


def generate(split: str, start: int, stop: int, seed: int = 0) -> Iterator[Clip]:
    """Yields clips `start` to `stop` (exclusive) of a split; labels cycle through `LABELS`.

    At most one chunk of clips is in memory.

    Args:
        split: "train" or "test"; their performers differ.
        start, stop: the range of clips.
        seed: of the whole data set; a clip is a function of (seed, split, its number).

    Raises:
        KeyError: if there is no such split.
    """
    for chunk in range(start // CHUNK, -(-stop // CHUNK)):
        clips = _generate_chunk(split, chunk, seed)
        first = chunk * CHUNK
        yield from clips[max(start - first, 0) : stop - first]


def _generate_chunk(split: str, chunk: int, seed: int) -> list[Clip]:
    """The `CHUNK` clips of one chunk; "frames" axes hold all clips' frames, concatenated."""
    performers = PERFORMERS[split]
    rng = np.random.default_rng([seed, list(PERFORMERS).index(split), chunk])
    labels = (chunk * CHUNK + np.arange(CHUNK)) % len(LABELS)
    # (clips, persons)
    cast = np.array([rng.choice(len(performers), 2, replace=False) for _ in range(CHUNK)])
    styles = [_performer(seed, performer) for performer in performers]
    style = _Performer(*(np.stack(field)[cast] for field in zip(*styles, strict=True)))

    timing = _draw_timing(rng, labels, style.tempo[:, 0])
    clip_of_frame = np.repeat(np.arange(CHUNK), timing.frames)
    frame = np.concatenate([np.arange(frames) for frames in timing.frames])

    left = _draw_left(rng, labels, style)
    persons = []
    for person in range(2):
        # A partner reacts a little later: the same waveforms, shifted in time.
        delay = rng.uniform(0.0, 0.2, CHUNK)[clip_of_frame] if person else 0.0
        waves = _waveforms(timing, clip_of_frame, frame / FRAME_RATE - delay)
        channels = _draw_channels(rng, labels, left, person, style, clip_of_frame, frame, waves)
        bones = OFFSETS * style.scale[:, person][:, LIMB_OF_NODE, None]
        persons.append(_RIG.joints(channels, bones[clip_of_frame]))
    body = np.stack(persons, axis=1)  # (frames, 2, 25, 3)

    body, camera = _place_before_camera(rng, body, labels, clip_of_frame)
    body += sensor_noise(rng, body.shape, clip_of_frame)
    body[~_HAS_PARTNER[labels][clip_of_frame], 1] = 0.0
    body = body.astype(np.float32)
    clips = np.split(body, np.cumsum(timing.frames)[:-1])
    for clip in clips:
        lose_joints(rng, clip)
    return [
        Clip(clip, int(label), int(performers[who]), int(view))
        for clip, label, who, view in zip(clips, labels, cast[:, 0], camera, strict=True)
    ]


class Video(NamedTuple):
    """One untrimmed recording of one person as a sensor gives it, before normalisation.

    Attributes:
        skeleton: (T, 2, 25, 3), as in `Clip`; the second person is absent.
        intervals: (actions, 3) int64 in temporal order: label (index in `LABELS`, one of
            `SOLO_LABELS`), first frame, one past the last frame.
        performer: 1 to 40.
        camera: 1, 2 or 3.
    """

    skeleton: np.ndarray
    intervals: np.ndarray
    performer: int
    camera: int


def generate_untrimmed(split: str, start: int, stop: int, seed: int = 0) -> Iterator[Video]:
    """Yields untrimmed videos `start` to `stop` (exclusive) of a split.

    In each, one person performs different actions one after another and rests in between.

    Args:
        split: "train" or "test"; their performers differ.
        start, stop: the range of videos.
        seed: of the whole data set; a video is a function of (seed, split, its number).

    Raises:
        KeyError: if there is no such split.
    """
    for index in range(start, stop):
        yield _generate_video(split, index, seed)


def _generate_video(split: str, index: int, seed: int) -> Video:
    """One video; its actions are drawn like clips, but share the video's time axis."""
    performers = PERFORMERS[split]
    rng = np.random.default_rng([seed, 2000, list(PERFORMERS).index(split), index])
    solo = [LABELS.index(name) for name in SOLO_LABELS]
    count = int(rng.integers(*ACTIONS_A_VIDEO, endpoint=True))
    labels = rng.choice(solo, count, replace=False)
    performer = int(rng.choice(performers))
    # One style for all actions: leading axes (actions, persons) to broadcast.
    style = _Performer(*(np.asarray(field)[None, None] for field in _performer(seed, performer)))

    timing = _draw_timing(rng, labels, style.tempo[:, 0])
    lengths = np.ceil(timing.duration * FRAME_RATE).astype(int)
    pauses = rng.integers(*PAUSE_FRAMES, size=count + 1, endpoint=True)
    starts = np.cumsum(pauses[:-1]) + np.cumsum(lengths) - lengths
    frames = pauses.sum() + lengths.sum()
    frame, one = np.arange(frames), np.zeros(frames, int)

    waves = _waveforms(
        timing._replace(onset=starts / FRAME_RATE),
        np.repeat(np.arange(count), frames),
        np.tile(frame / FRAME_RATE, count),
    ).reshape(count, frames, len(WAVES))
    left = _draw_left(rng, labels, style)
    movement, taken = _draw_movement(rng, labels, left, 0, style)
    # After each action a person takes another resting pose.
    rests = _draw_rest(rng, count + 1)
    ramp = waves[:, :, WAVES.index("ramp")]
    rest = rests[0] + np.einsum("af,ac->fc", ramp, np.diff(rests, axis=0))
    channels = rest * (1 - np.einsum("af,ac->fc", waves[:, :, WAVES.index("hold")], taken))
    channels += style.posture[0] + _draw_drift(rng, one, frame)
    # Only ramps outlast their action: a person who has turned around stays turned.
    channels += np.einsum("afw,awc->fc", waves, movement)

    bones = OFFSETS * style.scale[0, 0, LIMB_OF_NODE, None]
    body = np.zeros((frames, 2, 25, 3))
    body[:, 0] = _RIG.joints(channels, np.broadcast_to(bones, (frames, *bones.shape)))
    body, camera = _place_before_camera(rng, body, labels[:1], one)
    body += sensor_noise(rng, body.shape, one)
    body[:, 1] = 0.0
    body = body.astype(np.float32)
    # Joints are lost as often per action as in clips of one action.
    for part in np.array_split(body, count):
        lose_joints(rng, part)
    intervals = np.stack([labels, starts, starts + lengths], axis=1)
    return Video(body, intervals, performer, int(camera[0]))


class _Performer(NamedTuple):
    """What a person has in all clips; in a chunk, with leading axes (clips, persons)."""

    scale: np.ndarray  # (limbs,) bone lengths relative to `OFFSETS`
    tempo: np.ndarray  # () factor on periods
    left_handed: np.ndarray  # () probability of acting left-handed if the class allows it
    gain: np.ndarray  # (waves, channels) factor on movements
    posture: np.ndarray  # (channels,) radians, added at all times


def _performer(seed: int, number: int) -> _Performer:
    rng = np.random.default_rng([seed, 1000, number])
    left_handed = rng.random() < 0.25
    return _Performer(
        scale=rng.normal(1.0, 0.07) * rng.normal(1.0, 0.05, len(LIMBS)),
        tempo=np.exp(rng.normal(0.0, 0.2)),
        left_handed=np.array(0.9 if left_handed else 0.15),
        gain=rng.uniform(0.75, 1.2) * rng.normal(1.0, 0.18, (len(WAVES), len(CHANNELS))),
        posture=rng.normal(0.0, 0.06, len(CHANNELS)) * (np.arange(len(CHANNELS)) < len(ROTATIONS)),
    )


class _Timing(NamedTuple):
    """Timing of the action in each clip; every field is (clips,)."""

    frames: np.ndarray
    onset: np.ndarray  # seconds from the first frame; negative: it has already begun
    duration: np.ndarray  # seconds
    cycles: np.ndarray
    phase: np.ndarray  # of the swing, radians
    skew: np.ndarray  # exponent of progress: the action speeds up or slows down
    sharpness: np.ndarray


def _draw_timing(rng: np.random.Generator, labels: np.ndarray, tempo: np.ndarray) -> _Timing:
    actions = [ACTIONS[label] for label in labels]
    fewest, most = np.transpose([a.cycles for a in actions])
    cycles = rng.integers(fewest, most, endpoint=True)
    period = rng.uniform(*np.transpose([a.period for a in actions])) * tempo
    idle_before, idle_after = rng.uniform(0.0, 3.0, (2, len(labels)))
    longest = MAX_FRAMES / FRAME_RATE - idle_before - idle_after
    cycles = np.maximum(1, np.minimum(cycles, longest // period))
    duration = cycles * period
    # One clip in four starts in the middle of the action instead of at rest.
    cut = rng.random(len(labels)) < 0.25
    onset = np.where(cut, -rng.uniform(0.0, 0.2, len(labels)) * duration, idle_before)
    frames = ((onset + duration + idle_after) * FRAME_RATE).astype(int)
    return _Timing(
        frames=frames.clip(MIN_FRAMES, MAX_FRAMES),
        onset=onset,
        duration=duration,
        cycles=cycles,
        phase=rng.uniform(0.0, 2 * np.pi, len(labels)),
        skew=np.exp(rng.normal(0.0, 0.15, len(labels))),
        sharpness=np.array([a.sharpness for a in actions])
        * np.exp(rng.normal(0, 0.2, len(labels))),
    )


def _waveforms(timing: _Timing, clip_of_frame: np.ndarray, time: np.ndarray) -> np.ndarray:
    """(frames, waves): the waveforms of `WAVES` at `time`, seconds from each clip's first frame."""
    of = _Timing(*(field[clip_of_frame] for field in timing))
    progress = ((time - of.onset) / of.duration).clip(0.0, 1.0) ** of.skew
    rise = np.minimum(0.4, 0.45 / of.duration)  # raising an arm takes about half a second
    hold = smooth_step(progress / rise) * smooth_step((1.0 - progress) / rise)
    turns = progress * of.cycles
    cycle = turns % 1.0

    def bump(place: np.ndarray) -> np.ndarray:
        return np.sin(np.pi * place.clip(0.0, 1.0)) ** (2 * of.sharpness)

    swing = hold * np.sin(2 * np.pi * turns + of.phase)
    ramp = smooth_step(progress)
    return np.stack([hold, swing, bump(cycle), bump(2 * cycle), bump(2 * cycle - 1), ramp], axis=1)


def _draw_channels(
    rng: np.random.Generator,
    labels: np.ndarray,
    left: np.ndarray,
    person: int,
    style: _Performer,
    clip_of_frame: np.ndarray,
    frame: np.ndarray,
    waves: np.ndarray,
) -> np.ndarray:
    """(frames, channels) of one person: rest, movement and a slow drift.

    `labels` and `left` (acts left-handed) are (clips,), `frame` is each frame's number within its
    clip, `waves` is (frames, waves).
    """
    clips = len(labels)
    movement, taken = _draw_movement(rng, labels, left, person, style)
    rest_before, rest_after = (_draw_rest(rng, clips) for _ in range(2))
    drift = _draw_drift(rng, clip_of_frame, frame)
    # The resting pose changes at a time that does not depend on the action.
    shift_time, shift_pace = rng.uniform(-1.0, 7.0, clips), rng.uniform(0.5, 1.5, clips)
    shifted = smooth_step(
        (frame / FRAME_RATE - shift_time[clip_of_frame]) / shift_pace[clip_of_frame]
    )[:, None]
    rest = rest_before[clip_of_frame] * (1 - shifted) + rest_after[clip_of_frame] * shifted
    # The limbs that the action uses leave their resting pose.
    channels = rest * (1 - waves[:, :1] * taken[clip_of_frame])
    channels += style.posture[:, person][clip_of_frame] + drift
    for wave in range(len(WAVES)):
        channels += waves[:, wave, None] * movement[clip_of_frame, wave]
    return channels


def _draw_left(rng: np.random.Generator, labels: np.ndarray, style: _Performer) -> np.ndarray:
    """(clips,) whether the clip's action is performed left-handed."""
    # The first person's handedness decides: two who shake hands use the same one.
    sides = np.array([ACTIONS[label].side for label in labels])
    free = rng.random(len(labels)) < style.left_handed[:, 0]
    return np.where(sides == "free", free, sides == "left")


def _draw_movement(
    rng: np.random.Generator, labels: np.ndarray, left: np.ndarray, person: int, style: _Performer
) -> tuple[np.ndarray, np.ndarray]:
    """How one person performs each clip's action: amounts, and which limbs it uses.

    Returns:
        (clips, waves, channels) radians or metres, and (clips, channels) 1.0 where used, else 0.0.
    """
    movement = _MOVEMENTS[labels, person]
    used = movement.any(axis=1)
    limb_used = np.stack([used[:, limb == _GROUP].any(axis=1) for limb in range(5)], axis=1)
    taken = limb_used[:, _GROUP].astype(float)

    gain = style.gain[:, person] * rng.normal(1.0, 0.22, movement.shape)
    gain *= rng.uniform(0.7, 1.15, (len(labels), 1, 1))
    movement = movement * gain
    mirrored = _RIG.mirrored(movement)
    return (
        np.where(left[:, None, None], mirrored, movement),
        np.where(left[:, None], _RIG.mirrored(taken, signed=False), taken),
    )


def _draw_drift(
    rng: np.random.Generator, clip_of_frame: np.ndarray, frame: np.ndarray
) -> np.ndarray:
    """(frames, channels): slow sines about the posture, radians."""
    shape = (clip_of_frame[-1] + 1, len(CHANNELS))
    rate = rng.uniform(0.1, 0.5, shape) * 2 * np.pi / FRAME_RATE
    start = rng.uniform(0.0, 2 * np.pi, shape)
    size = rng.gamma(2.0, 0.025, shape) * _DRIFT
    wave = np.sin(frame[:, None] * rate[clip_of_frame] + start[clip_of_frame])
    return wave * size[clip_of_frame]


def _draw_rest(rng: np.random.Generator, clips: int) -> np.ndarray:
    """(clips, channels): a share of a random resting pose, mirrored or not."""
    rest = _REST_TABLE[rng.integers(len(_RESTS), size=clips)] * rng.uniform(0.3, 1.3, (clips, 1))
    return np.where(rng.random((clips, 1)) < 0.5, _RIG.mirrored(rest), rest)


def _place_before_camera(
    rng: np.random.Generator, body: np.ndarray, labels: np.ndarray, clip_of_frame: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places the partner opposite, rotates the scene and moves it before a camera.

    Returns:
        (frames, 2, 25, 3) metres in camera coordinates, and (clips,) cameras 1 to 3.
    """
    clips = len(labels)
    pair = _HAS_PARTNER[labels]
    distance = rng.uniform(*np.transpose([ACTIONS[label].distance for label in labels]))
    body[:, 1] *= [-1.0, 1.0, -1.0]  # half a turn: the two face each other
    body[:, 1, :, 2] -= distance[clip_of_frame, None]

    camera = rng.integers(len(_CAMERA_YAWS), size=clips)
    # Approximately, single persons face camera 1 and pairs stand sideways to it.
    facing = rng.normal(0.0, np.radians(20.0), clips)
    facing += np.where(pair, np.pi / 2 * rng.choice([-1, 1], clips), 0.0)
    pitch = rng.normal(np.radians(-8.0), np.radians(6.0), clips)
    angles = np.stack([np.zeros(clips), facing + _CAMERA_YAWS[camera], np.zeros(clips)], axis=1)
    tilt = np.stack([pitch, np.zeros(clips), np.zeros(clips)], axis=1)
    turn = euler(tilt) @ euler(angles)
    away = np.stack(
        [rng.normal(0.0, 0.3, clips), rng.normal(-0.9, 0.15, clips), rng.uniform(2.0, 4.2, clips)],
        axis=1,
    )
    body = np.einsum("fij,fpvj->fpvi", turn[clip_of_frame], body, optimize=True)
    return body + away[clip_of_frame, None, None], camera + 1
