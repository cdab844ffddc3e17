"""Batches: a function of (seed, step) only, equal for both feeds and any number of hosts."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm3_jax.data import feed, recordings
from pcm3_jax.errors import UserError
from tests.running import assert_same_run

NAME = "synthetic_skeletons/n64x32"


@pytest.fixture(scope="module")
def resident(data_dir, devices):
    return recordings.read(NAME, str(data_dir), "train", 300, devices, resident=True)


@pytest.fixture(scope="module")
def streamed(data_dir, devices):
    return recordings.read(NAME, str(data_dir), "train", 300, devices, resident=False)


sizes = st.integers(3, 40).flatmap(lambda batch: st.tuples(st.integers(batch, 100), st.just(batch)))


@given(sizes, st.integers(0, 2**31), st.integers(0, 5))
def test_an_epoch_has_every_sequence_at_most_once(size, seed, epoch):
    count, batch = size
    sampler = feed.Sampler(count, batch, seed)
    steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
    ids = np.concatenate([sampler(step)[0] for step in steps])
    assert len(ids) == count - count % batch
    assert len(set(ids.tolist())) == len(ids)
    assert set(ids.tolist()) <= set(range(count))


@given(sizes, st.integers(0, 2**31), st.integers(0, 1000))
def test_partners_are_one_common_shift_away(size, seed, step):
    count, batch = size
    _, partner = feed.Sampler(count, batch, seed)(step)
    shifts = (partner - np.arange(batch)) % batch
    assert len(set(shifts.tolist())) == 1
    assert 1 <= shifts[0] <= batch - 2


def test_every_shift_is_drawn():
    sampler = feed.Sampler(5, 5, 0)
    assert {int(sampler(step)[1][0]) for step in range(100)} == {1, 2, 3}


@given(st.permutations(range(12)))
def test_a_batch_does_not_depend_on_earlier_calls(order):
    sampler = feed.Sampler(23, 6, 1)
    for step in order:
        fresh = feed.Sampler(23, 6, 1)(step)
        for ours, theirs in zip(sampler(step), fresh, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_epochs_and_seeds_have_different_orders():
    first = feed.Sampler(64, 64, 0)
    assert (first(0)[0] != first(1)[0]).any()
    assert (first(0)[0] != feed.Sampler(64, 64, 1)(0)[0]).any()


def test_a_batch_larger_than_the_split_is_an_error():
    with pytest.raises(UserError, match=r"batch_size is 65, but .* only 64 sequences"):
        feed.Sampler(64, 65, 0)


def clips_of(frames, clips) -> list[np.ndarray]:
    """The frames that a batch's clips refer to, device by device."""
    clips = jax.tree.map(np.asarray, clips)
    # The streamed feed has separate frames per device, the resident one shares them.
    per_device = np.asarray(frames)
    if per_device.ndim == 2:
        per_device = np.broadcast_to(per_device, (len(clips.start), *per_device.shape))
    return [
        per_device[device, start : start + length]
        for device in range(len(clips.start))
        for start, length in zip(clips.start[device], clips.length[device], strict=True)
    ]


def assert_same_batches(one, other, count: int) -> None:
    for (frames, batch), (other_frames, other_batch) in itertools.islice(
        zip(one, other, strict=False), count
    ):
        np.testing.assert_array_equal(batch.position, other_batch.position)
        np.testing.assert_array_equal(batch.partner, other_batch.partner)
        for name in ("clips", "partner_clips"):
            ours = clips_of(frames, getattr(batch, name))
            theirs = clips_of(other_frames, getattr(other_batch, name))
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("first_step", [0, 5])
@pytest.mark.parametrize("threads", [1, 8])
def test_streamed_and_resident_feeds_give_the_same_batches(
    resident, streamed, devices, first_step, threads
):
    sampler = feed.Sampler(64, 16, 3)
    assert_same_batches(
        feed.resident_batches(resident, sampler, devices, first_step),
        feed.streamed_batches(streamed, sampler, devices, first_step, threads),
        count=6,
    )


def test_joined_splits_are_the_same_resident_and_streamed(resident, streamed, devices):
    both, read = recordings.joined([resident, resident]), recordings.joined([streamed, streamed])
    assert len(both) == 128
    assert (both.label[:64] == resident.label).all()
    assert (both.label[64:] == -1).all()
    sampler = feed.Sampler(128, 16, 3)
    assert_same_batches(
        feed.resident_batches(both, sampler, devices, 0),
        feed.streamed_batches(read, sampler, devices, 0, threads=2),
        count=6,
    )
    for index in (3, 67):
        ours = np.asarray(both.frames)[both.start[index] :][: both.length[index]]
        start, length = resident.start[index % 64], resident.length[index % 64]
        theirs = np.asarray(resident.frames)[start : start + length]
        np.testing.assert_array_equal(ours[:, : theirs.shape[1]], theirs)


class Hosts:
    """Stands in for the devices of one of several processes; shards rows as for pmap."""

    def __init__(self, index: int, processes: int, local_count: int) -> None:
        self._index, self._processes = index, processes
        self.local_count = local_count
        self.count = processes * local_count

    def local_rows(self, batch_size: int) -> np.ndarray:
        local = batch_size // self._processes
        return np.arange(local) + self._index * local

    def shard(self, tree):
        return jax.tree.map(lambda x: x.reshape(self.local_count, -1, *x.shape[1:]), tree)


@pytest.mark.parametrize(("processes", "local_count"), [(1, 4), (2, 2), (4, 1)])
def test_hosts_share_a_batch_in_process_order(resident, streamed, devices, processes, local_count):
    sampler = feed.Sampler(64, 16, 3)
    _, whole = next(feed.resident_batches(resident, sampler, devices, 2))
    partners, lengths = [], []
    for index in range(processes):
        host = Hosts(index, processes, local_count)
        one = feed.resident_batches(resident, sampler, host, 2)
        other = feed.streamed_batches(streamed, sampler, host, 2, threads=2)
        assert_same_batches(one, other, count=2)
        _, batch = next(feed.resident_batches(resident, sampler, host, 2))
        partners += batch.partner.reshape(-1).tolist()
        lengths += batch.clips.length.reshape(-1).tolist()
    assert partners == whole.partner.reshape(-1).tolist()
    assert lengths == whole.clips.length.reshape(-1).tolist()


@pytest.mark.parametrize("batch_size", [1, 7, 16, 63, 64, 100])
@pytest.mark.parametrize("stream", [False, True])
def test_evaluation_yields_every_sequence_once_in_order(
    resident, streamed, devices, batch_size, stream
):
    split = streamed if stream else resident
    positions, clips = [], []
    for frames, batch in feed.evaluation_batches(split, devices, batch_size):
        positions += batch.position.reshape(-1).tolist()
        clips += clips_of(frames, batch.clips)
    assert positions[:64] == list(range(64))
    # The caller drops the rows that fill the last batch.
    assert len(positions) == -(-64 // batch_size) * batch_size
    for i in range(64):
        start, length = resident.start[i], resident.length[i]
        np.testing.assert_array_equal(clips[i], resident.frames[start : start + length])


def test_training_on_the_streamed_feed_is_bitwise_equal(program, finished_run, tmp_path):
    code, _, err = program.run(tmp_path, "--config.data.feed=disk")
    assert (code, err) == (0, "")
    assert_same_run(finished_run[0], tmp_path)
