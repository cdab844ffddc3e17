"""Estimates the time of a pretraining step on a GPU that is absent, from the compiled program.

python -m pcm3_jax.benchmark.estimate [--device=h100] [--dtype=bfloat16] [--batch=128]

prints it as a table by module.  A kernel's estimate is the longer of its bytes over the memory's
bandwidth and of its products' operations over the product rate, both from the data sheet, and the
time of its launch.  Kernels reach neither rate in full, and on a real GPU the compiler autotunes,
so the estimate serves to compare programs.  The compiler is enough: ``pip install
"pcm3_jax[gpu]"``.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from pcm3_jax.benchmark import absent
from pcm3_jax.benchmark.hlo import Kernel, kernels
from pcm3_jax.config import default_config, validate
from pcm3_jax.runtime import commands

# Seconds to launch a kernel, alone and as a part of a command buffer.
LAUNCH, LAUNCH_IN_BUFFER = 2.5e-6, 1.5e-6
# Part of an operation's name → module.
MODULES = {
    "PCM3.key": "key encoder",
    "/encoder": "encoder",
    "/decoder": "decoder",
    "/projector": "projector",
}


@dataclasses.dataclass(frozen=True)
class Device:
    """Rates from the data sheet: bytes/s, and operations/s of products by their operands' type."""

    bandwidth: float
    product_rates: dict[str, float]

    def seconds(self, kernel: Kernel) -> float:
        """Of one run, with its launch."""
        rate = self.product_rates.get(kernel.dtype, self.product_rates["f32"])
        launch = LAUNCH_IN_BUFFER if kernel.command_buffer else LAUNCH
        return max(kernel.bytes / self.bandwidth, kernel.flops / rate) + launch


_HOPPER = {"bf16": 989e12, "f16": 989e12, "f32": 67e12}
DEVICES = {"h100": Device(3.35e12, _HOPPER), "h200": Device(4.8e12, _HOPPER)}


@dataclasses.dataclass
class Total:
    """Sums over kernels."""

    kernels: int = 0
    bytes: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0

    def add(self, kernel: Kernel, device: Device) -> None:
        self.kernels += kernel.runs
        self.bytes += kernel.runs * kernel.bytes
        self.flops += kernel.runs * kernel.flops
        self.seconds += kernel.runs * device.seconds(kernel)


def by_module(found: Iterable[Kernel], device: Device) -> dict[str, Total]:
    """Totals by module, of its scans apart; the last is that of all kernels."""
    totals: dict[str, Total] = collections.defaultdict(Total)
    whole = Total()
    for kernel in found:
        totals[_module(kernel)].add(kernel, device)
        whole.add(kernel, device)
    return dict(sorted(totals.items())) | {"all": whole}


def _module(kernel: Kernel) -> str:
    """A layer's name would mislead: XLA shares the body of a loop among equal layers."""
    module = next((name for part, name in MODULES.items() if part in kernel.source), "rest")
    return module + ", backward" * ("transpose(" in kernel.source) + ", scan" * bool(kernel.loop)


def table(totals: dict[str, Total]) -> str:
    """Markdown."""
    lines = ["| module | kernels | GB | GFLOP | ms |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, total in totals.items():
        lines.append(
            f"| {name} | {total.kernels:,} | {total.bytes / 1e9:.2f} | {total.flops / 1e9:,.0f} | "
            f"{1e3 * total.seconds:.2f} |"
        )
    return "\n".join(lines)


def run(argv: list[str]) -> None:
    """Runs the command; raises UserError if the compiler is missing."""
    parser = commands.Arguments(prog="python -m pcm3_jax.benchmark.estimate", description=__doc__)
    parser.add_argument("--device", choices=DEVICES, default="h100")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=128)
    flags = parser.parse_args(argv)
    config = default_config()
    config.model.dtype, config.optimizer.batch_size = flags.dtype, flags.batch
    validate(config)
    with absent.devices("gpu", 1):
        text = absent.compile_step(config).as_text() or ""
    found = kernels(text)
    device = DEVICES[flags.device]
    print(f"{table(by_module(found, device))}\n")
    print("\n".join(loops(found, device)))


def loops(found: Sequence[Kernel], device: Device) -> Iterator[str]:
    """A line for each loop: its turns, the kernels of a turn, and its time."""
    for name in dict.fromkeys(kernel.loop for kernel in found if kernel.loop):
        inside = [kernel for kernel in found if kernel.loop == name]
        seconds = sum(kernel.runs * device.seconds(kernel) for kernel in inside)
        modules = sorted({_module(kernel) for kernel in inside})
        yield (
            f"{name}: {inside[0].runs} turns of {len(inside)} kernels, {1e3 * seconds:.2f} ms, "
            f"{modules[0].removesuffix(', scan')}"
        )


if __name__ == "__main__":
    commands.main(run)
