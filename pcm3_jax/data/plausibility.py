"""Whether skeletons look like a human body in metres, and if not, what is probably wrong.

Skeletons are converted to Kinect v2's joints already (`read_skeleton`), raw or normalised; up is
whichever way the trunk points, so that neither the camera's axes nor a normalisation matters.

    measures = measure(skeleton)  # lengths, for a person to read
    notes(measures)  # ["trunk 4.9 m where 0.25 to 0.8 m is usual; probably decimetres, …"]
    shared_notes([measure(skeleton) for skeleton in skeletons])  # of a data set
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pcm3_jax.data.formats.arrays import seems_mirrored
from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS, LAYOUTS, Layout, to_kinect_v2
from pcm3_jax.data.skeleton import missing_joints

# Of metres; small children have the shortest trunks.
TRUNK = (0.25, 0.8)
_USUAL_TRUNK = 0.5
# How many of each are a metre.
_UNITS = {
    "millimetres": 1000.0,
    "centimetres": 100.0,
    "inches": 39.37,
    "decimetres": 10.0,
    "feet": 3.281,
}
# Limits of the medians over a recording; genuine sensors stay within them in most recordings.
_UNEVEN = 1.4  # longer over shorter of a left and a right limb
_UNSTEADY = 0.3  # interquartile range of a limb's length over time, as a share of the length
_LIMB_OF_TRUNK = (0.25, 1.8)
_FLAT = 0.02  # extent along an axis, as a share of the trunk
_MIRRORED = "if left and right joints are not swapped, the axes are left-handed: negate one"
_FRAMES = 200  # are enough to measure
LIMBS = {
    "upper arm": ("shoulder", "elbow"),
    "forearm": ("elbow", "wrist"),
    "thigh": ("hip", "knee"),
    "shank": ("knee", "ankle"),
}


class Measures(NamedTuple):
    """Medians over the frames of a recording, of its first person; NaN where joints are missing.

    Attributes:
        trunk: metres, from the middle between the hips to the middle between the shoulders.
        height: metres, the sum of head to shoulders, trunk, thigh and shank.
        limbs: metres, {name in `LIMBS`: (left, right)}.
        unsteady: as `limbs`, the interquartile range over time as a share of the length.
        feet: metres that the ankles are below the hips, seen along the trunk; negative if above.
        extent: metres, of all joints and frames along x, y and z.
        confidence: whether every third coordinate is between 0 and 1.
        crossed: whether the hips' left-right direction is opposite to the shoulders'.
        mirrored: whether feet, or forearms if there are none, point backwards; None if that cannot
            be told.
        order: name of another layout of as many joints whose order would give a body, or None.
    """

    trunk: float
    height: float
    limbs: dict[str, tuple[float, float]]
    unsteady: dict[str, tuple[float, float]]
    feet: float
    extent: tuple[float, float, float]
    confidence: bool
    crossed: bool
    mirrored: bool | None
    order: str | None

    @property
    def ratios(self) -> list[float]:
        """Longer over shorter side, of each limb that is known on both."""
        return [max(pair) / min(pair) for pair in self.limbs.values() if min(pair) > 0]

    @property
    def uneven(self) -> float:
        """The median of `ratios`."""
        return _median(self.ratios)

    @property
    def changing(self) -> float:
        """The median of `unsteady` over all limbs."""
        return _median([share for pair in self.unsteady.values() for share in pair])

    @property
    def proportion(self) -> float:
        """The limbs' length as a share of the trunk's, of the limb that is least like a body's."""
        low, high = _LIMB_OF_TRUNK
        shares = [_median(pair) / self.trunk for pair in self.limbs.values() if self.trunk > 0]
        odd = [max(low / share, share / high) for share in shares if share > 0]
        return shares[int(np.argmax(odd))] if odd else math.nan


class Finding(NamedTuple):
    """Something implausible: its `cause`, the measure that shows it in words, and as a number."""

    cause: str
    shown: str
    value: float


def notes(measures: Measures) -> list[str]:
    """Sentences about what is implausible in a recording and what is probably wrong."""
    return [f"{finding.shown}; {finding.cause}" for finding in _findings(measures)]


def shared_notes(measured: Sequence[Measures]) -> list[str]:
    """Notes about what most of a data set's recordings have in common.

    One recording may be implausible because a sensor lost somebody; most are if units, joints or
    axes are not what they are taken for. Each note shows the median recording.
    """
    found = defaultdict(list)
    for measures in measured:
        for finding in _findings(measures):
            found[finding.cause].append(finding)
    telling = [measures for measures in measured if measures.mirrored is not None]
    shared = []
    for cause, findings in found.items():
        among = len(telling if cause == _MIRRORED else measured)
        if len(findings) > among / 2:
            typical = sorted(findings, key=lambda finding: finding.value)[len(findings) // 2]
            count = f"{len(findings):,} of {among:,} recordings"
            shared.append(f"{count}: {typical.shown}; {cause}")
    return shared


def _findings(measures: Measures) -> Iterator[Finding]:
    """What is implausible, the most fundamental flaw first; what follows from it is left out."""
    extent, trunk, body = min(measures.extent), measures.trunk, _is_body(measures)
    if extent < _FLAT * trunk:
        axis = "xyz"[int(np.argmin(measures.extent))]
        cause = "probably 2-D keypoints, lift them to three dimensions first"
        yield Finding(cause, f"{axis} hardly varies ({extent:.3g} m)", extent)
        return
    if measures.confidence and (trunk > TRUNK[1] or not body):
        cause = "probably 2-D keypoints with a confidence, lift them to three dimensions first"
        yield Finding(cause, "z is never below 0 or above 1", 0.0)
        return
    if not body:
        yield _misplaced(measures)
        return
    if trunk < TRUNK[0] or trunk > TRUNK[1]:
        bounds = f"{TRUNK[0]} to {TRUNK[1]} m is usual"
        yield Finding(_unit(trunk), f"trunk {trunk:.3g} m where {bounds}", trunk)
    if measures.crossed:
        cause = "left and right are probably swapped in the arms or in the legs"
        yield Finding(cause, "hips and shoulders point in opposite directions", 0.0)
    elif measures.mirrored:
        yield Finding(_MIRRORED, "feet (or forearms) point backwards", 0.0)


def _misplaced(measures: Measures) -> Finding:
    """Why limbs are not like a body's."""
    cause = "the joints are probably in another order than the layout's"
    if measures.order:
        cause = f"the joints are probably in the order of {measures.order}, name that layout"
    if measures.uneven > _UNEVEN:
        shown = f"left and right limbs differ by a factor of {measures.uneven:.1f}"
        return Finding(cause, shown, measures.uneven)
    if measures.changing > _UNSTEADY:
        shown = f"limbs change their length by {100 * measures.changing:.0f} %"
        return Finding(cause, shown, measures.changing)
    if measures.feet < 0:
        shown = f"feet {-measures.feet:.2g} m above the hips, seen along the trunk"
        return Finding(cause, shown, measures.feet)
    share = measures.proportion
    return Finding(cause, f"a limb has {share:.1f} times the length of the trunk", share)


def _unit(trunk: float) -> str:
    """The unit in which a trunk of this length would be a usual one."""
    distance = {
        unit: abs(math.log(trunk / per_metre / _USUAL_TRUNK)) for unit, per_metre in _UNITS.items()
    }
    unit = min(distance, key=distance.__getitem__)
    if TRUNK[0] <= trunk / _UNITS[unit] <= TRUNK[1]:
        return f"probably {unit}, divide by {_UNITS[unit]:g}"
    return "probably not metres, scale them until the trunk is one of a person"


def measure(skeleton: np.ndarray) -> Measures:
    """Measures a recording.

    Args:
        skeleton: (T, M, 25, 3), raw or normalised, in any unit; NaN or zeros where a joint is
            missing, zeros where a person is absent.
    """
    step = -(-len(skeleton) // _FRAMES)
    known = np.nan_to_num(skeleton[::step].astype(np.float64))
    known[missing_joints(known)] = np.nan
    poses = known[:, 0][known[:, 0].any(axis=(1, 2))]
    measures = _measure(poses)
    order = None if _is_body(measures) else _better_order(poses)
    return measures._replace(order=order)


def _measure(poses: np.ndarray) -> Measures:
    """Measures one person's poses (T, 25, 3), NaN where a joint is missing; `order` is None."""
    at = dict(zip(KINECT_V2_JOINTS, poses.swapaxes(0, 1), strict=True))
    shoulders = (at["shoulder_left"] + at["shoulder_right"]) / 2
    # Between the hips, since the base of the spine is higher in some layouts.
    trunk = shoulders - (at["hip_left"] + at["hip_right"]) / 2
    lengths = {
        name: [_length(at[f"{a}_{side}"] - at[f"{b}_{side}"]) for side in ("left", "right")]
        for name, (a, b) in LIMBS.items()
    }
    limbs = {name: (_median(left), _median(right)) for name, (left, right) in lengths.items()}
    down = (at["hip_left"] + at["hip_right"] - at["ankle_left"] - at["ankle_right"]) / 2
    across = (at["shoulder_right"] - at["shoulder_left"], at["hip_right"] - at["hip_left"])
    third = poses[..., 2][~np.isnan(poses[..., 2])]
    joints = poses[~np.isnan(poses).any(axis=-1)]
    head = _median(_length(at["head"] - shoulders))
    legs = [_median(limbs[name]) for name in ("thigh", "shank")]
    return Measures(
        trunk=_median(_length(trunk)),
        height=head + _median(_length(trunk)) + sum(legs),
        limbs=limbs,
        unsteady={name: (_spread(left), _spread(right)) for name, (left, right) in lengths.items()},
        feet=_median((down * trunk).sum(axis=-1) / np.maximum(_length(trunk), 1e-9)),
        extent=tuple(np.ptp(joints, axis=0).tolist()) if len(joints) else (math.nan,) * 3,
        confidence=bool(len(third)) and bool(third.min() >= 0 and third.max() <= 1),
        crossed=_median((across[0] * across[1]).sum(axis=-1)) < 0,
        mirrored=seems_mirrored(poses[:, None]),
        order=None,
    )


def _is_body(measures: Measures) -> bool:
    """Whether limbs are steady, alike on both sides, and of a length that suits the trunk."""
    low, high = _LIMB_OF_TRUNK
    return not (
        measures.uneven > _UNEVEN
        or measures.changing > _UNSTEADY
        or measures.proportion < low
        or measures.proportion > high
        or measures.feet < 0
    )


def _better_order(poses: np.ndarray) -> str | None:
    """The layout that these joints have instead of one of as many joints, if that gives a body."""
    missing = set(np.flatnonzero(np.isnan(poses).any(axis=-1).all(axis=0)))
    # The layout was probably the one that explains most of the missing joints.
    fitting = [layout for layout in LAYOUTS.values() if missing.issuperset(layout.missing)]
    given = max(fitting, key=lambda layout: len(layout.missing))
    for name, other in LAYOUTS.items():
        if len(other.joints) != len(given.joints) or other is given:
            continue
        measures = _measure(_relabelled(poses, given, other))
        # Every limb must be alike on both sides: half of them may be by chance.
        ratios = measures.ratios
        if len(ratios) >= 2 and max(ratios) < _UNEVEN and _is_body(measures):
            return name
    return None


def _relabelled(poses: np.ndarray, given: Layout, other: Layout) -> np.ndarray:
    """Poses (T, 25, 3) of one layout as those of another, NaN for joints that were averaged."""
    raw = np.full((len(poses), len(given.joints), 3), np.nan)
    for target, name in enumerate(KINECT_V2_JOINTS):
        if len(given.sources[name]) == 1:
            raw[:, given.joints.index(given.sources[name][0])] = poses[:, target]
    return to_kinect_v2(raw, other)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)


def _median(values: Sequence[float] | np.ndarray) -> float:
    """The median of the values that are not NaN; NaN if there are none."""
    known = np.asarray(values)[~np.isnan(values)]
    return float(np.median(known)) if len(known) else math.nan


def _spread(values: np.ndarray) -> float:
    """The interquartile range as a share of the median."""
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan
    low, middle, high = np.percentile(known, (25, 50, 75))
    return float((high - low) / max(middle, 1e-9))
