"""Checks and times everything on one accelerator, in at most nine minutes.

bash launch/accelerator_check.sh [--rehearse] [--wheels=DIR] [--out=DIR]

Each part runs in a process of its own, with its own time limit; what fails or takes too long does
not stop the others, and what a part measured before is kept.  Prints a summary and writes
``check.json``, with all figures, and ``check.md``, tables for docs/measured.md, to the folder
--out, which is new.  --rehearse runs every part in a small size, in at most three minutes on a
CPU.  Parts that compare with PyTorch say so if it is missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.benchmark import accelerator_report, step, trace
from pcm3_jax.config import Config, default_config
from pcm3_jax.data import feed
from pcm3_jax.data.skeleton import flatten_frames
from pcm3_jax.errors import UserError, reason
from pcm3_jax.inference.model import Model
from pcm3_jax.inference.weights import ModelWeights, Weights
from pcm3_jax.methods import method_of
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.state import build_model, create_state, random_encoder
from pcm3_jax.runtime import commands
from pcm3_jax.runtime.files import write_json, write_text
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.settings import require
from pcm3_jax.tasks.common import read_split
from pcm3_jax.train import loop
from pcm3_jax.train.cost import Steps

ROOT = Path(__file__).parents[2]
# Name → settings: the dtype of the products, and how float32 products are computed.
PRECISIONS = {
    "bfloat16": {"model.dtype": "bfloat16", "model.precision": "highest"},
    "TF32": {"model.dtype": "float32", "model.precision": "tensorfloat32"},
    "float32": {"model.dtype": "float32", "model.precision": "highest"},
}
_PACKAGES = (
    "jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu", "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12", "nvidia-cublas", "flax", "optax", "orbax-checkpoint", "numpy", "torch",
)  # fmt: skip
# What a row of a part is, and the function that measures it.
Row = tuple[str, Callable[[], dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured: of the paper's size, or small for a rehearsal.

    Attributes:
      settings: of the configuration, besides the following.
      precisions: of `PRECISIONS`, the most important first.
      batches: of the step in each precision.
      others: (hidden, batch) of further steps.
      rounds: of steps of ours and of PyTorch, of which the median is taken.
      data: name of the generated data set that is trained on.
      training_steps: half of them timed one by one, half as a whole.
      embedded: batches of embedded sequences.
      golden: arguments that choose among the golden tests.
    """

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    precisions: tuple[str, ...] = tuple(PRECISIONS)
    batches: tuple[int, ...] = (128, 512)
    others: tuple[tuple[int, int], ...] = ((256, 128), (512, 128), (1024, 32), (1024, 2048))
    rounds: int = 5
    data: str = "synthetic_skeletons/n1280x64"
    training_steps: int = 300
    embedded: tuple[int, ...] = (1, 64, 1024)
    golden: tuple[str, ...] = ()

    def config(
        self,
        changes: Mapping[str, Any] = MappingProxyType({}),
        *,
        precision: str = "bfloat16",
        batch: int = 0,
    ) -> Config:
        """The configuration with changes; the batch size is by default the first one."""
        config = default_config()
        config.update_from_flattened_dict(self.settings | PRECISIONS[precision] | dict(changes))
        config.optimizer.batch_size = batch or self.batches[0]
        config.benchmark.steps = self.rounds
        return config


REHEARSAL = Sizes(
    settings={
        "views.frames": 16,
        "views.min_crop_frames": 16,
        "views.mix_blocks": (2, 3),
        "model.hidden": 8,
        "model.layers": 1,
        "model.projection": 8,
        "model.decoder_hidden": 8,
        "model.decoder_layers": 1,
        "model.prompt_width": 2,
        "method.queue_size": 64,
    },
    precisions=("bfloat16", "TF32"),
    batches=(4,),
    others=((16, 4),),
    rounds=1,
    data="synthetic_skeletons/n64x32",
    training_steps=30,
    embedded=(1, 64),
    golden=("-k", "crops or streams"),
)


def environment(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Versions of the driver and the libraries."""

    def versions() -> dict[str, Any]:
        found = {"python": platform.python_version()}
        for name in _PACKAGES:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
        return found

    def device() -> dict[str, Any]:
        first = jax.devices()[0]
        return {
            "device": first.device_kind,
            "devices": jax.device_count(),
            "platform": first.client.platform_version,
            "memory_gb": (first.memory_stats() or {}).get("bytes_limit", 0) / 1e9,
        }

    def driver() -> dict[str, Any]:
        keys = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
        query = ["nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader"]
        require(shutil.which(query[0]) is not None, "There is no nvidia-smi.")
        shown = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        return dict(zip(keys, shown.splitlines()[0].split(", "), strict=True))

    yield "versions", versions
    yield "device", device
    yield "driver", driver


def golden(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The golden tests on this device, with the tolerances of a CPU."""

    def run() -> dict[str, Any]:
        report = folder / "golden.xml"
        command = [
            *(sys.executable, "-m", "pytest", "tests/golden_test.py", "--tb=short"),
            # With "gpu" among the markers, the tests run on JAX's default device.
            *("-m", "gpu or not gpu", f"--junitxml={report}", *sizes.golden),
        ]
        subprocess.run(command, cwd=ROOT)
        require(report.exists(), "The tests did not run; the part's log says why.")
        cases = list(ET.parse(report).iter("testcase"))
        failed = [str(case.get("name")) for case in cases if len(case) and case[0].tag != "skipped"]
        return {"tests": len(cases), "failed": len(failed), "failures": failed}

    yield "golden tests", run


def products(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The device's rate of matrix products, the best of five."""

    def rate(config: Config) -> dict[str, Any]:
        multiply = functools.partial(step._multiply, jnp.dtype(config.model.dtype))
        with jax.default_matmul_precision(config.model.precision):
            return {"tflops": max(step.product_rate(multiply) for _ in range(6)) / 1e12}

    for precision in sizes.precisions:
        yield precision, functools.partial(rate, sizes.config(precision=precision))


def steps(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The step in three precisions, beside two PyTorch programs."""
    for batch in sizes.batches:
        for precision in sizes.precisions:
            config = sizes.config(precision=precision, batch=batch)
            yield f"{precision}, {batch}", functools.partial(_timed_step, config, "all")


def other_sizes(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The step with other hidden and batch sizes, beside tuned PyTorch."""
    for hidden, batch in sizes.others:
        config = sizes.config({"model.hidden": hidden}, batch=batch)
        yield f"hidden {hidden}, {batch}", functools.partial(_timed_step, config, "tuned")


def _timed_step(config: Config, baselines: Literal["all", "tuned"]) -> dict[str, Any]:
    """Figures of `step.compare`, or of `step.measure` with the reason why PyTorch is left out."""
    config.benchmark.torch_baseline = baselines
    with jax.default_matmul_precision(config.model.precision):
        try:
            return step.compare(config)
        except UserError as error:
            return step.measure(config) | {"without_torch": str(error)}


def training(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Training with input, logging and checkpoints, against its steps alone."""
    for kind in ("resident", "disk"):
        yield kind, functools.partial(_train, sizes, folder, kind)


def _train(sizes: Sizes, folder: Path, kind: str) -> dict[str, Any]:
    # One checkpoint is saved in the second half.
    changes = {"data.feed": kind, "checkpoint.every_epochs": 20}
    config = sizes.config(_data(sizes, folder) | changes)
    devices = Devices(config.mapping)
    split = read_split(config, config.data.name, "train", devices)
    sampler = feed.Sampler(len(split), config.optimizer.batch_size, config.seed)
    create_state, update = method_of(config).build(config, sampler.steps_per_epoch, AXIS)
    update = devices.map(update, frames_sharded=split.frames is None, donate=True)
    if split.frames is None:
        batches = functools.partial(
            feed.streamed_batches, split, sampler, devices, threads=config.data.read_threads
        )
    else:
        batches = functools.partial(feed.resident_batches, split, sampler, devices)
    half = sizes.training_steps // 2
    alone: list[float] = []
    ends: list[float] = []

    def timed(*inputs: Any) -> Any:
        """The step; one of the first half is waited for, as `Steps` does."""
        start = time.perf_counter()
        result = update(*inputs)
        if len(ends) < half:
            jax.block_until_ready(result)
            alone.append(time.perf_counter() - start)
        ends.append(time.perf_counter())
        return result

    schedule = loop.Schedule.of(
        config,
        epochs=-(-sizes.training_steps // sampler.steps_per_epoch),
        steps_per_epoch=sampler.steps_per_epoch,
        batch_size=config.optimizer.batch_size,
        evaluate_every_epochs=0,
    )
    workdir = folder / f"training_{kind}"
    workdir.mkdir()
    state = devices.replicate(create_state())
    # The loop waits for the last step before it evaluates.
    finished: list[float] = []

    def evaluate(state: Any) -> dict[str, float]:
        finished.append(time.perf_counter())
        return {}

    with jax.default_matmul_precision(config.model.precision):
        loop.train(state, timed, batches, evaluate, schedule, workdir)
    whole = (finished[0] - ends[half - 1]) / (len(ends) - half)
    # The first step compiles.
    single = statistics.median(alone[1:])
    return {"steps": len(ends), "step_seconds": single, "training_seconds_per_step": whole}


def _data(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Settings of the generated data set, which is built if it is not there."""
    data_dir, partial = folder / "data", folder / "partial_data"
    if not data_dir.exists():
        build = ("-m", "tfds_builders.build", sizes.data, f"--data_dir={partial}")
        subprocess.run([sys.executable, *build], cwd=ROOT, check=True)
        partial.rename(data_dir)
    # No decay, since short trainings end before; and so that all of them are one program.
    return {"data.name": sizes.data, "data.dir": str(data_dir), "optimizer.decay_epochs": ()}


def resume(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Whether a run that goes on from its first checkpoint ends as it did without interruption."""

    def compare() -> dict[str, Any]:
        changes = {
            "optimizer.epochs": 2,
            "eval.every_epochs": 0,
            "checkpoint.every_epochs": 1,
            "log_every_steps": 1,
        }
        config = sizes.config(_data(sizes, folder) | changes)
        whole, resumed = folder / "resume_whole", folder / "resume_again"
        _run(config, whole)
        numbers = sorted(int(path.name) for path in (whole / "checkpoints").iterdir())
        # As a run that was killed after its first checkpoint.
        later = shutil.ignore_patterns(str(numbers[-1]), "results.json")
        shutil.copytree(whole, resumed, ignore=later)
        _run(config, resumed)
        return {
            "steps": numbers,
            "same_state": _checksums(whole, numbers[-1]) == _checksums(resumed, numbers[-1]),
            "same_losses": _losses(whole) == _losses(resumed),
        }

    yield "resume", compare


def _run(config: Config, workdir: Path) -> None:
    """Runs `pcm3_jax.main` with a configuration."""
    published = default_config().flat()
    changes = {k: v for k, v in config.flat().items() if v != published[k]}
    overrides = [f"--config.{key}={value}" for key, value in changes.items()]
    command = ("-m", "pcm3_jax.main", "--config=configs/pretrain.py", f"--workdir={workdir}")
    subprocess.run([sys.executable, *command, *overrides], cwd=ROOT, check=True)


def _checksums(workdir: Path, number: int) -> dict[str, int]:
    """The checksum of every array of a checkpoint."""
    path = workdir / "checkpoints" / str(number) / "checksums" / "metadata"
    return json.loads(path.read_text())


def _losses(workdir: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def embedding(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Embedding: the network on views on the device, beside tuned PyTorch, and `Model.embed`."""
    for rows in sizes.embedded:
        yield (
            f"{rows} sequences",
            functools.partial(_embed, sizes.config(precision="float32"), rows),
        )


def _embed(config: Config, rows: int) -> dict[str, Any]:
    weights = Weights(config, random_encoder(config))
    model = Model(ModelWeights.of(weights))
    encoder = next(iter(model.encoders.values()))
    frames = config.views.frames
    poses = np.random.default_rng(0).normal(size=(rows, frames, 2, 25, 3)).astype(np.float32)
    views = jax.device_put(poses)
    embed = jax.jit(functools.partial(encoder.network.apply, method="embed"))
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: embed(encoder.variables, views).block_until_ready(),
        "model_embed": lambda: model.embed(poses, normalize=False),
    }
    figures: dict[str, Any] = {"sequences": rows}
    try:
        calls["tuned"] = _torch_embed(config, views)
    except UserError as error:
        figures["without_torch"] = str(error)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with jax.default_matmul_precision("highest"):
        for _ in range(21):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    # The first calls compile.
    rates = {name: rows / statistics.median(its[1:]) for name, its in seconds.items()}
    return figures | {f"{name}_sequences_per_second": rate for name, rate in rates.items()}


def _torch_embed(config: Config, views: jax.Array) -> Callable[[], Any]:
    """Tuned PyTorch's embedding of the same views by equal weights."""
    torch_baseline = step._import_torch_baseline()
    device = torch_baseline.set_up(config.model.precision)
    baseline = torch_baseline.Baseline("tuned", config, device)
    model, optimizer = build_model(config), build_optimizer(config.optimizer, 1)
    baseline.load_state(create_state(model, optimizer, config))
    frames = np.array(jnp.swapaxes(flatten_frames(views), 0, 1))
    inputs = torch_baseline.torch.tensor(frames, device=device)
    # Copying the result to the host waits for it.
    return lambda: baseline.embed(inputs).cpu()


def profile(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The kernels of ten steps, and the gaps between them."""

    def run() -> dict[str, Any]:
        config = sizes.config()
        train = Steps(config, Devices(config.mapping), config.optimizer.batch_size)
        for _ in range(3):
            train.step()
        with jax.profiler.trace(str(folder / "profile")):
            for _ in range(10):
                train.step()
        return trace.summarise(folder / "profile", 10)

    yield "ten steps", run


class Part(NamedTuple):
    """A part and its time limits in seconds, on an accelerator and in a rehearsal."""

    rows: Callable[[Sizes, Path], Iterator[Row]]
    limit: int
    rehearsal_limit: int


# The limits add up to less than nine and three minutes; a part may also take what those before it
# have left.  The first has to read all libraries from the disk.
PARTS = {
    "environment": Part(environment, 30, 20),
    "golden": Part(golden, 60, 30),
    "products": Part(products, 20, 10),
    "steps": Part(steps, 195, 25),
    "other_sizes": Part(other_sizes, 60, 10),
    "training": Part(training, 65, 25),
    "resume": Part(resume, 55, 25),
    "embedding": Part(embedding, 25, 15),
    "profile": Part(profile, 25, 15),
}


def measure(name: str, folder: Path, sizes: Sizes) -> None:
    """Measures a part in this process; each of its rows is a line of ``NAME.jsonl``."""
    with (folder / f"{name}.jsonl").open("a") as file:
        for row, function in PARTS[name].rows(sizes, folder):
            start = time.perf_counter()
            try:
                figures = function()
            except UserError as error:
                figures = {"skipped": str(error)}
            except Exception as error:
                traceback.print_exc()
                figures = {"error": reason(error)}
            took = {"row": row, "took_seconds": time.perf_counter() - start}
            print(json.dumps(took | figures, default=str), file=file, flush=True)
            gc.collect()


def run_part(name: str, folder: Path, rehearse: bool, limit: float) -> dict[str, Any]:
    """Measures a part in a process of its own; returns its status, seconds and rows."""
    arguments = [f"--part={name}", f"--out={folder}", *["--rehearse"] * rehearse]
    # The first leaves memory for PyTorch and for processes that a part starts.  Parts that compile
    # the same program do so once.
    environment = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    }
    if rehearse:
        # XLA would take longer to optimise the small programs than they run.
        environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    start = time.monotonic()
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pcm3_jax.benchmark.accelerator_check", *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status = _ended(process, limit)
    path = folder / f"{name}.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    if status == "done" and any("error" in row for row in rows):
        status = "failed in part"
    return {"status": status, "seconds": time.monotonic() - start, "rows": rows}


def _ended(process: subprocess.Popen, limit: float) -> str:
    """Waits for the leader of a session, ends the session, and tells how the leader ended."""
    try:
        code = process.wait(timeout=limit)
        return "done" if code == 0 else f"ended with code {code}"
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check(folder: Path, rehearse: bool) -> dict[str, Any]:
    """Runs all parts, one after the other, and writes and prints what they found."""
    found: dict[str, Any] = {}
    left = 0.0
    for name, part in PARTS.items():
        # A part may also take what those before it have left of their time.
        left += part.rehearsal_limit if rehearse else part.limit
        found[name] = run_part(name, folder, rehearse, left)
        left -= found[name]["seconds"]
        # Written after each part, so that nothing is lost if this process is ended.
        write_json(folder / "check.json", found)
        write_text(folder / "check.md", accelerator_report.tables(found))
        print(accelerator_report.line(name, found[name]), flush=True)
    print("\n" + (folder / "check.md").read_text(), end="")
    return found


def run(argv: list[str]) -> None:
    """Runs the command; exits with code 1 if a part failed.

    Raises:
      UserError: the folder exists.
    """
    parser = commands.Arguments(prog="bash launch/accelerator_check.sh", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="small sizes, on a CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/accelerator_check"))
    parser.add_argument("--part", choices=PARTS, help="measure this part in this process")
    flags = parser.parse_args(argv)
    folder = flags.out.absolute()
    if flags.part:
        measure(flags.part, folder, REHEARSAL if flags.rehearse else Sizes())
        return
    require(not folder.exists(), f"{flags.out} exists: choose another --out.")
    folder.mkdir(parents=True)
    found = check(folder, flags.rehearse)
    if any(part["status"] != "done" for part in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    commands.main(run)
