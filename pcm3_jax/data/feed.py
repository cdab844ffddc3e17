"""From recordings to a step's input: packed frames, and a batch of clips that refer to them.

The sequences of a step and their mixing partners are a function of (seed, step) only.  Both feeds
therefore give the same batches on any number of hosts, and a run resumes at any step without a
stored sampler state.

The resident feed keeps all packed frames on the device, so that a step transfers only a few hundred
integers.  The streamed feed reads each batch's sequences from disk, prefetching in threads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import grain
import jax
import numpy as np

from pcm3_jax.data.batch import Batch, Clips
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.parallel import Devices


class Sampler:
    """Draws the global batch of each step, without replacement within an epoch.

    The last, incomplete batch of an epoch is dropped.

    Example:
      sampler = Sampler(count=1000, batch_size=128, seed=0)
      ids, partner = sampler(step=12)  # (128,) sequences; ids[partner] are those mixed in
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        """Raises UserError if the batch is larger than the split's ``count`` sequences."""
        if batch_size > count:
            raise UserError(
                f"config.optimizer.batch_size is {batch_size}, but the training split has only "
                f"{count} sequences."
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.steps_per_epoch = count // batch_size
        self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequence ids (B,) of a step, and the batch position of each one's partner (B,).

        The partner of position i is (i + n) mod B, with one n from U{1 … B - 2} per batch.
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
    """Yields (frames, batch) without end from ``first_step``, with all frames on every device."""
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
    """Yields (frames, batch) without end, with the frames of each batch read from disk.

    Args:
      recordings: the split; frames are read from its ``source``.
      sampler: the batches.
      devices: what the batches are sharded over.
      first_step: the first step to yield.
      threads: threads that read ahead.
    """
    rows = devices.local_rows(sampler.batch_size)
    share = len(rows) // devices.local_count
    # Each device gets the frames of its sequences, then of their partners, padded to max_frames.
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
    """Yields (frames, batch) of every sequence once, in order.

    The last batch is padded with the first sequences.  Nothing is mixed: each sequence is its
    own partner.
    """
    rows = devices.local_rows(batch_size)
    for first in range(0, len(recordings), batch_size):
        ids = (first + rows) % len(recordings)
        frames, clips = _read(recordings, ids, devices)
        position = ids.astype(np.int32)
        yield frames, devices.shard(Batch(clips, clips, position, position))


@dataclasses.dataclass(frozen=True)
class Samples:
    """S labelled excerpts of sequences; every field is (S,) int32.

    Attributes:
      sequence: index of the recording.
      start: first frame of the excerpt in the recording.
      length: number of frames.
      target: class, or another target of the task.
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
    """Yields batches (frames, (clips, target, position)) of samples.

    Args:
      recordings: the sequences that the samples are excerpts of.
      samples: the excerpts.
      order: (batches, B) indices into the samples; a sample's position is its flat index in
        ``order``.
      devices: what the batches are sharded over.
    """
    rows = devices.local_rows(order.shape[1])
    for number, indices in enumerate(order):
        chosen = indices[rows]
        frames, whole = _read(recordings, samples.sequence[chosen], devices)
        clips = Clips(whole.start + samples.start[chosen], samples.length[chosen])
        position = (number * order.shape[1] + rows).astype(np.int32)
        yield frames, devices.shard((clips, samples.target[chosen], position))


def _read(recordings: Recordings, ids: np.ndarray, devices: Devices) -> tuple[jax.Array, Clips]:
    """Frames that hold this process's sequences ``ids``, and the clips in them."""
    if recordings.frames is not None:
        frames, start = recordings.packed()
        return frames, Clips(start[ids], recordings.length[ids])
    padded = recordings.padded(ids)
    share = len(ids) // devices.local_count
    start = np.tile(np.arange(share, dtype=np.int32) * recordings.max_frames, devices.local_count)
    frames = devices.shard(padded.reshape(-1, padded.shape[-1]))
    return frames, Clips(start, recordings.length[ids])
