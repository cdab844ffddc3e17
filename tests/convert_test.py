"""PyTorch names and layouts: which tensor goes where. Golden steps prove the numbers."""

import jax
import numpy as np
import pytest

from pcm3_jax import convert
from pcm3_jax.config import default_config
from pcm3_jax.state import build_model, build_optimizer, create_state
from tests import golden_vectors


def template(**method):
    """Shapes of a state of the golden runs' sizes."""
    config = default_config()
    config.model.update(hidden=16, projection=8, decoder_hidden=12, prompt_width=4)
    config.method.update(queue_size=40, **method)
    model, optimizer = build_model(config), build_optimizer(config, 1)
    return jax.eval_shape(lambda: create_state(model, optimizer, config))


@pytest.fixture(scope="module")
def tensors():
    return golden_vectors.load_step("cutmix").init


@pytest.mark.parametrize("prompts", [True, False])
def test_a_state_has_the_shapes_of_ours(tensors, prompts):
    expected = template(domain_prompts=prompts, task_prompts=prompts)
    state = convert.state_from_torch(tensors, expected)
    shapes = lambda s: jax.tree.map(lambda x: (x.shape, str(x.dtype)), s)  # noqa: E731
    assert shapes(state) == shapes(expected)


def test_every_tensor_is_used_once(tensors):
    """Each tensor filled with its own number: all numbers arrive, none twice."""
    names = [name for name in tensors if not name.endswith("num_batches_tracked")]
    numbered = {n: np.full(tensors[n].shape, i, np.float32) for i, n in enumerate(names)}
    state = convert.state_from_torch(numbered, template())
    parts = (state.params, state.batch_stats, state.key_params, state.key_batch_stats)
    found = [
        value
        for leaf in jax.tree.leaves((parts, state.queue, state.queue_pointer))
        for value in np.unique(leaf)
    ]
    assert sorted(found) == list(range(len(names)))


def test_layouts(tensors):
    params = convert.params_from_torch(tensors)
    layer, gru = params["encoder"]["gru"]["layer_1"], "encoder_q.encoder.gru"
    for direction, suffix in enumerate(("", "_reverse")):
        for ours, theirs in (
            (layer["input_kernel"][direction].T, "weight_ih_l1"),
            (layer["recurrent_kernel"][direction].T, "weight_hh_l1"),
            (layer["input_bias"][direction], "bias_ih_l1"),
            (layer["recurrent_bias"][direction], "bias_hh_l1"),
        ):
            np.testing.assert_array_equal(ours, tensors[f"{gru}.{theirs}{suffix}"])
    outer = params["projector"]["outer"]
    np.testing.assert_array_equal(outer["kernel"].T, tensors["encoder_q.fc.2.weight"])
    prompts = params["prompts"]
    np.testing.assert_array_equal(prompts["task_contrast"], tensors["cl_prompt"].ravel())
    np.testing.assert_array_equal(prompts["domain_inter"], tensors["mix_prompt"].ravel())


def test_the_key_encoder_is_its_own(tensors):
    keys = convert.params_from_torch(tensors, "encoder_k")
    assert keys.keys() == {"encoder", "projector"}
    kernel = keys["projector"]["inner"]["kernel"]
    np.testing.assert_array_equal(kernel.T, tensors["encoder_k.fc.0.weight"])
    stats = convert.batch_stats_from_torch(tensors, "encoder_k")
    assert stats.keys() == {"encoder"}
    variance = stats["encoder"]["input_norm"]["variance"]
    np.testing.assert_array_equal(variance, tensors["encoder_k.input_norm.running_var"])


def test_the_queue_is_turned_and_the_pointer_kept(tensors):
    full = dict(tensors) | {"queue_ptr": np.array([7])}
    state = convert.state_from_torch(full, template())
    np.testing.assert_array_equal(state.queue, tensors["queue"].T)
    assert state.queue.flags.c_contiguous
    assert state.queue_pointer == 7 and state.queue_pointer.dtype == np.int32
