"""Public preprocessing of Kinect v2 skeletons: body selection and view normalisation.

The steps are those that the field's published NTU RGB+D numbers share (they go back to the
st-gcn and 2s-AGCN data scripts), restated as array operations. Skeletons are float32 metres,
axes (time, person, joint, xyz); an all-zero joint is one the sensor did not see, and a frame whose
joints are all zero is called empty.
"""

from collections.abc import Callable

import numpy as np

HIP, SPINE, LEFT_SHOULDER, RIGHT_SHOULDER = 0, 1, 4, 8
# Nobody stands so far from a sensor: such numbers are millimetres, or not coordinates at all.
MAX_METRES = 100.0
# The joints that define where a person is and whom they face.
_ANCHORS = (HIP, SPINE, LEFT_SHOULDER, RIGHT_SHOULDER)
_Z_AXIS = np.array([0.0, 0.0, 1.0])
_X_AXIS = np.array([1.0, 0.0, 0.0])
_PARALLEL = 1e-6  # below this sine (or length in metres) a rotation axis is not defined


def select_bodies(slots: np.ndarray) -> np.ndarray:
    """Keeps the two bodies that move most, the most energetic one first.

    Energy is the sum over x, y, z of the standard deviation over a slot's non-empty frames and
    all joints of these, which sorts out ghost bodies (furniture): they hardly move.

    Args:
        slots: (T, S, 25, 3) metres, one slot for each position in the sensor's list of bodies,
            zeros where a slot is unused.

    Returns:
        (T, 2, 25, 3) of the same type; absent persons are zeros.
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


def normalize_sequence(skeleton: np.ndarray) -> np.ndarray:
    """Fills empty frames, centres on the first person and turns it upright to face the sensor.

    1. A person that enters late is moved to the start; frames after a person's last one repeat
       that person's sequence from its start.
    2. The first person's spine of each frame is subtracted from every seen joint of that frame.
    3. Everything is rotated so that hip to spine of the first person's first frame is the z axis,
    4. then so that the line through that frame's shoulders is the x axis, its positive side that
       of the right shoulder.

    Two cases that the public program leaves to chance are pinned: a rotation whose two joints were
    not both seen is skipped, since no direction is known, and a direction opposite to its axis
    is turned half way round. As there, frames in which the first person's spine was not seen (or
    the first person is absent) are not moved in step 2; callers that can repair them do it first.

    Sequences are not cut. The public program works on the first 300 frames; to reproduce it for
    longer ones, cut before the call, since step 1 depends on the length.

    Args:
        skeleton: (T, M, 25, 3) metres, first person first, T >= 1 of any length.

    Returns:
        A new float32 array of the same shape.

    Raises:
        ValueError: if the shape is another one, a coordinate is not finite, or every frame of every
            person is empty.
    """
    if skeleton.ndim != 4 or skeleton.shape[2:] != (25, 3):
        raise ValueError(f"a skeleton sequence has shape (T, M, 25, 3), got {skeleton.shape}")
    if not np.isfinite(skeleton).all():
        raise ValueError("the skeleton sequence has coordinates that are not finite")
    if not skeleton.any():
        raise ValueError("the skeleton sequence is empty: no joint of any person was seen")

    # float64 until the end: two rotations of metres must not cost float32 digits.
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
    """Moves a sequence so that the first person's spine starts at the origin, without turning it.

    Unlike `normalize_sequence` this keeps the way that people go.

    Args:
        skeleton: (T, M, 25, 3) metres.

    Returns:
        A new float32 array of the same shape; joints that were not seen stay zero.
    """
    seen = np.any(skeleton, axis=-1, keepdims=True)
    start = skeleton[seen[:, 0, SPINE, 0].argmax(), 0, SPINE].astype(np.float64)
    return ((skeleton - start) * seen).astype(np.float32)


def no_normalization(skeleton: np.ndarray) -> np.ndarray:
    return skeleton


# How data sets store skeletons; the name of a configuration may end in `_<one of these>`.
NORMALIZATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "normalized": normalize_sequence,
    "centered": center_sequence,
    "recorded": no_normalization,
}


def normalization_of(data_name: str) -> Callable[[np.ndarray], np.ndarray]:
    """How the data set of that name, "name" or "name/config", stores skeletons."""
    config = data_name.partition("/")[2]
    return NORMALIZATIONS.get(config.rpartition("_")[2], normalize_sequence)


def apply_around_missing(
    normalization: Callable[[np.ndarray], np.ndarray], poses: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Normalises a sequence as far as its joints are known.

    Where a joint that normalisation goes by is missing for some frames, the place to centre on and
    the direction to turn are interpolated over time; the joint itself stays missing.

    Args:
        normalization: a function of this module, or one that changes nothing.
        poses: (T, M, 25, 3) metres, finite; what stands at a missing joint is used where it is not
            zero.
        visible: (T, M, 25) booleans, False where a joint is missing.

    Returns:
        Normalised poses, zero where a joint is missing, and what is visible in them, which follows
        persons whom `normalize_sequence` moves in time.
    """
    poses, visible = poses.copy(), visible.copy()
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
    """Which of a person's frames `normalize_sequence` puts where, (T,)."""
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
    # A person who is there from the start keeps the gaps between their frames.
    known = person[: np.flatnonzero(present)[-1] + 1] if present[0] else person[present]
    return known[np.arange(len(person)) % len(known)]


def _rotation_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Smallest rotation, (3, 3), that turns `source` (3,) to the direction of `target` (unit).

    A source shorter than a micrometre has no direction and gives the identity.
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
        # Opposite: half a turn about any axis square to the target.
        square = np.cross(target, np.roll(target, 1))
        return 2 * np.outer(square, square) - np.eye(3)
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross * ((1 - cosine) / sine_squared)  # Rodrigues
