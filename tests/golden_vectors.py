"""Loads the golden vectors under `tests/golden` (its README says what they are).

Skeleton arrays come out in this project's layout (N, T, M, V, C): sequences, frames, persons,
joints, coordinates. Names of parameters and gradients are the PyTorch program's.
"""

import dataclasses
import functools
import json
import lzma
import pathlib
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "golden"
RUNS = ("cutmix", "resizemix", "mixup", "noprompt")

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Sample:
    """Values of a larger array at some flat positions.

    Attributes:
      positions: (P,) integer, into the array in C order of its (N, T, M, V, C) layout.
      values: (P,) float32.
    """

    positions: np.ndarray
    values: np.ndarray

    def of(self, array: Any) -> np.ndarray:
        """The same positions of `array` (N, T, M, V, C), as (P,)."""
        return np.asarray(array).reshape(-1)[self.positions]


@dataclasses.dataclass(frozen=True)
class GoldenStep:
    """Inputs, draws and results of one optimizer step.

    Attributes:
      query, key, target: (N, T, M, V, C) float32, the three augmented views.
      mask: (T, V) float32, 1 visible, 0 masked. It holds for every sequence and coordinate of
        the first person; the second person is never masked.
      method: "cutmix", "resizemix" or "mixup".
      partner: (N,) int64, index of the sequence each one is mixed with.
      lam: λ, the partner's share.
      parts: body parts drawn for the mix, into (trunk, left arm, right arm, left leg, right leg).
      ct, start_block: blocks of four frames taken, and the first of them. Drawn, but unused, for
        Mixup, as are `parts`.
      method_draw: the number in [0, 1) that chose the method.
      prompt_offsets: (6,) int64 or None, channel offsets of the task prompts: intra query, masked
        view before the decoder, masked view before the projector, predicted view, inter view, key.
      losses: loss, nce_intra, nce_inter, nce_mask, nce_predict, mask_mse, kl; Python floats.
      logits: intra, inter, mask, predict; (N, 1 + K) float32, divided by the temperature.
      mixed, reconstruction: samples of the inter view and of the decoder's output.
    """

    query: np.ndarray
    key: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    method: str
    partner: np.ndarray
    lam: float
    parts: tuple[int, ...]
    ct: int
    start_block: int
    method_draw: float
    prompt_offsets: np.ndarray | None
    losses: dict[str, float]
    logits: Arrays
    mixed: Sample
    reconstruction: Sample

    def full_mask(self) -> np.ndarray:
        """The mask as (N, T, M, V, C) float32."""
        full = np.ones(self.query.shape, np.float32)
        full[:, :, 0] = self.mask[None, :, :, None]
        return full


@dataclasses.dataclass(frozen=True)
class GoldenRun:
    """Three consecutive steps from one initial state.

    Attributes:
      init: state before the first step, by PyTorch name.
      steps: the three steps.
      gradients: of the first step, by PyTorch parameter name.
      after: state after the third step, by PyTorch name.
    """

    init: Arrays
    steps: list[GoldenStep]
    gradients: Arrays
    after: Arrays


@dataclasses.dataclass(frozen=True)
class GoldenCrop:
    """One temporal crop-resize, on a few joints.

    Attributes:
      sequence: (n, M, J, C) float32, the real frames, n of them.
      start, length: the crop. For the central crop of evaluation, None.
      view: (64, M, J, C) float32.
    """

    sequence: np.ndarray
    start: int | None
    length: int | None
    view: np.ndarray


def load_step(name: str) -> GoldenRun:
    """The pretraining run `name`, one of `RUNS`.

    Raises:
      ValueError: if there is no such run.
    """
    if name not in RUNS:
        raise ValueError(f"no golden run {name!r}; there are {', '.join(RUNS)}")
    inputs = "noprompt" if name == "noprompt" else "prompt"
    _, given = read_archive(f"inputs_{inputs}.xz")
    draws, results = read_archive(f"run_{name}.xz")
    steps = [
        _step(_below(given, f"step{s}"), draws["steps"][s], _below(results, f"step{s}"))
        for s in range(len(draws["steps"]))
    ]
    return GoldenRun(
        init=_below(given, "init"),
        steps=steps,
        gradients=_below(results, "gradients"),
        after=_below(results, "after"),
    )


def load_crops() -> tuple[list[GoldenCrop], list[GoldenCrop]]:
    """Random training crops (16) and central 0.95 crops for evaluation (4)."""
    meta, arrays = read_archive("crops.xz")
    train, evaluation = [], []
    for i, (index, start, length) in enumerate(meta["train"]):
        sequence = arrays[f"sequence/{index}"]
        train.append(GoldenCrop(sequence, start, length, arrays[f"train/{i}"]))
    for index in meta["evaluation"]:
        sequence = arrays[f"sequence/{index}"]
        evaluation.append(GoldenCrop(sequence, None, None, arrays[f"evaluation/{index}"]))
    return train, evaluation


def load_streams() -> Arrays:
    """`joint`, `motion` and `bone`, each (1, 64, M, V, C) float32."""
    return dict(read_archive("streams.xz")[1])


@functools.cache
def read_archive(name: str) -> tuple[Any, Arrays]:
    """The JSON part and the (read-only) arrays of one file under `tests/golden`.

    The file is one LZMA stream: a four-byte length, a JSON header, then the arrays' bytes as
    `pack.py` arranged them (all first bytes of an array's items, then all second bytes, ...).
    An array with a `grid` holds integer multiples of it, folded so that small negative numbers
    stay small (0, -1, 1, -2, ... become 0, 1, 2, 3, ...).
    """
    stream = lzma.decompress((FOLDER / name).read_bytes())
    head_end = 4 + int.from_bytes(stream[:4], "little")
    header = json.loads(stream[4:head_end])
    arrays: Arrays = {}
    offset = head_end
    for entry in header["arrays"]:
        shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
        size = int(np.prod(shape)) * dtype.itemsize
        planes = np.frombuffer(stream, np.uint8, size, offset).reshape(dtype.itemsize, -1)
        offset += size
        array = np.ascontiguousarray(planes.T).view(dtype).reshape(shape)
        if entry["grid"] is not None:
            folded = array.astype(np.int64)
            array = (((folded >> 1) ^ -(folded & 1)) * entry["grid"]).astype(np.float32)
        array.flags.writeable = False
        arrays[entry["name"]] = array
    return header["meta"], arrays


def _below(arrays: Arrays, prefix: str) -> Arrays:
    """Entries under `prefix/`, without it."""
    start = prefix + "/"
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}


def _step(given: Arrays, draws: dict[str, Any], results: Arrays) -> GoldenStep:
    names = ("mixed", "reconstruction")
    samples = {n: Sample(results["positions"], results[n]) for n in names}
    return GoldenStep(
        query=given["query"],
        key=given["key"],
        target=given["target"],
        mask=np.unpackbits(given["mask"], axis=1)[:, : given["query"].shape[3]].astype(np.float32),
        method=draws["method"],
        partner=results["partner"],
        lam=float(results["lam"]),
        parts=tuple(draws["parts"]),
        ct=draws["ct"],
        start_block=draws["start_block"],
        method_draw=draws["method_draw"],
        prompt_offsets=results.get("prompt_offsets"),
        losses={name: float(value) for name, value in _below(results, "loss").items()},
        logits=_below(results, "logits"),
        **samples,
    )
