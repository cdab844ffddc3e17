"""The command line: a run's output and files, and one-sentence errors."""

import fcntl
import importlib.util
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from pcm3_jax import main
from pcm3_jax.config import command_line
from pcm3_jax.tasks.coordinates import Coordinates
from tests.running import FEW_STEPS, checkpoint_steps, losses, metrics

# ml_collections loads configuration files in a way that Python means to drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated")

SMALL = "SMALL"  # Stands for the small configuration file on command lines below.


def test_a_run_prints_its_results_and_nothing_on_standard_error(finished_run):
    workdir, (code, out, err) = finished_run
    assert (code, err) == (0, "")
    *lines, last = out.splitlines()
    assert all(re.match(r"step \d+/24  ", line) for line in lines)
    results = json.loads(last)
    assert results == json.loads((workdir / "results.json").read_text())
    assert results == {
        "task": "pretrain", "steps": 24, "knn_accuracy": metrics(workdir)[-1]["knn_accuracy"],
    }  # fmt: skip


def test_a_run_leaves_what_it_should(finished_run):
    workdir, _ = finished_run
    assert {path.name for path in workdir.iterdir()} == {
        ".lock", "checkpoints", "config.json", "metrics.jsonl", "provenance.json",
        "results.json", "tensorboard",
    }  # fmt: skip
    lines = metrics(workdir)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 25))
    accuracy = {line["step"]: line["knn_accuracy"] for line in lines if "epoch" in line}
    assert list(accuracy) == [8, 16, 24]
    best = max(accuracy, key=lambda step: (accuracy[step], step))
    assert checkpoint_steps(workdir) == sorted({20, 24, best})
    assert losses(workdir)[-4:].mean() < losses(workdir)[:4].mean()


def test_on_a_terminal_there_is_a_bar_and_nothing_else(program, tmp_path):
    leader, follower = pty.openpty()
    rows_and_columns = struct.pack("HHHH", 40, 120, 0, 0)
    fcntl.ioctl(follower, termios.TIOCSWINSZ, rows_and_columns)
    process = subprocess.Popen(
        program.command(tmp_path), env=program.environment(), stdout=follower, stderr=follower
    )
    os.close(follower)
    shown = b""
    # Reading fails once the program has closed its end.
    while chunk := _read(leader):
        shown += chunk
    os.close(leader)
    assert process.wait() == 0
    texts = [text for text in re.split(r"[\r\n]+|\x1b\[A", shown.decode()) if text.strip()]
    assert re.fullmatch(r"100%\|.*\| 384/384 \[.* ?samples/s, loss [\d.]+\]", texts[-2])
    assert json.loads(texts[-1])["steps"] == 24
    evaluation = r"step \d+/24  epoch \d+  knn_accuracy [\d.]+"
    assert re.fullmatch(FEW_STEPS, f"{texts[0]}\n")
    for text in texts[1:-1]:
        assert re.fullmatch(evaluation, text) or re.match(r" *\d+%\|.*\| ", text), text


def _read(file_descriptor: int) -> bytes:
    try:
        return os.read(file_descriptor, 4096)
    except OSError:
        return b""


def complaint(argv, program, capsys, monkeypatch) -> str:
    """What the command line says before it leaves with exit code 1."""
    argv = [arg.replace(SMALL, str(program.config_file)) for arg in argv]
    monkeypatch.setattr(sys, "argv", ["main", *argv])
    # Where ml_collections keeps the file that it loaded last.
    sys.modules.pop("config_config", None)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as caught:
        command_line.main(main.run, main.dry_run)
    assert capsys.readouterr().out == ""
    # Python prints such a message on standard error and leaves with 1.
    message = caught.value.code
    assert message.startswith("error: ")
    assert "\n" not in message
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.hiden=3", r"--config.model.hiden=3 .* did you mean 'model\.hidden'"),
        ("modle.hidden=3", r"--config.modle.hidden=3 .* did you mean 'model\.hidden'"),
        ("nonsense=3", "--config.nonsense=3 sets a key that the configuration does not have"),
        ("model.hidden=wide", "flag --config.model.hidden=wide: invalid literal for int"),
        ("model=3", "flag --config.model=3"),
        ("model.hidden", "Missing value for flag --config.model.hidden"),
        ("task=sleep", r"config\.task is 'sleep', but must be one of"),
        ("mapping=xmap", r"config\.mapping is 'xmap'"),
        ("model.hidden=0", r"config\.model\.hidden is 0"),
        ("model.prompt_width=8", r"config\.model\.prompt_width is 8"),
        ("views.frames=1", r"config\.views\.frames is 1"),
        ("views.mask_ratio=0.01", r"config\.views\.mask_ratio is 0\.01"),
        ("optimizer.batch_size=65", r"config\.optimizer\.batch_size is 65, .* only 64 sequences"),
        ("data.dir=nowhere", "There is no data set 'synthetic_skeletons/n64x32' in nowhere"),
        ("data.name=ntu", "There is no data set 'ntu'"),
        ("encoder=nowhere --config.task=retrieval", "There is no nowhere: name a workdir"),
        ("encoder=nowhere --config.task=linear_eval", "There is no nowhere: name a workdir"),
    ],
)
def test_a_wrong_setting_is_named(program, tmp_path, capsys, monkeypatch, override, expected):
    argv = [f"--config={SMALL}", f"--workdir={tmp_path}", *f"--config.{override}".split()]
    assert re.search(expected, complaint(argv, program, capsys, monkeypatch))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "lacks --config"),
        (["--workdir=x"], "lacks --config"),
        ([f"--config={SMALL}"], "lacks --workdir"),
        ([f"--config={SMALL}", "--workdir="], "lacks --workdir"),
        (
            [f"--config={SMALL}", "--workdir=x", "more"],
            "has 'more', which is not a flag or its value",
        ),
        (
            [f"--config={SMALL}", "--workdir=gs://a/b"],
            "--workdir=gs://a/b is a URL, not a folder: mount it",
        ),
        (
            [f"--config={SMALL}", "--workdir=x", "--config.data.dir=gs://a"],
            "--config.data.dir=gs://a is a URL, not a folder: mount it",
        ),
        ([f"--config={SMALL}", "--workdir=x", "--processes=2"], "need --coordinator=HOST:PORT"),
        ([f"--config={SMALL}", "--workdir=x", "--coordinator=x"], "=x must be HOST:PORT, such as"),
        (
            [f"--config={SMALL}", "--workdir=x", "--coordinator=a:1", "--process=1"],
            "--process is 1, but must be at least 0 and less than --processes=1",
        ),
        ([f"--config={SMALL}", "--wrokdir=x"], "Unknown command line flag 'wrokdir'"),
        (["--config=nowhere.py", "--workdir=x"], r"configuration file 'nowhere\.py' is missing"),
        (["--config=nowhere.py", "--workdir=x", "--config.task=x"], r"cannot .*nowhere\.py"),
    ],
)
def test_a_wrong_command_line_is_explained(program, capsys, monkeypatch, argv, expected):
    assert re.search(expected, complaint(argv, program, capsys, monkeypatch))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def get_config(: pass", "SyntaxError: invalid syntax"),
        ("import nonexistent_module", "No module named 'nonexistent_module'"),
        ("def get_config():\n    raise RuntimeError('boom')", "RuntimeError: boom"),
        ("def get_config():\n    raise ValueError('boom')", "ValueError: boom"),
        ("def get_config():\n    raise KeyError('boom')", "KeyError: 'boom'"),
        ("config = 3", "has no attribute 'get_config'"),
    ],
)
def test_a_broken_configuration_file_is_explained(
    program, tmp_path, capsys, monkeypatch, text, expected
):
    file = tmp_path / "broken.py"
    file.write_text(text)
    argv = [f"--config={file}", f"--workdir={tmp_path / 'run'}"]
    message = complaint(argv, program, capsys, monkeypatch)
    assert message.startswith("error: The configuration file cannot be used: ")
    assert expected in message
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_another_run_is_left_alone(finished_run, program, capsys, monkeypatch):
    workdir, _ = finished_run
    before = (workdir / "config.json").read_text()
    argv = [f"--config={SMALL}", f"--workdir={workdir}", "--config.model.hidden=4"]
    message = complaint(argv, program, capsys, monkeypatch)
    assert "belongs to a run with other settings: config.model.hidden (there 8, here 4)" in message
    assert (workdir / "config.json").read_text() == before


def test_an_encoder_of_other_sizes_is_refused(finished_run, program, tmp_path, capsys, monkeypatch):
    argv = [
        *(f"--config={SMALL}", f"--workdir={tmp_path}", "--config.task=retrieval"),
        *(f"--config.encoder={finished_run[0]}", "--config.model.hidden=4"),
    ]
    assert "add --config.model.hidden=8" in complaint(argv, program, capsys, monkeypatch)


def test_programs_of_a_gpu_are_kept_with_the_run(run_config, tmp_path, monkeypatch):
    """Recompiled programs could round differently, so a resumed run would not be bit-identical."""
    kept = []
    monkeypatch.setattr(
        Coordinates,
        "run",
        lambda *_: kept.append(jax.config.values["jax_compilation_cache_dir"]) or {},
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    before = os.environ["JAX_COMPILATION_CACHE_DIR"]
    run_config.task = "baseline"
    try:
        main.run(run_config, tmp_path / "users_choice")
        jax.config.update("jax_compilation_cache_dir", None)
        main.run(run_config, tmp_path / "run")
        # As within a table, whose folder is the only one that JAX opens.
        main.run(run_config, tmp_path / "another")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    folder = str(tmp_path / "run" / "compiled")
    assert kept == [before, folder, folder]


def test_help_names_every_flag(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main", "--help"])
    command_line.main(main.run, main.dry_run)
    out = capsys.readouterr().out
    for flag in ("config", "workdir", "coordinator", "processes", "process"):
        assert f"--{flag}:" in out


def test_a_mistake_is_one_line_on_standard_error_of_the_process(program, tmp_path):
    code, out, err = program.run(tmp_path, "--config.optimizer.batch_size=30", devices=4)
    assert (code, out) == (1, "")
    assert err == (
        "error: config.optimizer.batch_size is 30, which does not divide over 4 devices; choose a "
        "multiple of 4.\n"
    )


@pytest.mark.parametrize(
    ("platforms", "expected"),
    [
        ("cuda", "JAX_PLATFORMS=cuda asks for a device that JAX does not find; "),
        ("cuda,cpu", "JAX_PLATFORMS=cuda,cpu asks for a device that JAX does not find; "),
        ("tpu", "JAX's device cannot be used (RuntimeError: Unable to initialize backend 'tpu'"),
    ],
)
def test_a_device_that_cannot_be_had_is_named(program, tmp_path, platforms, expected):
    if list(Path("/dev").glob("nvidia*")) or importlib.util.find_spec("libtpu"):
        pytest.skip("It may be had here.")
    with program.start(tmp_path / "run", JAX_PLATFORMS=platforms) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith(f"error: {expected}")
    assert "Traceback" not in err


def test_the_precision_of_products_is_a_setting(program, monkeypatch, tmp_path):
    def run(config, workdir):
        precision.append(jax.config.values["jax_default_matmul_precision"])

    precision = []
    arguments = program.command(tmp_path, "--config.model.precision=tensorfloat32")
    monkeypatch.setattr(sys, "argv", arguments[2:])
    try:
        with flagsaver.flagsaver():
            command_line.main(run)
    finally:
        jax.config.update("jax_default_matmul_precision", "highest")
    assert precision == ["tensorfloat32"]


def test_too_little_memory_is_reported(program, capsys, monkeypatch, tmp_path):
    def run(config, workdir):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying …")

    monkeypatch.setattr(sys, "argv", program.command(tmp_path)[2:])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as caught:
        command_line.main(run)
    assert "The device's memory is too small (JaxRuntimeError: RESOURCE" in caught.value.code


def test_a_loss_that_is_not_finite_can_be_repeated(program, tmp_path):
    arguments = ("--config.optimizer.learning_rate=1e30",)
    told = []
    for workdir in (tmp_path, tmp_path / "failure"):
        code, _, err = program.run(workdir, *arguments)
        assert code == 1
        assert re.fullmatch(r"error: Step \d+ is not finite \(.*loss.*\n", err)
        assert str(workdir / "failure") in err
        assert np.isfinite(losses(workdir)).all()
        told.append((workdir / "failure" / "metrics.json").read_text())
    assert told[0] == told[1]
