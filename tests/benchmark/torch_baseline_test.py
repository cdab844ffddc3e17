"""The PyTorch baselines take the same step as ours and are compared in turn.

Tests that need PyTorch are skipped if it is not installed.
"""

import functools
import json
import sys

import jax
import numpy as np
import pytest

from pcm3_jax.augment.pipeline import Views
from pcm3_jax.benchmark import step as benchmark
from pcm3_jax.data.skeleton import flatten_frames
from pcm3_jax.errors import UserError
from pcm3_jax.inference import torch_layout
from pcm3_jax.methods import pcm3
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.state import build_model, create_state
from pcm3_jax.models.pcm3 import PromptOffsets, QueryViews
from tests import golden_vectors
from tests.golden_test import golden_config, golden_mix

# Float32 rounding over thousands of operations, on either side; the golden vectors' tolerances.
LOSS_TOLERANCE = 1e-5  # relative
STATE_TOLERANCE = 1e-4  # of each tensor's largest entry
# Products of numbers with 8 significant bits.
BFLOAT16_TOLERANCE = 3e-2  # relative

KINDS = ("frame_by_frame", "tuned")
PROMPT_RUNS = tuple(name for name in golden_vectors.RUNS if name != "noprompt")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def make_baseline(torch):
    """(kind, config) → a baseline on the CPU."""
    from pcm3_jax.benchmark import torch_baseline

    assert torch_baseline.KINDS == KINDS
    return lambda kind, config: torch_baseline.Baseline(kind, config, torch.device("cpu"))


@pytest.fixture
def tiny_config(small_config):
    """Two layers, so that one direction's input is both directions' output."""
    small_config.model.layers = small_config.model.decoder_layers = 2
    return small_config


def state_shapes(config):
    model, optimizer = build_model(config), build_optimizer(config.optimizer, 1)
    return jax.eval_shape(lambda: create_state(model, optimizer, config))


def random_state(config):
    """A state of random numbers, all different."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype), state_shapes(config)
    )


def assert_same_state(made, expected) -> None:
    """Within the tolerance in every leaf that has a PyTorch name."""
    made, expected = (
        jax.tree_util.tree_leaves_with_path(s.replace(step=None, finite=None, opt_state=None))
        for s in (made, expected)
    )
    for (path, ours), (_, theirs) in zip(made, expected, strict=True):
        atol = STATE_TOLERANCE * np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=str(path))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROMPT_RUNS)
def test_golden_steps(name, kind, make_baseline):
    """The authors' program's own losses of three steps, and its state after them."""
    run = golden_vectors.load_step(name)
    config = golden_config(prompts=True)
    baseline = make_baseline(kind, config)
    baseline.load(run.init)
    for step in run.steps:
        mixed, share = golden_mix(step)
        visible = np.ones(step.query.shape[1:-1], np.float32)
        visible[:, 0] = step.mask
        query = QueryViews(step.query, step.target, visible, mixed)
        views = Views(query, step.key, step.partner, share)
        losses = baseline.step(baseline.prepare(views, PromptOffsets(*step.prompt_offsets)))
        assert losses == pytest.approx(step.losses, rel=LOSS_TOLERANCE)
    template = state_shapes(config)
    made, after = (
        torch_layout.state_from_torch(t, template) for t in (baseline.tensors(), run.after)
    )
    assert_same_state(made, after)


def test_steps_match_ours(make_baseline, tiny_config, random_views):
    """From our state; the queue of 11 keys wraps in the third step of four."""
    config = tiny_config
    model, optimizer = build_model(config), build_optimizer(config.optimizer, steps_per_epoch=100)
    state = create_state(model, optimizer, config)
    update = jax.jit(
        functools.partial(pcm3.update, model=model, optimizer=optimizer, config=config)
    )
    baselines = [make_baseline(kind, config) for kind in KINDS]
    for baseline in baselines:
        baseline.load_state(state)
    for seed in range(3):
        views, offsets = random_views(config, seed)
        state, metrics = update(state, views, offsets)
        expected = {name: float(metrics[name]) for name in metrics.keys() - {"gradient_norm"}}
        for baseline in baselines:
            losses = baseline.step(baseline.prepare(views, offsets))
            assert losses == pytest.approx(expected, rel=LOSS_TOLERANCE)
            assert_same_state(torch_layout.state_from_torch(baseline.tensors(), state), state)
    assert state.queue_pointer == 12 % 11


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trip_is_exact(kind, make_baseline, tiny_config):
    state = random_state(tiny_config).replace(queue_pointer=np.int32(7))
    baseline = make_baseline(kind, tiny_config)
    baseline.load_state(state)
    jax.tree.map(
        np.testing.assert_array_equal,
        torch_layout.state_from_torch(baseline.tensors(), state),
        state,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_match_ours(kind, make_baseline, torch, tiny_config, random_views):
    """With running statistics that differ from those of a new network."""
    state = random_state(tiny_config)
    baseline = make_baseline(kind, tiny_config)
    baseline.load_state(state)
    poses = random_views(tiny_config)[0].key
    ours = build_model(tiny_config).apply(state.variables, poses, method="embed")
    flat = np.array(flatten_frames(jax.numpy.asarray(poses)).swapaxes(0, 1))
    theirs = baseline.embed(torch.tensor(flat))
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=0, atol=LOSS_TOLERANCE)


def test_only_the_tuned_baseline_uses_bfloat16(make_baseline, tiny_config, random_views):
    """Its loss stays close to that in float32."""
    state = random_state(tiny_config)
    inputs = random_views(tiny_config)
    losses = {}
    for kind in KINDS:
        for dtype in ("float32", "bfloat16"):
            tiny_config.model.dtype = dtype
            baseline = make_baseline(kind, tiny_config.copy())
            baseline.load_state(state)
            losses[kind, dtype] = baseline.step(baseline.prepare(*inputs))["loss"]
    assert losses["frame_by_frame", "bfloat16"] == losses["frame_by_frame", "float32"]
    assert losses["tuned", "bfloat16"] != losses["tuned", "float32"]
    assert losses["tuned", "bfloat16"] == pytest.approx(
        losses["tuned", "float32"], rel=BFLOAT16_TOLERANCE
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method.kl_weight", 0.0),
        ("method.prompt_placement", "after_norm"),
        ("model.recurrence", "bidirectional"),
        ("optimizer.name", "adamw"),
    ],
)
def test_another_step_than_the_published_is_refused(key, value, make_baseline, tiny_config):
    tiny_config.update_from_flattened_dict({key: value})
    needs = rf"config\.{key} is {value!r}, but config\.benchmark\.torch_baseline needs"
    with pytest.raises(UserError, match=needs):
        make_baseline("tuned", tiny_config)


def test_the_benchmark_compares(torch, small_config, tmp_path, capsys):
    threads = torch.get_num_threads()
    small_config.benchmark.torch_baseline = "all"
    small_config.benchmark.steps = 2
    figures = benchmark.benchmark(small_config, tmp_path)
    torch.set_num_threads(threads)
    assert json.loads((tmp_path / "benchmark.json").read_text()) == figures
    sides = {name: value for name, value in figures.items() if isinstance(value, dict)}
    assert tuple(sides) == ("ours", *KINDS)
    for side in sides.values():
        # All saw the same views.
        assert side["first_loss"] == pytest.approx(sides["ours"]["first_loss"], rel=LOSS_TOLERANCE)
        assert side["step_seconds_min"] <= side["step_seconds"] <= side["step_seconds_max"]
        assert side["share_of_product_rate"] > 0
    lines = {line[:32].strip(): line[32:].split() for line in capsys.readouterr().out.splitlines()}
    assert lines[""] == list(sides)
    assert lines["step_seconds"] == [f"{side['step_seconds']:.4g}" for side in sides.values()]


def test_baselines_multiply_in_the_dtype_of_their_step(make_baseline, tiny_config):
    tiny_config.model.dtype = "bfloat16"
    types = {kind: make_baseline(kind, tiny_config).product_type for kind in KINDS}
    assert {kind: str(t) for kind, t in types.items()} == {
        "frame_by_frame": "torch.float32",
        "tuned": "torch.bfloat16",
    }
    assert benchmark.product_rate(make_baseline("tuned", tiny_config).multiply) > 1e9


def test_ratios_are_taken_within_a_round(torch, small_config, monkeypatch):
    """The first round, which compiles, does not count."""

    def turns(_, contestants):
        seconds = {"ours": (9, 1, 2, 4), "tuned": (99, 3, 4, 4)}
        assert contestants.keys() == seconds.keys()
        return {
            name: [benchmark.Turn(s, loss=5.0, product_rate=2e9) for s in row]
            for name, row in seconds.items()
        }

    monkeypatch.setattr(benchmark, "take_turns", turns)
    small_config.benchmark.torch_baseline = "tuned"
    threads = torch.get_num_threads()
    figures = benchmark.compare(small_config)
    torch.set_num_threads(threads)
    tuned = figures["tuned"]
    assert (tuned["step_seconds_min"], tuned["step_seconds"], tuned["step_seconds_max"]) == (
        3,
        4,
        4,
    )
    assert tuned["samples_per_second"] == small_config.optimizer.batch_size / 4
    assert tuned["product_gflop_per_second"] == 2
    names = ("ours_times_as_fast_min", "ours_times_as_fast", "ours_times_as_fast_max")
    assert [tuned[name] for name in names] == [1, 2, 3]
    assert [figures["ours"][name] for name in names] == [1, 1, 1]


def test_several_devices_are_refused(torch, small_config, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    small_config.benchmark.torch_baseline = "all"
    with pytest.raises(UserError, match=r"torch_baseline .* JAX sees 2; hide the others"):
        benchmark.compare(small_config)


def test_without_pytorch_the_benchmark_says_what_to_install(small_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "pcm3_jax.benchmark.torch_baseline", raising=False)
    monkeypatch.delattr("pcm3_jax.benchmark.torch_baseline", raising=False)
    small_config.benchmark.torch_baseline = "all"
    with pytest.raises(UserError) as error:
        benchmark.benchmark(small_config, tmp_path / "run")
    assert 'pip install "pcm3_jax[torch]"' in str(error.value)
    assert not (tmp_path / "run").exists()
