"""Summary lines and Markdown tables of what `pcm3_jax.benchmark.accelerator_check` measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# What a step is to reach at the paper's size and batch: times as fast as each PyTorch program at
# equal precision, and the share of the rate of bfloat16 products.
TARGETS = {"frame_by_frame": 10.0, "tuned": 1.5}
TARGET_SHARE = 0.35

Row = dict[str, Any]


def line(name: str, part: dict[str, Any]) -> str:
    """What a part of the check came to, in one line."""
    complaints = [f"{row['row']}: {row[what]}" for row in part["rows"] for what in _flaws(row)]
    status = "; ".join([part["status"], *complaints])
    return f"{name:12} {part['seconds']:5.0f} s  {len(part['rows'])} rows  {status}"


def _flaws(row: Row) -> list[str]:
    return [key for key in ("error", "skipped", "without_torch") if key in row]


def tables(found: dict[str, Any]) -> str:
    """All parts as Markdown, ready for docs/measured.md."""
    rows = {
        name: [row for row in part["rows"] if "error" not in row] for name, part in found.items()
    }
    blocks = [
        _environment(rows.get("environment", [])),
        _table(
            ("products", "TFLOP/s"),
            [(row["row"], f"{row['tflops']:.3g}") for row in rows.get("products", [])],
        ),
        _steps(rows.get("steps", []) + rows.get("other_sizes", [])),
        "\n".join(f"- {target}" for target in targets(rows.get("steps", []))),
        _embedding(rows.get("embedding", [])),
        "\n".join(f"- {fact}" for fact in _facts(rows)),
        _profile(rows.get("profile", [])),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text; "" without rows."""
    if not rows:
        return ""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _environment(rows: Sequence[Row]) -> str:
    known = {key: value for row in rows for key, value in row.items()}
    kept = ("device", "driver_version", "python", "jax", "flax", "torch")
    return ", ".join(f"{key} {known[key]}" for key in kept if key in known)


def _steps(rows: Sequence[Row]) -> str:
    """A row for each step that was timed, with the programs side by side."""
    head = (
        "step", "hidden", "batch", "ours (ms)", "frame by frame (ms)", "tuned (ms)",
        "speed-up over each", "share of products", "memory, ours and tuned (GB)",
    )  # fmt: skip
    return _table(head, [_step(row) for row in rows if "dtype" in row])


def _step(row: Row) -> list[str]:
    ours = row.get("ours", row)  # without PyTorch the figures are the row itself
    others = [row.get(name, {}) for name in TARGETS]
    ratios = [f"{other['ours_times_as_fast']:.2f}" if other else "–" for other in others]
    memory = [side.get("memory_gb") for side in (ours, others[1])]
    return [
        row["dtype"],
        str(row["hidden"]),
        str(row["batch_size"]),
        *(f"{1e3 * side['step_seconds']:.4g}" if side else "–" for side in (ours, *others)),
        ", ".join(ratios),
        f"{ours['share_of_product_rate']:.2f}",
        ", ".join("–" if value is None else f"{value:.1f}" for value in memory),
    ]


def targets(rows: Sequence[Row]) -> list[str]:
    """Whether the steps of the smallest batch reach `TARGETS` and `TARGET_SHARE`."""
    timed = [row for row in rows if "dtype" in row]
    smallest = min((row["batch_size"] for row in timed), default=0)
    said = []
    for row in timed:
        if row["batch_size"] != smallest:
            continue
        for name, target in TARGETS.items():
            if name in row:
                ratio = row[name]["ours_times_as_fast"]
                said.append(
                    f"{row['dtype']}: {ratio:.2f} times as fast as {name.replace('_', ' ')} "
                    f"PyTorch, target {target:g}: {_verdict(ratio, target)}"
                )
        if row["dtype"] == "bfloat16":
            share = row.get("ours", row)["share_of_product_rate"]
            verdict = _verdict(share, TARGET_SHARE)
            said.append(
                f"bfloat16: {share:.2f} of the product rate, target {TARGET_SHARE}: {verdict}"
            )
    return said


def _verdict(value: float, target: float) -> str:
    return "reached" if value >= target else "missed"


def _embedding(rows: Sequence[Row]) -> str:
    keys = [f"{name}_sequences_per_second" for name in ("ours", "tuned", "model_embed")]
    return _table(
        ("embedding, batch", "ours (1/s)", "tuned (1/s)", "`Model.embed` (1/s)"),
        [
            (str(row["sequences"]), *(f"{row[key]:.4g}" if key in row else "–" for key in keys))
            for row in rows
            if "sequences" in row
        ],
    )


def _facts(rows: dict[str, list[Row]]) -> list[str]:
    """The parts that are a sentence each."""
    said = []
    for row in rows.get("golden", []):
        if "tests" in row:
            said.append(f"golden tests: {row['tests'] - row['failed']} of {row['tests']} pass")
    for row in rows.get("training", []):
        if "step_seconds" in row:
            share = row["step_seconds"] / row["training_seconds_per_step"]
            said.append(
                f"training, feed {row['row']}: {row['steps']} steps, "
                f"{100 * share:.1f} % of the rate of its steps alone"
            )
    for row in rows.get("resume", []):
        if "same_state" in row:
            same = row["same_state"] and row["same_losses"]
            said.append(f"a resumed run is {'bit for bit the same' if same else 'not the same'}")
    return said


def _profile(rows: Sequence[Row]) -> str:
    row = next((row for row in rows if "longest" in row), None)
    if row is None:
        return ""
    head = (
        f"Ten steps: {row['kernels_per_step']:.0f} kernels a step, "
        f"{1e3 * row['step_seconds']:.4g} ms, busy {100 * row['busy_share']:.0f} % of the time, "
        f"longest gap {1e3 * row['longest_gap_seconds']:.3g} ms."
    )
    kernels = [
        (f"`{name}`", f"{runs:.0f}", f"{1e3 * seconds:.3g}")
        for name, (runs, seconds) in row["longest"].items()
    ]
    return f"{head}\n\n{_table(('kernel', 'runs a step', 'ms a step'), kernels)}"
