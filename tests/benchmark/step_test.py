import json

import jax
import pytest

from pcm3_jax.benchmark import step as benchmark
from pcm3_jax.config import default_config
from pcm3_jax.errors import UserError
from pcm3_jax.methods.method import decoder_flops, encoder_flops
from pcm3_jax.methods.pcm3 import PCM3Method

step_flops = PCM3Method().step_flops


def test_arithmetic_of_the_published_network():
    # One encoder pass of a 64-frame sequence costs 5.75 GFLOP, a step about 75 GFLOP a sample
    # besides the decoder.
    config = default_config()
    assert encoder_flops(config) == pytest.approx(5.75e9, rel=2e-3)
    assert step_flops(config) == pytest.approx(
        13 * encoder_flops(config) + 6 * decoder_flops(config), rel=4e-3
    )


def test_switched_off_branches_are_not_counted():
    config = default_config()
    whole = step_flops(config)
    config.method.contrast_guides_decoder = False
    without_second_decoding = step_flops(config)
    assert whole - without_second_decoding == 3 * decoder_flops(config)
    config.method.positives = ()
    only_masked = step_flops(config)
    assert only_masked == 3 * (encoder_flops(config) + decoder_flops(config))


@pytest.fixture
def small():
    config = default_config()
    config.model.update(hidden=8, decoder_hidden=8, prompt_width=2, layers=1)
    config.method.queue_size = 16
    config.optimizer.batch_size = 4
    config.benchmark.steps = 2
    return config


def test_comparison_compiles_once(small):
    """The compiled program takes the state that it returns."""
    ours = benchmark.Ours(small)
    assert ours.memory is None
    benchmark.take_turns(small, {"ours": ours})
    assert ours._update._cache_size() == 0
    assert ours.memory > sum(leaf.nbytes for leaf in jax.tree.leaves(ours.state))


def test_batches_that_do_not_divide_are_refused(small, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(UserError, match=r"config\.optimizer\.batch_size is \d+, .* over 3 devices"):
        benchmark.measure(small)


def test_a_run_writes_its_figures(small, tmp_path):
    config = small
    figures = benchmark.benchmark(config, tmp_path)
    assert json.loads((tmp_path / "benchmark.json").read_text()) == figures
    assert figures["step_seconds_min"] <= figures["step_seconds"] <= figures["step_seconds_max"]
    rate = figures["gflop_per_second_per_device"]
    assert rate == pytest.approx(
        figures["gflop_per_sample"] * figures["samples_per_second_per_device"]
    )
    assert 0 <= figures["input_wait_share"] < 1
    assert figures["peak_memory_gb"] > 0


@pytest.fixture
def gpu_config():
    """The paper's network at its batch of 128, to be timed on a GPU of H100's class."""
    if jax.default_backend() != "gpu" or jax.device_count() != 1:
        pytest.skip("It takes one GPU; CUDA_VISIBLE_DEVICES=0 chooses one of several.")
    config = default_config()
    config.benchmark.steps = 20
    return config


@pytest.mark.gpu
def test_bfloat16_step_reaches_a_third_of_a_gpu_s_product_rate(gpu_config):
    gpu_config.model.dtype = "bfloat16"
    figures = benchmark.measure(gpu_config)
    benchmark.print_figures(figures)
    assert figures["share_of_product_rate"] >= 0.35


@pytest.mark.gpu
@pytest.mark.parametrize(
    "dtype, precision",
    [("float32", "highest"), ("float32", "tensorfloat32"), ("bfloat16", "highest")],
)
def test_baselines_are_slower_on_a_gpu(gpu_config, tmp_path, dtype, precision):
    pytest.importorskip("torch")
    gpu_config.benchmark.torch_baseline = "all"
    gpu_config.model.update(dtype=dtype, precision=precision)
    with jax.default_matmul_precision(precision):
        figures = benchmark.benchmark(gpu_config, tmp_path)
    assert figures["frame_by_frame"]["ours_times_as_fast"] >= 10
    assert figures["tuned"]["ours_times_as_fast"] >= 1.5
