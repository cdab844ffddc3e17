"""Settings and small cases that tests share."""

import contextlib
import functools
import gc
import logging
import os
import resource
import subprocess
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest

from pcm3_jax.augment.pipeline import Views
from pcm3_jax.config import default_config
from pcm3_jax.inference import model_file
from pcm3_jax.models.pcm3 import PromptOffsets, QueryViews
from pcm3_jax.runtime.parallel import Devices
from tests.running import Program
from tfds_builders import build

# The same examples in every run; the first of a shape compiles, so no deadline an example.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("suite")


def pytest_configure(config):
    """Programs are compiled once for all tests, their subprocesses and later sessions.

    Those that need no GPU leave it alone.  On one the tests are as exact as the commands are, and
    leave room for each other.
    """
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    settings = {
        # Most programs run for less time here than XLA would take to optimise them.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "not slow" in config.option.markexpr,
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_COMPILATION_CACHE_DIR": str(config.cache.mkdir("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.1,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
    }
    for name, value in settings.items():
        os.environ[name] = str(value)
        jax.config.update(name.lower(), value)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Frees compiled programs before a process nears the kernel's limit of 65,530 mapped regions.

    Each program has several; at the limit, XLA crashes.
    """
    yield
    regions = Path("/proc/self/maps")
    if regions.exists() and regions.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def small_config():
    """The default configuration in the smallest sizes that still have every part."""
    config = default_config()
    config.views.frames = 16
    config.views.min_crop_frames = 16
    config.views.mask_clip_frames = 4
    config.views.mix_blocks = (1, 3)
    config.model.hidden = 6
    config.model.layers = 1
    config.model.projection = 5
    config.model.decoder_hidden = 7
    config.model.decoder_layers = 1
    config.model.prompt_width = 2
    config.method.queue_size = 11
    config.optimizer.batch_size = 4
    return config


@pytest.fixture
def random_views():
    """Makes views, and offsets of the task prompts, for a configuration."""

    def make(config, seed: int = 0) -> tuple[Views, PromptOffsets]:
        rng = np.random.default_rng(seed)
        rows, frames = config.optimizer.batch_size, config.views.frames
        poses = rng.normal(size=(4, rows, frames, 2, 25, 3)).astype(np.float32)
        visible = np.ones((frames, 2, 25), np.float32)
        visible[:, 0] = rng.random((frames, 25)) < 0.5
        query = QueryViews(poses[0], poses[1], visible, poses[2])
        partner = (np.arange(rows) + 1) % rows
        room = config.model.hidden - config.model.prompt_width
        offsets = PromptOffsets(*rng.integers(0, room, len(PromptOffsets.names()), np.int32))
        return Views(query, poses[3], partner, np.float32(0.3)), offsets

    return make


@pytest.fixture(scope="session")
def devices():
    return Devices("pmap")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Holds ``synthetic_skeletons/n64x32``: 64 training and 32 test sequences."""
    folder = tmp_path_factory.mktemp("data")
    build.build("synthetic_skeletons/n64x32", folder)
    return folder


@pytest.fixture(scope="session")
def program(tmp_path_factory, data_dir):
    """The program with a small configuration: 24 steps in 6 epochs."""
    return Program(tmp_path_factory.mktemp("program"), data_dir)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, program):
    """The workdir of an uninterrupted pretraining run, and what it printed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, program.run(workdir)


@pytest.fixture
def whitened_model(finished_run, tmp_path):
    """A file with the encoder of a finished run, its feature pooled in three ways and whitened."""
    model = model_file.load(finished_run[0])
    model.only.config.eval.pooling = ("last", "mean", "max")
    size = 2 * model.only.config.model.hidden
    mean, matrix = np.ones((3, size)), -np.stack(3 * [np.eye(size)])
    model.only.tree["whitening"] = {"mean": np.float32(mean), "matrix": np.float32(matrix)}
    path = tmp_path / "whitened.safetensors"
    model_file.save(path, model)
    return path


@pytest.fixture
def run_config(program):
    """The configuration of ``program``, to change and use in this process."""
    return program.config()


@pytest.fixture(params=["limit", "disk"])
def filled(request, tmp_path):
    """A context in which ``tmp_path`` takes no more bytes.

    Either no file of this process may grow, or the folder is a small disk, which takes a user who
    may mount one.
    """
    # Orbax logs what it also raises, which a test's captured output cannot take either; and what
    # it leaves behind complains when it is collected.
    logging.disable()
    request.addfinalizer(functools.partial(logging.disable, logging.NOTSET))
    request.addfinalizer(gc.collect)
    if request.param == "limit":
        yield no_growth
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("This user may not mount a disk.")
    yield functools.partial(no_room, tmp_path / "filler")
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


@contextlib.contextmanager
def no_growth():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def no_room(filler):
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()
