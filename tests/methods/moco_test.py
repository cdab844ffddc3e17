"""The key encoder's moving average and the queue of keys."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm3_jax.methods import moco
from tests import restatement

push = jax.jit(moco.push)


# Few examples, because each combination of sizes compiles.
@settings(max_examples=8)
@given(
    size=st.integers(1, 12),
    pointer=st.integers(0, 11),
    batches=st.lists(st.integers(1, 30), min_size=1, max_size=3),
)
def test_push_is_first_in_first_out_for_any_sizes(size, pointer, batches):
    queue = np.arange(size * 2, dtype=np.float32).reshape(size, 2)
    pointer = pointer % size
    ours, our_pointer = jnp.asarray(queue), jnp.int32(pointer)
    first = 100
    for count in batches:
        keys = np.arange(first, first + 2 * count, dtype=np.float32).reshape(count, 2)
        first += 2 * count
        queue, pointer = restatement.queue_push(queue, pointer, keys)
        ours, our_pointer = push(ours, our_pointer, jnp.asarray(keys))
        np.testing.assert_array_equal(ours, queue)
        assert our_pointer == pointer
        assert our_pointer.dtype == jnp.int32


def test_a_batch_larger_than_the_queue_keeps_its_last_keys():
    queue, pointer = moco.push(jnp.zeros((3, 1)), jnp.int32(1), jnp.arange(1.0, 8)[:, None])
    assert sorted(queue[:, 0].tolist()) == [5, 6, 7]
    # The pointer is at the oldest of them.
    assert queue[pointer, 0] == 5


def test_key_parameters_are_a_moving_average():
    rng = np.random.default_rng(0)
    key, query = (
        {"a": rng.normal(size=3).astype(np.float32), "b": {"c": np.float32(rng.normal())}}
        for _ in range(2)
    )
    moved = moco.update_key_params(key, query, 0.999)
    # One float32 rounding.
    for path in (lambda t: t["a"], lambda t: t["b"]["c"]):
        expected = 0.999 * np.float64(path(key)) + 0.001 * np.float64(path(query))
        np.testing.assert_allclose(path(moved), expected, rtol=0, atol=2e-7)


def test_keys_are_gathered_in_global_order():
    keys = jnp.arange(12.0).reshape(3, 2, 2)
    gathered = jax.vmap(lambda k: moco.gather_keys(k, "data"), axis_name="data")(keys)
    for device in range(3):
        np.testing.assert_array_equal(gathered[device], keys.reshape(6, 2))
    np.testing.assert_array_equal(moco.gather_keys(keys[0], None), keys[0])
