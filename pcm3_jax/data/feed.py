"""From recordings to a step's input: frames and the batch that points into them.

Which sequences make up a step, and whom each is mixed with, is a function of (seed, step)
alone.  So both feeds give the same batches, on any number of hosts, and a run continues
from any step without anything being stored.

The resident feed keeps the packed frames on the device: a step costs the host a few hundred
integers.  The streamed feed reads each batch's sequences from disk ahead of time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import grain
import jax
import numpy as np

from pcm3_jax.augment.pipeline import Batch, Clips
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.parallel import Devices


class Sampler:
    """Draws each step's global batch, epoch by epoch without replacement.

    The last, incomplete batch of an epoch is dropped.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        """Raises UserError where not even one batch fits."""
        if batch_size > count:
            raise UserError(
                f"config.optimizer.batch_size is {batch_size}, but the training split has only "
                f"{count} sequences."
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.steps_per_epoch = count // batch_size
        self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequence ids (B,) of a step, and each position's partner (B,).

        The partner of position i is (i + n) mod B with one n in 1 … B - 2 for the batch.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        drawn = self._drawn
        if drawn is None or drawn[0] != epoch:
            random = np.random.default_rng((self.seed, epoch))
            order = random.permutation(self.count)
            shifts = random.integers(1, self.batch_size - 1, self.steps_per_epoch)
            drawn = self._drawn = (epoch, order, shifts)
        _, order, shifts = drawn
        ids = order[index * self.batch_size : (index + 1) * self.batch_size]
        return ids, (np.arange(self.batch_size) + shifts[index]) % self.batch_size


def resident_batches(
    recordings: Recordings, sampler: Sampler, devices: Devices, first_step: int
) -> Iterator[tuple[jax.Array, Batch]]:
    """Endless (frames, batch) with all frames on every device."""
    rows = devices.local_rows(sampler.batch_size)
    frames, start = recordings.packed()

    def clips(ids: np.ndarray) -> Clips:
        return Clips(start[ids], recordings.length[ids])

    step = first_step
    while True:
        ids, partner = sampler(step)
        batch = Batch(
            clips=clips(ids[rows]),
            partner_clips=clips(ids[partner[rows]]),
            position=rows.astype(np.int32),
            partner=partner[rows].astype(np.int32),
        )
        yield frames, devices.shard(batch)
        step += 1


def streamed_batches(
    recordings: Recordings, sampler: Sampler, devices: Devices, first_step: int, threads: int
) -> Iterator[tuple[jax.Array, Batch]]:
    """Endless (frames, batch) with only the batch's own frames, read by ``threads`` threads."""
    rows = devices.local_rows(sampler.batch_size)
    share = len(rows) // devices.local_count
    # On each device lie its sequences, then their partners, each padded to max_frames.
    start = np.tile(
        np.arange(2 * share, dtype=np.int32) * recordings.max_frames, devices.local_count
    ).reshape(devices.local_count, 2, share)

    def load(step: int) -> tuple[np.ndarray, Batch]:
        ids, partner = sampler(step)
        pairs = np.stack(
            [ids[rows].reshape(-1, share), ids[partner[rows]].reshape(-1, share)], axis=1
        )
        length = recordings.length[pairs]
        frames = recordings.padded(pairs.reshape(-1))
        batch = Batch(
            clips=Clips(start[:, 0].reshape(-1), length[:, 0].reshape(-1)),
            partner_clips=Clips(start[:, 1].reshape(-1), length[:, 1].reshape(-1)),
            position=rows.astype(np.int32),
            partner=partner[rows].astype(np.int32),
        )
        return frames.reshape(-1, frames.shape[-1]), batch

    steps = grain.MapDataset.range(first_step, np.iinfo(np.int32).max).map(load)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    for frames, batch in steps.to_iter_dataset(options):
        yield devices.shard(frames), devices.shard(batch)


def evaluation_batches(
    recordings: Recordings, devices: Devices, batch_size: int
) -> Iterator[tuple[jax.Array, Batch]]:
    """Every sequence once, in order: (frames, batch); the last batch is filled with the first.

    The batch's partners are its own sequences.
    """
    rows = devices.local_rows(batch_size)
    for first in range(0, len(recordings), batch_size):
        ids = (first + rows) % len(recordings)
        frames, clips = _read(recordings, ids, devices)
        position = ids.astype(np.int32)
        yield frames, devices.shard(Batch(clips, clips, position, position))


@dataclasses.dataclass(frozen=True)
class Samples:
    """Pieces of sequences with what is to be learnt from them; S of each, int32.

    Attributes:
      sequence: which of the recordings a piece is from.
      start: its first frame there.
      length: its frames.
      target: its class, or whatever the task needs to know of it.
    """

    sequence: np.ndarray
    start: np.ndarray
    length: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.sequence)


def sample_batches(
    recordings: Recordings, samples: Samples, order: np.ndarray, devices: Devices
) -> Iterator[tuple[jax.Array, tuple[Clips, np.ndarray, np.ndarray]]]:
    """Batches (frames, (clips, target, position)) of samples.

    Args:
      recordings: what the samples are from.
      samples: pieces of them.
      order: (batches, B) indices of samples; their places in ``order`` are the positions.
      devices: the batches are dealt out to them.
    """
    rows = devices.local_rows(order.shape[1])
    for number, indices in enumerate(order):
        chosen = indices[rows]
        frames, whole = _read(recordings, samples.sequence[chosen], devices)
        clips = Clips(whole.start + samples.start[chosen], samples.length[chosen])
        position = (number * order.shape[1] + rows).astype(np.int32)
        yield frames, devices.shard((clips, samples.target[chosen], position))


def _read(recordings: Recordings, ids: np.ndarray, devices: Devices) -> tuple[jax.Array, Clips]:
    """Sequences of this process: the frames that hold them and where they lie there."""
    if recordings.frames is not None:
        frames, start = recordings.packed()
        return frames, Clips(start[ids], recordings.length[ids])
    padded = recordings.padded(ids)
    share = len(ids) // devices.local_count
    start = np.tile(np.arange(share, dtype=np.int32) * recordings.max_frames, devices.local_count)
    frames = devices.shard(padded.reshape(-1, padded.shape[-1]))
    return frames, Clips(start, recordings.length[ids])
