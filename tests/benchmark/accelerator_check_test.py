"""The parts of the accelerator check are separate, and end in time; the slow test runs all."""

import json
import os
import subprocess
import sys

import pytest

from pcm3_jax.benchmark import accelerator_check as check
from pcm3_jax.benchmark import accelerator_report as report
from pcm3_jax.errors import UserError

# Installs a part that is not of the package into the process that measures it.
MODULE = """
import sys
from pcm3_jax.benchmark import accelerator_check as check

def rows(sizes, folder):
    def missing():
        raise check.UserError("There is no such device.")
    yield "first", lambda: {"value": 1}
    yield "second", lambda: 1 / 0
    yield "third", missing
    yield "fourth", lambda: {"value": 2}
    if "dies" in sys.argv[-1]:
        sys.exit(7)

for name in ("whole", "dies"):
    check.PARTS[name] = check.Part(rows, 0, 0)
"""


@pytest.fixture
def own_parts(tmp_path, monkeypatch):
    """Folder of a check whose processes know the parts of `MODULE`."""
    code = MODULE + "check.measure(sys.argv[-1], check.Path(sys.argv[-2]), check.Sizes())"
    whole = subprocess.Popen

    def start(command, **options):
        part, out = (next(a for a in command if a.startswith(f)) for f in ("--part=", "--out="))
        arguments = [out.removeprefix("--out="), part.removeprefix("--part=")]
        return whole([sys.executable, "-c", code, *arguments], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    return tmp_path


def test_a_row_that_fails_does_not_stop_the_next(own_parts):
    part = check.run_part("whole", own_parts, rehearse=True, limit=300)
    assert part["status"] == "failed in part"
    for row in part["rows"]:
        assert row.pop("took_seconds") >= 0
    assert part["rows"] == [
        {"row": "first", "value": 1},
        {"row": "second", "error": "ZeroDivisionError: division by zero"},
        {"row": "third", "skipped": "There is no such device."},
        {"row": "fourth", "value": 2},
    ]
    assert "Traceback" in (own_parts / "whole.log").read_text()
    line = report.line("whole", part)
    assert line.endswith(
        "4 rows  failed in part; second: ZeroDivisionError: division by zero; "
        "third: There is no such device."
    )


def test_a_part_that_dies_keeps_its_rows(own_parts):
    part = check.run_part("dies", own_parts, rehearse=True, limit=300)
    assert part["status"] == "ended with code 7"
    assert [row["row"] for row in part["rows"]] == ["first", "second", "third", "fourth"]


def test_what_hangs_is_ended_with_what_it_started():
    sleep = "import subprocess, sys, time; print(1, flush=True); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    with process.stdout as printed:
        assert printed.readline() == b"1\n"
        assert check._ended(process, 0.1) == "stopped after 0 s"
        # The pipe ends with the last process that could write to it.
        assert printed.read() == b""


def test_all_parts_run_and_may_take_what_others_leave(tmp_path, monkeypatch, capsys):
    limits = {}

    def run_part(name, folder, rehearse, limit):
        limits[name] = limit
        return {"status": "failed in part" if name == "golden" else "done", "seconds": 1.0,
                "rows": [{"row": "x", "error": "it broke"}]}  # fmt: skip

    monkeypatch.setattr(check, "run_part", run_part)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as exit:
        check.run([f"--out={out}"])
    assert exit.value.code == 1
    assert list(limits) == list(check.PARTS)
    given = [part.limit for part in check.PARTS.values()]
    assert list(limits.values()) == [sum(given[: n + 1]) - n for n in range(len(given))]
    assert json.loads((out / "check.json").read_text()).keys() == check.PARTS.keys()
    printed = capsys.readouterr().out
    assert printed.count("x: it broke") == len(check.PARTS)
    assert (out / "check.md").exists()
    with pytest.raises(UserError, match="exists: choose another --out"):
        check.run([f"--out={out}"])


def test_limits_add_up():
    """Nine minutes on an accelerator, three on a CPU, with some seconds to start processes."""
    assert sum(part.limit for part in check.PARTS.values()) <= 9 * 60 - 3
    assert sum(part.rehearsal_limit for part in check.PARTS.values()) <= 3 * 60 - 3


def test_every_precision_is_measured_at_the_paper_s_size():
    configs = {name: check.Sizes().config(precision=name) for name in check.PRECISIONS}
    for name, config in configs.items():
        assert (config.model.hidden, config.optimizer.batch_size) == (1024, 128)
        assert config.model.dtype == ("bfloat16" if name == "bfloat16" else "float32")
    assert configs["TF32"].model.precision != configs["float32"].model.precision
    rows = [name for name, _ in check.steps(check.Sizes(), None)]
    assert rows == [f"{name}, {batch}" for batch in (128, 512) for name in check.PRECISIONS]


def side(seconds, ratio, memory=None):
    return {
        "step_seconds": seconds, "ours_times_as_fast": ratio, "share_of_product_rate": 0.4,
        "memory_gb": memory,
    }  # fmt: skip


def test_tables():
    step = {"row": "bfloat16, 128", "dtype": "bfloat16", "hidden": 1024, "batch_size": 128}
    compared = step | {
        "ours": side(0.02, 1, 5.44),
        "frame_by_frame": side(0.3, 15.0),
        "tuned": side(0.028, 1.4, 9),
    }
    alone = step | {"dtype": "float32", "without_torch": "none"} | side(0.05, 1)
    larger = compared | {"batch_size": 512}
    training = {"steps": 300, "step_seconds": 0.02, "training_seconds_per_step": 0.025}
    found = {
        "environment": [{"row": "versions", "jax": "0.12.0"}, {"row": "device", "device": "H"}],
        "golden": [{"row": "golden tests", "tests": 40, "failed": 1, "failures": ["a"]}],
        "products": [{"row": "TF32", "tflops": 412.34}],
        "steps": [compared, alone, larger, {"row": "float32, 512", "error": "no memory"}],
        "training": [{"row": "disk", **training}],
        "resume": [{"row": "resume", "steps": [1, 2], "same_state": True, "same_losses": False}],
        "embedding": [
            {"row": "64", "sequences": 64, "ours_sequences_per_second": 1e4,
             "model_embed_sequences_per_second": 5e3, "without_torch": "none"},
        ],
        "profile": [
            {"row": "ten steps", "kernels_per_step": 6600.0, "step_seconds": 0.02,
             "busy_share": 0.9, "longest_gap_seconds": 1e-4, "longest": {"gemm": (128.0, 0.01)}},
        ],
    }  # fmt: skip
    parts = {name: {"status": "done", "seconds": 1, "rows": rows} for name, rows in found.items()}
    assert report.tables(parts).splitlines() == [
        "device H, jax 0.12.0",
        "",
        "| products | TFLOP/s |",
        "| --- | ---: |",
        "| TF32 | 412 |",
        "",
        "| step | hidden | batch | ours (ms) | frame by frame (ms) | tuned (ms) | "
        "speed-up over each | share of products | memory, ours and tuned (GB) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| bfloat16 | 1024 | 128 | 20 | 300 | 28 | 15.00, 1.40 | 0.40 | 5.4, 9.0 |",
        "| float32 | 1024 | 128 | 50 | – | – | –, – | 0.40 | –, – |",
        "| bfloat16 | 1024 | 512 | 20 | 300 | 28 | 15.00, 1.40 | 0.40 | 5.4, 9.0 |",
        "",
        "- bfloat16: 15.00 times as fast as frame by frame PyTorch, target 10: reached",
        "- bfloat16: 1.40 times as fast as tuned PyTorch, target 1.5: missed",
        "- bfloat16: 0.40 of the product rate, target 0.35: reached",
        "",
        "| embedding, batch | ours (1/s) | tuned (1/s) | `Model.embed` (1/s) |",
        "| --- | ---: | ---: | ---: |",
        "| 64 | 1e+04 | – | 5000 |",
        "",
        "- golden tests: 39 of 40 pass",
        "- training, feed disk: 300 steps, 80.0 % of the rate of its steps alone",
        "- a resumed run is not the same",
        "",
        "Ten steps: 6600 kernels a step, 20 ms, busy 90 % of the time, longest gap 0.1 ms.",
        "",
        "| kernel | runs a step | ms a step |",
        "| --- | ---: | ---: |",
        "| `gemm` | 128 | 10 |",
    ]
    # A part that measured nothing is left out.
    assert report.tables({"steps": {"status": "stopped", "seconds": 1, "rows": []}}) == "\n"


@pytest.mark.slow
def test_rehearsal(tmp_path):
    """Every row of every part is measured, or says what is missing, within three minutes."""
    result = subprocess.run(
        [sys.executable, "-m", "pcm3_jax.benchmark.accelerator_check", "--rehearse",
         f"--out={tmp_path / 'out'}"],
        env=os.environ | {"JAX_PLATFORMS": "cpu"}, cwd=check.ROOT, capture_output=True, text=True,
        timeout=180,
    )  # fmt: skip
    found = json.loads((tmp_path / "out" / "check.json").read_text())
    assert {name: part["status"] for name, part in found.items()} == dict.fromkeys(
        check.PARTS, "done"
    ), result.stdout
    assert result.returncode == 0
    rows = {name: [row["row"] for row in part["rows"]] for name, part in found.items()}
    assert rows["steps"] == [f"{name}, 4" for name in check.REHEARSAL.precisions]
    assert rows["training"] == ["resident", "disk"]
    assert found["golden"]["rows"][0]["failed"] == 0
    (resumed,) = found["resume"]["rows"]
    assert resumed["same_state"] and resumed["same_losses"]
