"""Movement programmes for pretraining: many kinds of movement, each performed by many people.

A *programme* is a movement drawn at random from a grammar over `movements`: a posture, a gait or
none, and key poses that some limbs take in turn, once or repeatedly.  A *clip* is one person's
performance of a programme, with other proportions, tempo, amplitude, repetitions, resting pose,
frame rate, camera and sensor errors, and in another posture where the programme leaves it open.  So
clips of one programme differ as performances of one action differ.

Movements between key poses have bell-shaped speed (minimum jerk; Flash and Hogan, J. Neurosci.
1985), and the hand lags behind the trunk.  Axes and units are those of `body`.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pcm3_jax.data.joint_layouts import LAYOUTS
from tfds_builders.synthetic_skeletons import movements
from tfds_builders.synthetic_skeletons.body import (
    LIMB_OF_NODE,
    LIMBS,
    OFFSETS,
    euler,
    lose_joints,
    sensor_noise,
    smooth_step,
)
from tfds_builders.synthetic_skeletons.movements import AT, CHANNELS, LIMB, RIG, limbs_of

PROGRAMMES = 2048
CHUNK = 64  # clips drawn together; a clip does not depend on how many are requested
MIN_FRAMES, MAX_FRAMES = 20, 300
LONGEST = 8.0  # seconds after which no further repetition begins
PERFORMERS = {"train": range(1, 1001), "test": range(1001, 1101)}

_C = len(CHANNELS)
_ANGLES = ~np.isin(CHANNELS, ("sideways", "lift", "forward"))
_WHOLE_BODY = np.isin(CHANNELS, ("yaw", "pitch", "roll"))
_ARMS = LIMB < movements.LEFT_LEG
# Share of a movement after which a channel sets off.
_LAG = np.select(
    [["wrist" in c for c in CHANNELS], [c[2:] in ("elbow", "knee") for c in CHANNELS], LIMB < 4],
    [0.25, 0.12, 0.06],
    0.0,
)

# ----------------------------------------------------------------------------------- programmes


class Swing(NamedTuple):
    """An oscillation about a key pose: amplitude and phase in turns (channels,), and hertz."""

    amplitude: np.ndarray
    phase: np.ndarray
    rate: float


@dataclass(frozen=True)
class Programme:
    """One kind of movement; amounts are radians, metres for translations.

    Attributes:
        name: in words.
        keys: (K, channels) key poses, taken in turn, on top of the posture.
        seconds: (K,) to reach each key pose.
        used: (channels,) booleans, those of the limbs that key poses and swing move.
        hold: seconds that a key pose is held.
        repeats: minimum and maximum number of rounds through the key poses.
        between: whether limbs return to rest between rounds.
        stays: whether the last key pose is kept to the end.
        posture: name in `movements.POSTURES`, or "any" where standing and sitting both do.
        start: name of the posture that the movement begins and ends in, if another one.
        swing: at the key poses, or None.
        gait: name in `movements.GAITS`, or "".
        partner: the programme of a second person, who stands opposite, or None.
        distance: between the two, metres.
    """

    name: str
    keys: np.ndarray
    seconds: np.ndarray
    used: np.ndarray
    hold: float = 0.2
    repeats: tuple[int, int] = (1, 1)
    between: bool = True
    stays: bool = False
    posture: str = "standing"
    start: str = ""
    swing: Swing | None = None
    gait: str = ""
    partner: "Programme | None" = None
    distance: float = 0.0


@functools.cache
def programmes(count: int = PROGRAMMES, seed: int = 0) -> tuple[Programme, ...]:
    """The first `count` programmes of a seed, which all have different names."""
    found: dict[str, Programme] = {}
    for number in itertools.count():
        drawn = _programme(np.random.default_rng([seed, 3000, number]))
        found.setdefault(drawn.name, drawn)
        if len(found) == count:
            return tuple(found.values())
    raise AssertionError("unreachable")


def _programme(rng: np.random.Generator, *, alone: bool = True) -> Programme:
    kind = _pick(rng, ("arms", "strike", "legs", "trunk", "change", "gait"),
                 (0.46, 0.10, 0.13, 0.12, 0.07, 0.12))  # fmt: skip
    made = {"arms": _arms, "strike": _strike, "legs": _legs, "trunk": _trunk,
            "change": _change, "gait": _gait}[kind](rng)  # fmt: skip
    if kind in ("arms", "trunk", "gait") and made.swing is None and rng.random() < 0.12:
        name = _pick(rng, movements.BODY_SWINGS)
        swing = _swing(rng, movements.BODY_SWINGS[name])
        used = made.used | limbs_of(swing.amplitude)
        made = replace(made, swing=swing, used=used, name=f"{made.name}, {name}".lstrip(", "))
    if kind in ("arms", "strike") and rng.random() < 0.12:
        made = replace(made, posture=_pick(rng, movements.POSTURES))
    if made.posture not in ("any", "standing"):
        made = replace(made, name=f"{made.name}, {made.posture}")
    if made.repeats[1] > 1:
        made = replace(made, name=f"{made.name}, repeated")
    made = _on_a_side(made, left=rng.random() < 0.5)
    if alone and kind not in ("change", "gait") and rng.random() < 0.12:
        other = made if rng.random() < 0.4 else _programme(rng, alone=False)
        made = replace(
            made, name=f"{made.name}; the other: {other.name}", partner=other,
            distance=float(rng.uniform(0.7, 1.6)),
        )  # fmt: skip
    return made


def _pick(
    rng: np.random.Generator, names: Iterable[str], shares: tuple[float, ...] | None = None
) -> str:
    options = list(names)
    return options[int(rng.choice(len(options), p=shares))]


def _on_a_side(made: Programme, *, left: bool) -> Programme:
    """The right-handed programme for one side, named by it if that matters."""
    if not left:
        return replace(made, name=made.name.format(right="right", left="left"))
    swing = made.swing
    if swing is not None:
        swing = Swing(
            RIG.mirrored(swing.amplitude), RIG.mirrored(swing.phase, signed=False), swing.rate
        )
    return replace(
        made,
        name=made.name.format(right="left", left="right"),
        keys=RIG.mirrored(made.keys),
        used=RIG.mirrored(made.used, signed=False).astype(bool),
        swing=swing,
    )


def _arms(rng: np.random.Generator) -> Programme:
    how = _pick(rng, ("reach", "sequence", "swing", "in turn"), (0.42, 0.22, 0.26, 0.10))
    both = how != "in turn" and rng.random() < 0.35
    names, poses = zip(*[_arm_pose(rng) for _ in range(3)], strict=True)
    count = int(rng.integers(2, 4)) if how == "sequence" else 1
    keys = np.array([_with_both_arms(pose) if both else pose for pose in poses[:count]])
    made = Programme(
        name=("both hands " if both else "{right} hand ") + ", then ".join(names[:count]),
        keys=keys,
        seconds=np.full(count, rng.uniform(0.35, 1.1)),
        used=limbs_of(keys) | (LIMB == movements.RIGHT_ARM),
        hold=float(rng.choice([0.0, 0.1, 0.3, 0.8])),
        repeats=((1, 1), (2, 4), (3, 6))[rng.integers(3)],
        between=count == 1 or bool(rng.random() < 0.7),
        posture="standing" if np.any(keys[:, (LIMB == 2) | (LIMB == 3)]) else "any",
    )
    if how == "swing":
        name = _pick(rng, movements.ARM_SWINGS)
        swing = _swing(rng, movements.ARM_SWINGS[name], both=both)
        used = made.used | limbs_of(swing.amplitude)
        hold = float(rng.uniform(1.2, 3.5))
        name = f"{made.name}, {name}"
        return replace(made, name=name, swing=swing, used=used, hold=hold, repeats=(1, 1))
    if how == "in turn":
        keys = np.concatenate([keys, RIG.mirrored(keys)])
        name = made.name.format(right="each", left="the other") + " in turn"
        return replace(
            made, name=name, keys=keys, seconds=np.repeat(made.seconds, 2),
            used=limbs_of(keys), repeats=(1, 4),
        )  # fmt: skip
    return made


def _arm_pose(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A key pose of the right arm, with its name: a contact or a direction."""
    if rng.random() < 0.45:
        name = _pick(rng, movements.CONTACTS)
        poses = movements.contact_poses(name)
        return f"to the {name}", poses[rng.integers(len(poses))]
    name = _pick(rng, movements.DIRECTIONS)
    spread = np.where(LIMB == movements.RIGHT_ARM, rng.normal(0.0, 0.2, _C), 0.0)
    spread[AT["r_elbow"]] = abs(spread[AT["r_elbow"]])
    return name, movements.DIRECTIONS[name] + spread


def _with_both_arms(pose: np.ndarray) -> np.ndarray:
    both: np.ndarray = np.where(LIMB == movements.LEFT_ARM, RIG.mirrored(pose), pose)
    both[[AT["lean"], AT["turn"]]] = 0.0
    return both


def _swing(
    rng: np.random.Generator, table: dict[str, tuple[float, float]], *, both: bool = False
) -> Swing:
    amplitude, phase = np.zeros(_C), np.zeros(_C)
    for channel, (amount, turn) in table.items():
        amplitude[movements.columns(channel)] = amount
        phase[movements.columns(channel)] = turn
    if both:
        opposed = 0.5 * rng.integers(2)
        added = RIG.mirrored(phase, signed=False) + opposed
        phase = np.where(amplitude == 0, added, phase)
        amplitude = np.maximum(amplitude, RIG.mirrored(amplitude, signed=False))
    # Large circles are slower than small ones.
    rate = rng.uniform(1.0, 2.4) / (2 if amplitude.max() > 0.75 else 1)
    return Swing(amplitude * rng.uniform(0.7, 1.3), phase, float(rate))


def _of_table(
    rng: np.random.Generator, table: Mapping[str, tuple[np.ndarray, ...]], side: str
) -> Programme:
    name = _pick(rng, table)
    keys = np.array(table[name]) * rng.uniform(0.8, 1.2)
    one_sided = not np.allclose(keys, RIG.mirrored(keys))
    return Programme(
        name=f"{name}, {side}" if one_sided else name,
        keys=keys,
        seconds=np.full(len(keys), rng.uniform(0.35, 0.8)),
        used=limbs_of(keys),
        hold=float(rng.choice([0.0, 0.1, 0.4])),
        repeats=((1, 1), (2, 3), (3, 6))[rng.integers(3)],
        stays=bool(rng.random() < 0.1),
    )


def _fast(made: Programme, rng: np.random.Generator) -> Programme:
    seconds = np.append(made.seconds[:-1], rng.uniform(0.18, 0.35))
    return replace(made, seconds=seconds)


def _strike(rng: np.random.Generator) -> Programme:
    made = _fast(_of_table(rng, movements.STRIKES, "{right}-handed"), rng)
    legs = np.any(made.keys[:, (LIMB >= 2) & ~np.isin(LIMB, (movements.TRUNK, movements.HEAD))])
    return made if legs else replace(made, posture="any")


def _legs(rng: np.random.Generator) -> Programme:
    made = _of_table(rng, movements.LEGS, "{right} leg")
    if made.name.startswith("step"):
        return replace(made, stays=True)
    return _fast(made, rng) if "kick" in made.name else made


def _trunk(rng: np.random.Generator) -> Programme:
    made = _of_table(rng, movements.TRUNKS, "to the {right}")
    kind = made.name.partition(",")[0]
    if kind in movements.POSTURE_OF_TRUNK:
        return replace(made, posture=movements.POSTURE_OF_TRUNK[kind])
    if kind in ("turn", "turn around", "jump forward"):
        return replace(made, stays=True)
    return made


def _change(rng: np.random.Generator) -> Programme:
    """From one posture to another, and perhaps back; the body leans forwards in between."""
    before, after = (str(name) for name in rng.choice(list(movements.POSTURES), 2, replace=False))
    start, end = movements.POSTURES[before], movements.POSTURES[after]
    lean = movements.vector(bend=rng.uniform(0.2, 0.6), flex=rng.uniform(0.0, 0.4))
    return Programme(
        name=f"from {before} to {after}",
        keys=np.array([(start + end) / 2 + lean, end]),
        seconds=rng.uniform(0.5, 1.1, 2),
        used=limbs_of(np.array([start, end, lean])),
        stays=bool(rng.random() < 0.6),
        repeats=(1, 1) if rng.random() < 0.7 else (2, 3),
        start=before,
    )


def _gait(rng: np.random.Generator) -> Programme:
    gait = _pick(rng, movements.GAITS)
    if rng.random() < 0.45:
        return Programme(gait, np.zeros((1, _C)), np.ones(1), np.zeros(_C, bool), gait=gait)
    made = replace(_arms(rng), posture="standing", gait=gait)
    if rng.random() < 0.5:  # hands that carry something
        made = replace(made, stays=True, repeats=(1, 1))
    return replace(made, name=f"{gait}, {made.name}")


# ----------------------------------------------------------------------------------- performances


class _Person(NamedTuple):
    """What a performer has in all clips."""

    scale: np.ndarray  # (limbs,) bone lengths relative to those of `body`
    tempo: float  # factor on durations
    gain: np.ndarray  # (channels,) factor on movements
    posture: np.ndarray  # (channels,) radians, added at all times


@functools.lru_cache(maxsize=2048)
def _person(number: int, seed: int) -> _Person:
    rng = np.random.default_rng([seed, 1000, number])
    child = rng.random() < 0.35
    scale = rng.normal(1.0, 0.06, len(LIMBS))
    scale *= rng.uniform(0.6, 0.9) if child else rng.normal(0.98, 0.06)
    if child:  # longer trunk, shorter legs
        scale[LIMBS.index("leg")] *= 0.93
        scale[LIMBS.index("trunk")] *= 1.05
    return _Person(
        scale=scale,
        tempo=float(np.exp(rng.normal(0.0, 0.2))),
        gain=rng.uniform(0.85, 1.12) * rng.normal(1.0, 0.1, _C),
        posture=np.where(_ANGLES & ~_WHOLE_BODY, rng.normal(0.0, 0.07, _C), 0.0),
    )


class _Score(NamedTuple):
    """One person's part in one clip.

    Attributes:
        times: (K,) seconds at which each pose is reached.
        poses: (K, channels).
        swing: of the programme, in this person's manner.
        swinging: first and last second of the swing.
        seconds: in total.
        gait: its channels take part where the limb is free.
        free: (channels,) booleans, channels that the gait may move.
        cadence: cycles of the gait per second.
        stride: factor on its amplitude.
    """

    times: np.ndarray
    poses: np.ndarray
    swing: Swing | None
    swinging: tuple[float, float]
    seconds: float
    gait: str
    free: np.ndarray
    cadence: float
    stride: float


def _score(rng: np.random.Generator, programme: Programme, person: _Person) -> _Score:
    """Draws how a person performs a programme."""
    posture = programme.posture
    if posture == "any":
        posture = "sitting" if rng.random() < 0.25 else "standing"
    base = movements.POSTURES[posture] * rng.uniform(0.9, 1.08) + person.posture
    rest = movements.RESTS[rng.integers(len(movements.RESTS))] * rng.uniform(0.3, 1.2)
    rest = RIG.mirrored(rest) if rng.random() < 0.5 else rest
    if posture != "standing" or programme.start:
        rest = np.where(_ARMS, rest, 0.0)
    gain = person.gain * rng.normal(1.0, 0.07, _C) * rng.uniform(0.85, 1.12)
    gain[_WHOLE_BODY] = 1.0
    start = base + rest * (0.3 if rng.random() < 0.5 else 1.0)
    if programme.start:
        start = base + movements.POSTURES[programme.start]

    pace = person.tempo * float(np.exp(rng.normal(0.0, 0.18)))
    clock = float(rng.uniform(0.0, 1.5)) if rng.random() < 0.8 else 0.0
    times, poses, first = [0.0, clock], [start, start], None

    def reach(pose: np.ndarray, seconds: float) -> None:
        times.append(times[-1] + seconds)
        poses.append(pose)

    rounds = int(rng.integers(*programme.repeats, endpoint=True))
    for turn in range(rounds):
        varied = pace * float(np.exp(rng.normal(0.0, 0.08)))
        for key, seconds in zip(programme.keys, programme.seconds, strict=True):
            jitter = np.where(_ANGLES & (key != 0), rng.normal(0.0, 0.06, _C), 0.0)
            # Arms take the key pose itself, trunk and legs add it to the posture.
            moved = key * gain + jitter + np.where(_ARMS, 0.0, base)
            reach(np.where(programme.used, moved, base + rest), seconds * varied)
            first = times[-1] if first is None else first
            hold = programme.hold * rng.uniform(0.6, 1.4)
            if hold > 0.05:
                reach(poses[-1] + np.where(_ANGLES, rng.normal(0.0, 0.02, _C), 0.0), hold)
        last, ends = times[-1], turn == rounds - 1 or times[-1] > LONGEST
        if not programme.stays if ends else programme.between:
            share = 1.0 if ends else rng.uniform(0.7, 1.0)
            back = programme.seconds[0] * varied * rng.uniform(0.9, 1.3)
            reach(poses[-1] * (1 - share) + start * share, back)
        if ends:
            break
    end = times[-1] + (rng.uniform(0.0, 1.5) if rng.random() < 0.8 else 0.0)
    if programme.gait:  # goes on all the time
        end = max(end, rng.uniform(2.0, 5.0))
    swing = programme.swing
    if swing is not None:
        swing = Swing(swing.amplitude * gain, swing.phase + rng.random(), swing.rate / pace)
    return _Score(
        times=np.array(times),
        poses=np.array(poses),
        swing=swing,
        swinging=(first or 0.0, last),
        seconds=max(float(end), 1.0),
        gait=programme.gait,
        # Hands that do something else do not swing with the steps.
        free=~(programme.used & _ARMS),
        cadence=movements.GAITS.get(programme.gait, 0.0)
        * float(np.exp(rng.normal(0.0, 0.15)))
        / person.tempo,
        stride=float(rng.uniform(0.7, 1.25)),
    )


def _perform(score: _Score, time: np.ndarray) -> np.ndarray:
    """(frames, channels) of one person at times in seconds."""
    place = np.searchsorted(score.times, time, side="right").clip(1, len(score.times) - 1)
    before, after = score.times[place - 1], score.times[place]
    share = ((time - before) / np.maximum(after - before, 1e-6)).clip(0.0, 1.0)[:, None]
    share = (share * (1 + _LAG.max()) - _LAG).clip(0.0, 1.0)
    share = share**3 * (10 + share * (6 * share - 15))
    channels = score.poses[place - 1] * (1 - share) + score.poses[place] * share
    if score.gait:
        phase = 2 * np.pi * (score.cadence * time + score.stride)
        for channel, values in movements.gait_channels(score.gait, phase, score.stride).items():
            if score.free[AT[channel]]:
                channels[:, AT[channel]] += values
    if score.swing is not None:
        amplitude, turns, rate = score.swing
        first, last = score.swinging
        on = smooth_step((time - first) / 0.3 + 1.0) * smooth_step((last - time) / 0.3 + 1.0)
        angle = 2 * np.pi * (rate * time[:, None] + turns)
        channels += on[:, None] * amplitude * np.sin(angle)
    return channels


# ------------------------------------------------------------------------------------- recordings

# Joints of Kinect v2 that other layouts lack.
_LACKING = [list(LAYOUTS[name].missing) for name in ("kinect_v1_20", "coco_17", "smpl_24")]
_SWAPPED = ([4, 5, 6, 7, 21, 22], [8, 9, 10, 11, 23, 24]), ([12, 13, 14, 15], [16, 17, 18, 19])


class Clip(NamedTuple):
    """One recording as a sensor gives it, before normalisation.

    Attributes:
        skeleton: (T, 2, 25, 3) float32 metres in camera coordinates; lost joints, joints that the
            clip's layout lacks, and an absent second person are zeros.
        label: number of the programme.
        performer: of the first person.
        camera: always 1.
    """

    skeleton: np.ndarray
    label: int
    performer: int
    camera: int


def generate(split: str, start: int, stop: int, count: int, seed: int = 0) -> Iterator[Clip]:
    """Yields clips `start` to `stop` (exclusive) of a split; labels cycle through the programmes.

    Args:
        split: "train" or "test"; their performers differ.
        start, stop: the range of clips.
        count: number of programmes.
        seed: of the whole data set; a clip is a function of (seed, split, count, its number).

    Raises:
        KeyError: there is no such split.
    """
    for chunk in range(start // CHUNK, -(-stop // CHUNK)):
        clips = _generate_chunk(split, chunk, count, seed)
        first = chunk * CHUNK
        yield from clips[max(start - first, 0) : stop - first]


def _generate_chunk(split: str, chunk: int, count: int, seed: int) -> list[Clip]:
    """The `CHUNK` clips of one chunk; a *part* is one person in one clip."""
    numbers = PERFORMERS[split]
    rng = np.random.default_rng([seed, 4000 + list(PERFORMERS).index(split), chunk])
    labels = (chunk * CHUNK + np.arange(CHUNK)) % count
    known = programmes(count, seed)
    cast = [numbers[0] + rng.choice(len(numbers), 2, replace=False) for _ in range(CHUNK)]
    clips, parts, channels, bones, turns, shifts = [], [], [], [], [], []
    for clip, label in enumerate(labels):
        lead = known[label]
        turn, shift = _camera(rng, sideways=lead.partner is not None)
        rate = float(np.exp(rng.uniform(*np.log([10, 60])))) if rng.random() < 0.4 else 30.0
        for who, programme in enumerate((lead, lead.partner)):
            if programme is None:
                continue
            person = _person(int(cast[clip][who]), seed)
            score = _score(rng, programme, person)
            if not who:
                frames = int(np.clip(score.seconds * rate, MIN_FRAMES, MAX_FRAMES))
                # Some recordings start in the middle of the movement.
                late = rng.uniform(0.0, 0.25) * score.seconds if rng.random() < 0.15 else 0.0
                time = late + np.arange(frames) / rate
                clips.append(np.zeros((frames, 2, 25, 3), np.float32))
            reaction = rng.uniform(0.0, 0.4) if who else 0.0
            channels.append(_perform(score, time - reaction) + _drift(rng, time))
            bones.append(OFFSETS * person.scale[LIMB_OF_NODE, None])
            # The second person stands opposite and faces the first.
            place = [0.0, 0.0, -lead.distance * rng.uniform(0.85, 1.15) if who else 0.0]
            turns.append(turn * [-1.0, 1.0, -1.0] if who else turn)
            shifts.append(shift + turn @ place)
            parts.append((clip, who))

    lengths = [len(part) for part in channels]
    part_of_frame = np.repeat(np.arange(len(parts)), lengths)
    joints = RIG.joints(
        np.concatenate(channels).astype(np.float32), np.asarray(bones, np.float32)[part_of_frame]
    )
    joints += sensor_noise(rng, (len(joints), 1, 25, 3), part_of_frame)[:, 0]
    joints = joints @ np.asarray(turns, np.float32)[part_of_frame].swapaxes(1, 2)
    joints += np.asarray(shifts, np.float32)[part_of_frame, None]
    for (clip, who), moved in zip(parts, np.split(joints, np.cumsum(lengths)[:-1]), strict=True):
        clips[clip][:, who] = moved
    for skeleton in clips:
        _spoil(rng, skeleton)
    return [
        Clip(skeleton, int(label), int(who[0]), 1)
        for skeleton, label, who in zip(clips, labels, cast, strict=True)
    ]


def _drift(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """(frames, channels): a slow sway, radians."""
    size = np.where(_ANGLES, rng.normal(0.0, 0.03, (2, _C)), 0.0)
    angle = 2 * np.pi * rng.uniform(0.1, 0.5) * time[:, None]
    return size[0] * np.sin(angle) + size[1] * np.cos(angle)


def _camera(rng: np.random.Generator, *, sideways: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) of a scene before the camera, and its shift (3,), metres."""
    facing = rng.uniform(-np.pi, np.pi) if rng.random() < 0.3 else rng.normal(0.0, 0.5)
    if sideways:
        facing += np.pi / 2 * rng.choice([-1, 1])
    pitch = rng.normal(np.radians(-8.0), np.radians(8.0))
    tilt, turn = euler(np.array([[pitch, 0.0, 0.0], [0.0, facing, 0.0]]))
    shift = [rng.normal(0.0, 0.3), rng.normal(-0.9, 0.15), rng.uniform(2.0, 4.2)]
    return tilt @ turn, np.array(shift)


def _spoil(rng: np.random.Generator, skeleton: np.ndarray) -> None:
    """Swaps left and right for some frames, loses joints, and drops a layout's joints; in place."""
    if rng.random() < 0.06:
        for one, other in _SWAPPED:
            start = rng.integers(len(skeleton))
            frames = skeleton[start : start + rng.integers(2, 12)]
            frames[:, :, one + other] = frames[:, :, other + one]
    lose_joints(rng, skeleton)
    if rng.random() < 0.35:
        skeleton[:, :, _LACKING[rng.integers(len(_LACKING))]] = 0.0
