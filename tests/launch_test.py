"""The scripts in launch/: their dry runs, and real runs where one machine suffices."""

import contextlib
import importlib.util
import json
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from absl.testing import flagsaver

from pcm3_jax import summary
from pcm3_jax.config import command_line
from pcm3_jax.runtime import parallel
from pcm3_jax.runtime.files import write_json
from tests.running import assert_same_run, losses

# ml_collections loads configuration files in a way that Python means to drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated")

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]
# Overrides that need quoting in a shell.
AWKWARD = ('--config.data.dir=/a b/it\'s "here" $HOME', "--config.views.crop_ratio=(0.1, 1.0)")


def launch(
    script: str, *arguments: str, folder: Path = LAUNCH, cwd: Path = ROOT, **changes: str | None
) -> subprocess.CompletedProcess:
    """Runs a script with this Python instead of an environment of its own.

    Of the environment's variables ``changes`` sets some, and unsets those that are None.
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"EXTRA": "none", "PATH": path} | changes
    return subprocess.run(
        ["bash", folder / script, *arguments],
        env={name: value for name, value in environment.items() if value is not None},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


def dry_run(script: str, *arguments: str, **changes: str | None) -> list[str]:
    result = launch(script, *arguments, "--dry_run", **changes)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_quickstart_dry_run(tmp_path):
    folder = tmp_path / "a b"
    build, compare = dry_run("quickstart.sh", str(folder))
    assert shlex.split(build)[-2:] == ["synthetic_skeletons", f"--data_dir={folder}/data"]
    script, *arguments = shlex.split(compare)[1:]
    (line,) = dry_run(Path(script).name, *arguments, *AWKWARD)
    program, table = map(shlex.split, line.split(" && "))
    assert program[2] == "pcm3_jax.main"
    assert program[-3:] == [f"--config.data.dir={folder}/data", *AWKWARD]
    assert table == ["cat", f"{folder}/table/results.md"]
    assert not folder.exists()
    *_, compare = dry_run("quickstart.sh", *AWKWARD)
    assert shlex.split(compare)[-len(AWKWARD) :] == list(AWKWARD)


def stand_in(folder: Path, name: str, body: str) -> None:
    """A program of that name; ``body`` is Python with ``args``, its arguments."""
    folder.mkdir(exist_ok=True)
    head = f"#!{sys.executable}\nimport json, os, shutil, subprocess, sys\nargs = sys.argv[1:]\n"
    (folder / name).write_text(head + body)
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_have_valid_syntax(script):
    result = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_newest_versions_are_tested_every_week():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "newest.yml").read_text())
    # YAML reads the key "on" as True.
    assert workflow[True]["schedule"]
    *_, install, test = [step.get("run") for step in workflow["jobs"]["test"]["steps"]]
    assert "--constraint" not in install
    # With any other EXTRA, the script installs the versions of constraints.txt.
    assert test == "EXTRA=none bash launch/test.sh"


def test_the_accelerator_check_runs_with_its_options():
    (line,) = dry_run("accelerator_check.sh", "--rehearse", "--wheels=/a b", "--out=/c d")
    module = "pcm3_jax.benchmark.accelerator_check"
    assert shlex.split(line) == ["exec", "python", "-m", module, "--rehearse", "--out=/c d"]


def test_the_accelerator_check_installs_what_is_missing_from_wheels(tmp_path):
    """Into an environment of its own, which sees the packages of the active Python."""
    shutil.copytree(LAUNCH, tmp_path / "launch")
    project = "[project]\ndependencies = ['numpy>=2', 'pcm3_made_up']\n"
    (tmp_path / "pyproject.toml").write_text(project)
    body = "import json, sys, numpy, pcm3_made_up; print(json.dumps(sys.argv))"
    package = tmp_path / "pcm3_jax" / "benchmark"
    package.mkdir(parents=True)
    (package / "accelerator_check.py").write_text(body)
    wheel(tmp_path / "wheels", "pcm3_made_up")
    result = launch(
        "accelerator_check.sh", "--wheels=wheels", "--rehearse", folder=tmp_path / "launch",
        EXTRA=None, PYTHONPATH=None, cwd=tmp_path,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)[1:] == ["--rehearse"]
    assert importlib.util.find_spec("pcm3_made_up") is None


def wheel(folder: Path, name: str) -> None:
    """An empty package."""
    folder.mkdir()
    information = f"{name}-1.dist-info"
    files = {
        f"{name}.py": "",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def test_the_encoders_of_the_package_are_made_in_order():
    result = launch("ready.sh", "/w", "/irds", "/kinder gator", "--dry_run")
    assert (result.returncode, result.stderr) == (0, "")
    lines = [shlex.split(line) for line in result.stdout.splitlines()]
    modules = [line[2].removeprefix("pcm3_jax.") for line in lines]
    assert modules == [
        *4 * ["tfds_builders.build"], *3 * ["main"], "convert", "fit", "benchmark.ready",
    ]  # fmt: skip
    assert lines[3][4:] == ["--manual_dir=/kinder gator", "--data_dir=/w/data"]
    # Every run is written before it is read, and every file before it is measured.
    for number, line in enumerate(lines):
        for run in line[4:7] if line[2].endswith("convert") else ():
            assert f"--workdir={run}" in sum(lines[:number], [])


@pytest.mark.parametrize(
    "script", ["gpu.sh", "slurm.sbatch", "tpu.sh", "benchmark.sh", "compare.sh"]
)
def test_missing_arguments_print_the_usage(script):
    result = launch(script, "configs/demo.py")
    assert (result.returncode, result.stdout) == (2, "")
    assert f"launch/{script} " in result.stderr
    assert "[--config.key=value …]" in result.stderr
    assert "#" not in result.stderr


# A fake Python whose environments only record pip's arguments.
PYTHON = """
if args[:2] == ["-m", "venv"]:
    os.makedirs(".venv/bin")
    open(".venv/bin/activate", "w").close()
    with open(".venv/bin/pip", "w") as pip:
        print('#!/bin/sh\\nfor last; do :; done; echo "$last" >> pip.log', file=pip)
    os.chmod(".venv/bin/pip", 0o755)
"""


def test_an_extra_is_added_to_the_environment(tmp_path):
    shutil.copytree(LAUNCH, tmp_path / "launch")
    stand_in(tmp_path / "programs", "python3.12", PYTHON)
    stand_in(tmp_path / "programs", "python", "")
    path = f"{tmp_path / 'programs'}:{os.environ['PATH']}"
    stand_in(tmp_path / "programs", "nvidia-smi", "sys.exit(9)")
    for extra in ("", "gpu", "", "gpu"):
        arguments = ("gpu.sh", "c.py", "/w")
        result = launch(*arguments, folder=tmp_path / "launch", EXTRA=extra, PATH=path)
        assert result.returncode == 0
    assert (tmp_path / "pip.log").read_text().split() == [".[test]", ".[test,gpu]"]
    # JAX takes CUDA of one version only.
    result = launch(*arguments, folder=tmp_path / "launch", EXTRA="gpu12", PATH=path)
    assert result.returncode == 1
    assert result.stderr == (
        "error: .venv was created with EXTRA=gpu, but EXTRA is now gpu12; remove .venv.\n"
    )


@pytest.mark.parametrize(
    ("driver", "extra", "expected"),
    [
        ("580.65.06, 9.0", None, "[test,gpu]"),
        ("570.124, 9.0\n570.124, 9.0", None, "[test,gpu12]"),
        ("590.1, 8.0\n590.1, 7.0", None, "[test,gpu12]"),
        ("570.124, 9.0", "gpu", "[test,gpu12]"),
        ("580.65.06, 9.0", "gpu12", "[test,gpu12]"),
        ("570.124, 9.0", "", "[test]"),
        (None, None, "[test]"),
        (None, "gpu", "[test,gpu]"),
    ],
)
def test_the_extra_fits_the_gpu_and_its_driver(tmp_path, driver, extra, expected):
    shutil.copytree(LAUNCH, tmp_path / "launch")
    shown = "sys.exit(9)" if driver is None else f"print({driver!r})"
    stand_in(tmp_path / "programs", "nvidia-smi", shown)
    stand_in(tmp_path / "programs", "python3.12", PYTHON)
    stand_in(tmp_path / "programs", "python", "print(os.environ.get('JAX_PLATFORMS', 'unset'))")
    path = f"{tmp_path / 'programs'}:{os.environ['PATH']}"
    environment = {"EXTRA": extra, "PATH": path, "JAX_PLATFORMS": None}
    result = launch("quickstart.sh", folder=tmp_path / "launch", **environment)
    assert (tmp_path / "pip.log").read_text().split() == [f".{expected}"]
    platforms = "cuda,cpu" if "gpu" in expected else "unset"
    assert set(result.stdout.split("\n")) >= {platforms}
    assert "the first time this takes a few minutes" in result.stderr


def test_compare_makes_one_table():
    def arguments(*given: str) -> list[str]:
        (line,) = dry_run("compare.sh", "c.py", "/w w", *given)
        program, table = line.split(" && ")
        assert shlex.split(table) == ["cat", "/w w/table/results.md"]
        return shlex.split(program)

    start = [
        *("python", "-m", "pcm3_jax.main", "--config=c.py", "--workdir=/w w/table"),
        *("--config.task=table", "--config.tables.number=0", "--config.tables.runs=/w w"),
    ]
    assert arguments("3") == [*start, "--config.tables.seeds=(3,)"]
    assert arguments(" 3  4 ", "--streams=motion bone", *AWKWARD) == [
        *(*start, "--config.tables.seeds=(3,4,)", "--config.tables.streams=('motion','bone',)"),
        *AWKWARD,
    ]


def test_compare_prints_the_table_of_its_runs(program, tmp_path):
    arguments = (
        *("compare.sh", str(program.config_file), str(tmp_path), "0"),
        *("--config.optimizer.epochs=1", "--config.linear.epochs=1"),
    )
    for _ in range(2):
        result = launch(*arguments, **program.environment())
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        assert "| encoder | stream | 1-NN (%) | linear (%) | ridge (%) | runs |" in lines
        assert sum(line.startswith("| pretrained encoder | joint | ") for line in lines) == 1
    # The second time everything had finished.
    assert not any(line.startswith("== ") for line in lines)
    runs = [path.name.partition("_synthetic")[0] for path in tmp_path.iterdir()]
    assert sorted(runs) == [
        "baseline", "linear_eval", "linear_eval", "pretrain-pcm3", "retrieval", "retrieval",
        "table",
    ]  # fmt: skip
    # An error ends the script with one sentence.
    result = launch(*arguments, "--streams=bones", **program.environment())
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: config.views.stream is 'bones', but must be one of")


def test_one_command_makes_all_tables_with_shared_runs(tmp_path):
    assert dry_run("tables.sh", str(tmp_path), "--config.tables.scale=small") == [
        f"python -m pcm3_jax.main --config=configs/tables/table{number}.py "
        f"--workdir={tmp_path}/table{number} --config.tables.runs={tmp_path}/runs "
        f"--config.tables.scale=small && cat {tmp_path}/table{number}/results.md"
        for number in range(1, 11)
    ]


# A fake Python that fails for table 5, and that SIGTERM ends in table 7.
TABLES_PYTHON = """
(number,) = [arg[len("--config=configs/tables/table"):-3] for arg in args if arg.endswith(".py")]
if number in ("5", "7"):
    sys.exit({"5": 1, "7": 143}[number])
print(number)
"""


def test_a_failed_table_does_not_stop_the_next(tmp_path):
    stand_in(tmp_path / "programs", "python", TABLES_PYTHON)
    workdir = tmp_path / "work"
    for number in range(1, 11):
        (workdir / f"table{number}").mkdir(parents=True)
        (workdir / f"table{number}" / "results.md").touch()
    path = f"{tmp_path / 'programs'}:{os.environ['PATH']}"
    result = launch("tables.sh", str(workdir), PATH=path)
    assert result.returncode == 143
    assert result.stdout.split() == ["1", "2", "3", "4", "6"]


def test_gpu():
    start = "exec python -m pcm3_jax.main --config=c.py"
    assert dry_run("gpu.sh", "c.py", "/w") == [f"{start} --workdir=/w"]
    assert dry_run("gpu.sh", "c.py", "a/../w") == [f"{start} --workdir={ROOT}/w"]
    lines = dry_run("gpu.sh", "c.py", "/w", AWKWARD[0], "--gpus=0,1", AWKWARD[1])
    words = ["CUDA_VISIBLE_DEVICES=0,1", *start.split(), "--workdir=/w", *AWKWARD]
    assert [shlex.split(line) for line in lines] == [words]


def test_gpu_replaces_itself_by_the_program(tmp_path):
    body = "print(json.dumps([args, os.environ['CUDA_VISIBLE_DEVICES'], os.getppid()]))"
    stand_in(tmp_path, "python", body)
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = launch("gpu.sh", "c.py", "/w", "--gpus=1", *AWKWARD, PATH=path)
    arguments = ["-m", "pcm3_jax.main", "--config=c.py", "--workdir=/w", *AWKWARD]
    assert json.loads(result.stdout) == [arguments, "1", os.getpid()]


ENTER = 'PATH="$HOME/.local/bin:$PATH" && cd pcm3_jax && EXTRA=tpu && source launch/environment.sh'


def test_tpu():
    tpu, ssh = "gcloud compute tpus tpu-vm", "ssh mine --worker=all"
    program = "exec python -m pcm3_jax.main --config=c.py --workdir=runs/x --coordinator=auto"
    lines = [
        f"{tpu} describe mine --zone=us-a --format='value(state)' || {tpu} create mine "
        "--accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --zone=us-a",
        "mkdir -p build runs",
        "tar -czf build/checkout.tar.gz --exclude-vcs --exclude=./.venv --exclude=./build "
        "--exclude=./data --exclude=./runs .",
        f"{tpu} scp build/checkout.tar.gz mine:checkout.tar.gz --worker=all --zone=us-a",
        f"{tpu} {ssh} '--command=mkdir -p pcm3_jax && tar -xzf checkout.tar.gz -C pcm3_jax' "
        "--zone=us-a",
        f'{tpu} {ssh} \'--command=pip install --quiet --user uv && PATH="$HOME/.local/bin:$PATH" '
        "&& uv python install 3.12' --zone=us-a",
        f"{tpu} {ssh} '--command={ENTER}' --zone=us-a",
        f"{tpu} {ssh} '--command={ENTER} && {program}' --zone=us-a",
        f"{tpu} scp mine:pcm3_jax/runs/x runs/ --recurse --worker=0 --zone=us-a",
    ]
    arguments = ("mine", "us-a", "v5litepod-16", "c.py", "runs/x")
    assert dry_run("tpu.sh", *arguments) == lines

    options = ("--delete", "--setup=echo 'a b'", "--project=p", "--version=v")
    longer = dry_run("tpu.sh", *arguments, *options)
    words = [line.replace(" --project=p", "") for line in longer]
    setup = f"--command={ENTER} && echo 'a b'"
    assert words[0] == lines[0].replace("v2-alpha-tpuv5-lite", "v")
    assert words[1:7] == lines[1:7]
    assert shlex.split(words[7]) == [*f"{tpu} {ssh}".split(), setup, "--zone=us-a"]
    assert words[8:] == [*lines[7:], f"{tpu} delete mine --quiet --zone=us-a"]
    assert [line.count("--project=p") for line in longer] == [2, 0, 0] + 8 * [1]


# A fake gcloud with a folder for its only worker.
GCLOUD = """
home = os.environ["WORKER"]
with open(home + "/log", "a") as log:
    print(json.dumps(args), file=log)
verb, rest = args[3], args[4:]
if verb == "describe":
    sys.exit(not os.path.exists(home + "/created"))
elif verb == "create":
    open(home + "/created", "w")
elif verb == "scp":
    source, target = (path.replace("mine:", home + "/") for path in rest[:2])
    subprocess.run(["cp", "-r", source, target], check=True)
elif verb == "ssh":
    (command,) = [arg.removeprefix("--command=") for arg in rest if arg.startswith("--command=")]
    environment = os.environ | {"HOME": home}
    sys.exit(subprocess.run(["bash", "-c", command], cwd=home, env=environment).returncode)
"""


def test_tpu_with_a_stand_in_for_gcloud(tmp_path):
    """Runs the script twice; the second time the TPU exists."""
    checkout, worker, programs = tmp_path / "checkout", tmp_path / "worker", tmp_path / "programs"
    shutil.copytree(LAUNCH, checkout / "launch")
    (checkout / "data").mkdir()
    (checkout / "pcm3_jax" / "data").mkdir(parents=True)
    # An environment that is ready.
    environment = worker / "pcm3_jax" / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "activate").touch()
    (environment / "ready_tpu").touch()
    stand_in(programs, "gcloud", GCLOUD)
    for name in ("pip", "uv"):
        stand_in(programs, name, "")
    body = "os.makedirs('runs/x', exist_ok=True)\njson.dump(args, open('runs/x/results.json', 'w'))"
    stand_in(programs, "python", body)

    arguments = ("mine", "us-a", "v6e-8", "c.py", "runs/x", *AWKWARD)
    changes = {"PATH": f"{programs}:{os.environ['PATH']}", "WORKER": str(worker)}
    for options in ((), ("--delete", "--setup=echo 'set  up' > note")):
        result = launch("tpu.sh", *arguments, *options, folder=checkout / "launch", **changes)
        assert (result.returncode, result.stderr) == (0, "")
    assert json.loads((checkout / "runs" / "x" / "results.json").read_text()) == [
        *("-m", "pcm3_jax.main", "--config=c.py", "--workdir=runs/x", "--coordinator=auto"),
        *AWKWARD,
    ]
    there = {path.name for path in (worker / "pcm3_jax").iterdir()}
    assert there == {".venv", "launch", "note", "pcm3_jax", "runs"}
    assert (worker / "pcm3_jax" / "pcm3_jax" / "data").exists()
    assert (worker / "pcm3_jax" / "note").read_text() == "set  up\n"
    verbs = [json.loads(line)[3] for line in (worker / "log").read_text().splitlines()]
    work = ["scp", "ssh", "ssh", "ssh", "ssh", "scp"]
    again = ["describe", "scp", "ssh", "ssh", "ssh", "ssh", "ssh", "scp", "delete"]
    assert verbs == ["describe", "create", *work, *again]


def test_auto_lets_jax_find_the_processes(program, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **_: calls.append(args))
    # These tests' own aborts are to stay as they are.
    monkeypatch.setattr(parallel, "on_abort", lambda leave: None)
    argv = ["main", f"--config={program.config_file}", f"--workdir={tmp_path}"]
    for group in ("--coordinator=auto", "--coordinator=host:1 --processes=3 --process=2"):
        monkeypatch.setattr(sys, "argv", [*argv, *group.split()])
        with flagsaver.flagsaver():
            command_line.main(lambda config, workdir: None)
    assert calls == [(), ("host:1", 3, 2)]


def test_auto_outside_a_cluster_is_refused(program, tmp_path):
    code, _, error = program.run(tmp_path / "run", "--coordinator=auto")
    assert code == 1
    assert error == "error: --coordinator=auto finds no Cloud TPU; use host:port.\n"


def test_kubernetes():
    """Checks what the Kubernetes schema does not."""
    text = (LAUNCH / "kubernetes.yaml").read_text()
    claim, service, job = yaml.safe_load_all(text)
    assert [part["kind"] for part in (claim, service, job)] == [
        "PersistentVolumeClaim", "Service", "Job",
    ]  # fmt: skip
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    name = job["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"job-name": name}

    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    hosts = spec["completions"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == hosts == int(variables["PROCESSES"])
    assert pod["subdomain"] == service["metadata"]["name"]
    assert f"--coordinator={name}-0.{pod['subdomain']}:12345" in container["args"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] > 0
    # Kubernetes replaces $(NAME) of those variables, and of the one that an indexed job has.
    used = set(re.findall(r"\$\((\w+)\)", text))
    assert used == variables.keys() - {"EXTRA"} | {"JOB_COMPLETION_INDEX"}

    # A policy for failures needs pods that are replaced, not restarted in place.
    assert pod["restartPolicy"] == "Never"
    disrupted, saved = spec["podFailurePolicy"]["rules"]
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert saved["onExitCodes"] == {
        "containerName": container["name"], "operator": "In", "values": [143],
    }  # fmt: skip
    assert {disrupted["action"], saved["action"]} == {"Ignore"}

    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    assert volumes["volume"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_kubernetes_passes_the_arguments_to_the_program(tmp_path):
    *_, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    bash, flag, line, name = container["command"]
    assert (bash, flag) == ("bash", "-c")
    stand_in(tmp_path, "python", "print(json.dumps(args))")
    shutil.copytree(LAUNCH, tmp_path / "volume" / "launch")
    line = line.replace("/volume/pcm3_jax", f"{tmp_path}/volume")
    result = subprocess.run(
        [bash, flag, line.replace("/checkout", f"{tmp_path}/checkout"), name, *AWKWARD],
        env={"EXTRA": "none", "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == ["-m", "pcm3_jax.main", *AWKWARD]


def test_benchmark_dry_run(tmp_path):
    done = tmp_path / "devices_2_batch_8" / "benchmark.json"
    done.parent.mkdir()
    done.touch()
    threads = os.cpu_count()

    def cell(devices: int, batch_size: int, gpus: str, flags: str = "") -> list[str]:
        return [
            f"CUDA_VISIBLE_DEVICES={gpus}",
            f"PJRT_NPROC={max(threads, 2 * devices)}",
            f"XLA_FLAGS={flags}--xla_force_host_platform_device_count={devices}",
            *("python", "-m", "pcm3_jax.benchmark", "--config=configs/pretrain.py"),
            f"--workdir={tmp_path}/devices_{devices}_batch_{batch_size}",
            f"--config.optimizer.batch_size={batch_size}",
        ]

    arguments = (str(tmp_path), "8 64", "1 2")
    variables = {"XLA_FLAGS": "", "OMP_NUM_THREADS": str(threads)}
    # The first of the GPUs in CUDA_VISIBLE_DEVICES.
    lines = dry_run("benchmark.sh", *arguments, **variables, CUDA_VISIBLE_DEVICES="4,6,7")
    cells = [cell(1, 8, "4"), cell(1, 64, "4"), cell(2, 64, "4,6")]
    assert [shlex.split(line) for line in lines[:-1]] == cells
    lines = dry_run("benchmark.sh", *arguments, **variables, CUDA_VISIBLE_DEVICES=None)
    cells = [cell(1, 8, "0"), cell(1, 64, "0"), cell(2, 64, "0,1")]
    assert [shlex.split(line) for line in lines[:-1]] == cells
    assert lines[-1] == f"python -m pcm3_jax.summary {tmp_path}/*/"

    lines = dry_run("benchmark.sh", *arguments, "c.py", *AWKWARD, XLA_FLAGS="--x=1 --y")
    cells = [
        [word.replace("configs/pretrain.py", "c.py") for word in words] + list(AWKWARD)
        for words in (
            cell(1, 8, "0", "--x=1 --y "), cell(1, 64, "0", "--x=1 --y "),
            cell(2, 64, "0,1", "--x=1 --y "),
        )
    ]  # fmt: skip
    assert [shlex.split(line) for line in lines[:-1]] == cells


@pytest.mark.slow
def test_benchmark_on_virtual_devices(program, tmp_path):
    """What cannot run is reported and does not stop the rest; what is finished is kept."""
    environment = program.environment() | {"XLA_FLAGS": ""}

    def benchmark(batch_sizes: str, devices: str) -> tuple[int, list[list[str]]]:
        result = launch(
            *("benchmark.sh", str(tmp_path), batch_sizes, devices, str(program.config_file)),
            "--config.benchmark.steps=2",
            **environment,
        )
        rows = [
            line.split(" | ") for line in result.stdout.splitlines() if line.startswith("| cpu")
        ]
        return result.returncode, [row[1:4] for row in rows]

    one, two = ["float32", "1", "4"], ["float32", "2", "4"]
    assert benchmark("4", "1") == (0, [one])
    assert benchmark("5 4", "2") == (1, [one, two])
    files = sorted(tmp_path.glob("*/benchmark.json"))
    written = [path.stat().st_mtime_ns for path in files]
    assert benchmark("4", "1 2") == (0, [one, two])
    assert [path.stat().st_mtime_ns for path in files] == written


def test_one_table_of_all_cells(tmp_path, capsys):
    figures = {
        "device": "H", "dtype": "float32", "samples_per_second_per_device": 1234.56,
        "step_seconds": 0.01234567, "peak_memory_gb": 2.3456,
    }  # fmt: skip
    for devices, batch_size in ((10, 8), (2, 16), (2, 8)):
        cell = tmp_path / f"{devices}_{batch_size}"
        cell.mkdir()
        write_json(
            cell / "benchmark.json", figures | {"devices": devices, "batch_size": batch_size}
        )
    summary.run([*map(str, sorted(tmp_path.iterdir()))])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| H | float32 | 2 | 8 | 1235 | 0.01235 | 2.35 |",
        "| H | float32 | 2 | 16 | 1235 | 0.01235 | 2.35 |",
        "| H | float32 | 10 | 8 | 1235 | 0.01235 | 2.35 |",
    ]


def test_slurm_dry_run():
    task = (
        'exec python -m pcm3_jax.main "$@" --processes="$SLURM_NTASKS" --process="$SLURM_PROCID" '
        '--coordinator="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)":'
        "$((20000 + SLURM_JOB_ID % 10000))"
    )
    srun, requeue = dry_run("slurm.sbatch", "c.py", "/w", *AWKWARD)
    words = ["srun", "--kill-on-bad-exit=1", "bash", "-c", task, "task"]
    assert shlex.split(srun) == [*words, "--config=c.py", "--workdir=/w", *AWKWARD]
    assert requeue == '[ "$status" -ne 143 ] || scontrol requeue "$SLURM_JOB_ID"'


SLURM = shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin")
needs_slurm = [pytest.mark.slow, pytest.mark.skipif(not SLURM, reason="Slurm is not installed")]
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
# Seconds that a job has to wait before it starts again.
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=all Nodes=ALL Default=YES
"""


class Slurm:
    """A cluster of this machine."""

    def __init__(self, folder: Path) -> None:
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def command(self, *command: str, **changes: str) -> str:
        return subprocess.run(
            command, env=self.environment | changes, cwd=ROOT, check=True, timeout=60,
            stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip

    def submit(self, program, workdir: Path, *arguments: str) -> str:
        """Starts a run of two processes and returns the job."""
        environment = program.environment() | {
            "EXTRA": "none",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        out = self.command(
            *("sbatch", "--parsable", "--ntasks=2", "--ntasks-per-node=2"),
            *(f"--output={workdir}.log", "launch/slurm.sbatch"),
            *(str(program.config_file), str(workdir), *arguments),
            **environment,
        )
        return out.strip()

    def state(self, job: str) -> str:
        return re.search(r"JobState=(\w+)", self.command("scontrol", "show", "job", job))[1]

    def wait_for_steps(self, job: str, workdir: Path) -> None:
        """Until the run has some steps behind it."""
        path = workdir / "metrics.jsonl"
        wait_until(lambda: lines_of(path) > 8 or self.state(job) == "FAILED")
        assert self.state(job) == "RUNNING", Path(f"{workdir}.log").read_text()

    def wait(self, job: str, state: str, log: Path) -> None:
        wait_until(lambda: self.state(job) in (state, "FAILED"))
        assert self.state(job) == state, log.read_text()


def wait_until(condition, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "This takes too long."
        time.sleep(0.2)


def lines_of(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in (first, second)]
    (folder / "slurm.conf").write_text(
        SLURM_CONF.format(
            host=socket.gethostname(), ports=ports, user=pwd.getpwuid(os.getuid()).pw_name,
            folder=folder,
        )
    )  # fmt: skip
    cluster = Slurm(folder)
    with contextlib.ExitStack() as stack:
        for daemon in ("slurmctld", "slurmd"):
            log = stack.enter_context((folder / f"{daemon}.log").open("w"))
            process = subprocess.Popen(
                [Path(SLURM).parent / daemon, "-D"], env=cluster.environment, stderr=log
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)

        def ready() -> bool:
            with contextlib.suppress(subprocess.CalledProcessError):
                return "idle" in cluster.command("sinfo", "--noheader", "--format=%T")
            return False

        wait_until(ready, 120)
        yield cluster
        # A test that failed may have left its job behind.
        cluster.command("scancel", "--user", str(os.getuid()))
        wait_until(lambda: not cluster.command("squeue", "--noheader"), 60)


class TestSlurm:
    pytestmark = needs_slurm

    def test_two_tasks_are_one_run(self, slurm, program, finished_run, tmp_path):
        job = slurm.submit(program, tmp_path / "run")
        slurm.wait(job, "COMPLETED", tmp_path / "run.log")
        # The order of float32 sums differs; see parallel_test.py.
        np.testing.assert_allclose(losses(tmp_path / "run"), losses(finished_run[0]), rtol=1e-5)
        assert (tmp_path / "run.log").read_text().count('"task": "pretrain"') == 1

    def test_after_sigterm_the_job_continues(self, slurm, program, tmp_path):
        long = ("--config.optimizer.epochs=20", "--config.checkpoint.every_epochs=100")
        whole = slurm.submit(program, tmp_path / "whole", *long)
        slurm.wait(whole, "COMPLETED", tmp_path / "whole.log")

        stopped, log = tmp_path / "stopped", tmp_path / "stopped.log"
        job = slurm.submit(program, stopped, *long)
        slurm.wait_for_steps(job, stopped)
        slurm.command("scancel", "--signal=TERM", job)
        slurm.wait(job, "COMPLETED", log)
        # Both tasks saved, at the same step, and the job started once more.
        told = re.findall(r"SIGTERM: saved step (\d+);", log.read_text())
        assert len(told) == 2
        assert len(set(told)) == 1
        assert "Restarts=1" in slurm.command("scontrol", "show", "job", job)
        assert_same_run(tmp_path / "whole", stopped)

    def test_a_cancelled_job_stays_cancelled(self, slurm, program, tmp_path):
        job = slurm.submit(program, tmp_path / "run", "--config.optimizer.epochs=1000")
        slurm.wait_for_steps(job, tmp_path / "run")
        slurm.command("scancel", job)
        wait_until(lambda: not slurm.command("squeue", "--noheader"))
        assert slurm.state(job) == "CANCELLED"
