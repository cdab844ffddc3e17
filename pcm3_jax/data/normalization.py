"""Public preprocessing of Kinect v2 skeletons: body selection and view normalisation.

The steps are those behind published results on NTU RGB+D (from the data scripts of st-gcn and
2s-AGCN), as array operations. Skeletons are float32 metres with axes (time, person, joint, xyz). An
all-zero joint is one that the sensor did not see; a frame whose joints are all zero is empty.
"""

from collections.abc import Callable

import numpy as np

HIP, SPINE, LEFT_SHOULDER, RIGHT_SHOULDER = 0, 1, 4, 8
# No sensor sees a person at this distance; larger numbers are probably millimetres.
MAX_METRES = 100.0
# A spine at the origin is a lost one, or that of a skeleton which is centred on it. Then the mean
# of the joints is this near to the origin, in metres; no sensor sees a whole person so close.
_CENTRED = 0.5
# Moves a joint from the origin, where it would count as lost.
NANOMETRE = 1e-9
# The joints that define a person's position and orientation.
_ANCHORS = (HIP, SPINE, LEFT_SHOULDER, RIGHT_SHOULDER)
_Z_AXIS = np.array([0.0, 0.0, 1.0])
_X_AXIS = np.array([1.0, 0.0, 0.0])
_PARALLEL = 1e-6  # below this sine (or length in metres) a rotation axis is not defined


def select_bodies(slots: np.ndarray) -> np.ndarray:
    """Keeps the two bodies that move most, the one with the most motion first.

    Motion is the sum over x, y and z of the standard deviation over all joints of a slot's
    non-empty frames. Ghost bodies (furniture) hardly move and are dropped.

    Args:
        slots: (T, S, 25, 3) metres, one slot per position in the sensor's list of bodies, zeros
            where a slot is unused.

    Returns:
        (T, 2, 25, 3) of the same dtype; absent persons are zeros.
    """
    frames, count = slots.shape[:2]
    energy = np.zeros(max(count, 2))
    for slot in range(count):
        body = slots[:, slot]
        present = body[body.any(axis=(1, 2))]
        if len(present):
            energy[slot] = present.std(axis=(0, 1)).sum()
    padded = np.zeros((frames, len(energy), *slots.shape[2:]), slots.dtype)
    padded[:, :count] = slots
    return padded[:, energy.argsort()[::-1][:2]]


def leading_persons(
    poses: np.ndarray, visible: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Drops persons who are never there and, of more than `count`, those who move least.

    Unlike `select_bodies`, which repeats a published program, this keeps the order of up to `count`
    persons, and does not take a lost joint for a movement.

    Args:
        poses: (T, M, 25, 3) metres, zeros where a person is absent or a joint is missing.
        visible: (T, M, 25) booleans, False where a joint is missing.
        count: 1 or 2.

    Returns:
        Both for two persons, (T, 2, 25, 3) and (T, 2, 25); an absent person is zeros and visible.
    """
    there = np.flatnonzero(poses.any(axis=(0, 2, 3)))
    if len(there) > count:
        motion = [_motion(poses[:, person], visible[:, person]) for person in there]
        there = there[np.argsort(motion, kind="stable")[::-1][:count]]
    chosen = np.zeros((len(poses), 2, *poses.shape[2:]), poses.dtype)
    seen = np.ones(chosen.shape[:-1], bool)
    chosen[:, : len(there)], seen[:, : len(there)] = poses[:, there], visible[:, there]
    return chosen, seen


def _motion(person: np.ndarray, visible: np.ndarray) -> float:
    """Mean standard deviation over time of the joints (T, 25, 3) while they are seen, in metres."""
    known = (visible & person.any(axis=-1))[..., None]
    frames = np.maximum(known.sum(axis=0), 1)
    mean = (person * known).sum(axis=0) / frames
    return float(np.sqrt(((person - mean) ** 2 * known).sum(axis=0) / frames).mean())


def normalize_sequence(skeleton: np.ndarray) -> np.ndarray:
    """Fills empty frames, centres on the first person's spine and aligns the body with the axes.

    1. If a person's first frame is empty, all empty frames of that person are removed, so that the
       others move to the start. Empty frames at a person's end are filled by repeating that
       person's frames from the start.
    2. In each frame the first person's spine is subtracted from every visible joint.
    3. All frames are rotated by one rotation, which aligns the direction hip → spine in the first
       person's first frame with the z axis.
    4. A second rotation aligns left shoulder → right shoulder in that frame with the x axis.

    Two cases are defined that the public program leaves undefined: a rotation is skipped where one
    of its two joints is missing, and a direction opposite to its axis is rotated by 180°. As in the
    public program, step 2 leaves frames unchanged in which the first person's spine is missing;
    callers that can interpolate it do so first (`apply_around_missing`).

    Sequences are not cut. The public program uses the first 300 frames; to reproduce it, cut longer
    sequences before the call, because step 1 depends on the length.

    Args:
        skeleton: (T, M, 25, 3) metres, first person first, T >= 1 of any length.

    Returns:
        A new float32 array of the same shape.

    Raises:
        ValueError: the shape is wrong, a coordinate is not finite, or every frame of every
            person is empty.
    """
    if skeleton.ndim != 4 or skeleton.shape[2:] != (25, 3):
        raise ValueError(f"a skeleton sequence has shape (T, M, 25, 3), got {skeleton.shape}")
    if not np.isfinite(skeleton).all():
        raise ValueError("the skeleton sequence has coordinates that are not finite")
    if not skeleton.any():
        raise ValueError("the skeleton sequence is empty: no joint of any person was seen")

    # float64 until the end, so that two rotations lose no float32 precision.
    filled = np.stack([_fill_empty_frames(person) for person in skeleton.swapaxes(0, 1)], axis=1)
    seen = np.any(filled, axis=-1, keepdims=True)
    posed = (filled.astype(np.float64) - filled[:, :1, SPINE : SPINE + 1]) * seen

    first_seen = seen[0, 0, :, 0]
    if first_seen[HIP] and first_seen[SPINE]:
        posed = posed @ _rotation_between(posed[0, 0, SPINE] - posed[0, 0, HIP], _Z_AXIS).T
    if first_seen[LEFT_SHOULDER] and first_seen[RIGHT_SHOULDER]:
        across = posed[0, 0, RIGHT_SHOULDER] - posed[0, 0, LEFT_SHOULDER]
        posed = posed @ _rotation_between(across, _X_AXIS).T
    return posed.astype(np.float32)


def center_sequence(skeleton: np.ndarray) -> np.ndarray:
    """Translates a sequence so that the first person's spine starts at the origin.

    Unlike `normalize_sequence` this keeps people's trajectories, and rotates nothing.

    Args:
        skeleton: (T, M, 25, 3) metres.

    Returns:
        A new float32 array of the same shape; missing joints stay zero.
    """
    seen = np.any(skeleton, axis=-1, keepdims=True)
    start = skeleton[seen[:, 0, SPINE, 0].argmax(), 0, SPINE].astype(np.float64)
    return ((skeleton - start) * seen).astype(np.float32)


def no_normalization(skeleton: np.ndarray) -> np.ndarray:
    """Returns the skeletons as recorded."""
    return skeleton


# Ways to store skeletons; a data set's configuration name may end in `_` and one of these.
# Without, skeletons are "normalized", except in `_RECORDED`.
NORMALIZATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "normalized": normalize_sequence,
    "centered": center_sequence,
    "recorded": no_normalization,
}
# Whole videos for detection; the public detection program does not normalise them.
_RECORDED = ("pku_mmd/part1_xsub_untrimmed", "pku_mmd/part1_xview_untrimmed")


def normalization_of(data_name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The normalisation of the skeletons of a data set, "name" or "name/config".

    Example:
        normalization_of("pku_mmd/part1_xsub_untrimmed_centered")  # center_sequence
    """
    if data_name in _RECORDED:
        return no_normalization
    config = data_name.partition("/")[2]
    return NORMALIZATIONS.get(config.rpartition("_")[2], normalize_sequence)


def is_centred(person: np.ndarray) -> np.ndarray:
    """In which frames a person (..., 25, 3) has its spine at the origin, rather than lost it."""
    seen = np.asarray(person.any(axis=-1))
    mean = person.sum(axis=-2) / np.maximum(seen.sum(axis=-1), 1)[..., None]
    near = np.linalg.norm(mean, axis=-1) < _CENTRED
    return np.asarray(near & ~seen[..., SPINE] & seen.any(axis=-1))


def apply_around_missing(
    normalization: Callable[[np.ndarray], np.ndarray], poses: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Normalises a sequence with missing joints.

    Where a joint that normalisation depends on (`_ANCHORS`) is missing in some frames, its position
    is interpolated over time for the normalisation; the joint itself stays missing.

    Args:
        normalization: one of `NORMALIZATIONS`.
        poses: (T, M, 25, 3) metres, finite. Coordinates of a missing joint are still used for the
            normalisation where they are not zero.
        visible: (T, M, 25) booleans, False where a joint is missing.

    Returns:
        Normalised poses, zero where a joint is missing, and which joints are visible in them; both
        in the frame order that `normalize_sequence` gives.
    """
    poses, visible = poses.copy(), visible.copy()
    if normalization is not no_normalization:
        poses[is_centred(poses[:, 0]) & visible[:, 0, SPINE], 0, SPINE] = NANOMETRE
    for person in range(poses.shape[1]):
        for joint in _ANCHORS:
            known = np.flatnonzero(poses[:, person, joint].any(axis=-1))
            lost = np.flatnonzero(
                ~visible[:, person, joint] & ~poses[:, person, joint].any(axis=-1)
            )
            if len(lost) and len(known):
                for axis in range(3):
                    poses[lost, person, joint, axis] = np.interp(
                        lost, known, poses[known, person, joint, axis]
                    )
    if normalization is normalize_sequence:
        for person in range(poses.shape[1]):
            visible[:, person] = visible[_order_after_filling(poses[:, person]), person]
    return normalization(poses) * visible[..., None], visible


def _order_after_filling(person: np.ndarray) -> np.ndarray:
    """For each output frame of `normalize_sequence`, the person's input frame, (T,) indices."""
    present = np.flatnonzero(person.any(axis=(1, 2)))
    if not len(present):
        return np.arange(len(person))
    kept = np.arange(present[-1] + 1) if present[0] == 0 else present
    return np.resize(kept, len(person))


def _fill_empty_frames(person: np.ndarray) -> np.ndarray:
    """Step 1 for one person, (T, V, 3) to (T, V, 3); an absent person stays zero."""
    present = np.any(person, axis=(1, 2))
    if not present.any():
        return person
    # If the person is present in the first frame, empty frames between others are kept.
    known = person[: np.flatnonzero(present)[-1] + 1] if present[0] else person[present]
    return known[np.arange(len(person)) % len(known)]


def _rotation_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Smallest rotation (3, 3) of `source` (3,) to the direction of the unit vector `target` (3,).

    The identity where the source is shorter than a micrometre and so has no direction.
    """
    length = np.linalg.norm(source)
    if length < _PARALLEL:
        return np.eye(3)
    source = source / length
    axis, cosine = np.cross(source, target), source @ target
    sine_squared = axis @ axis
    if sine_squared < _PARALLEL**2:
        if cosine > 0:
            return np.eye(3)
        # Opposite directions: 180° about any axis perpendicular to the target.
        perpendicular = np.cross(target, np.roll(target, 1))
        return 2 * np.outer(perpendicular, perpendicular) - np.eye(3)
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross * ((1 - cosine) / sine_squared)  # Rodrigues
