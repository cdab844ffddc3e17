"""The command `pcm3`: its names, its help, and that help needs no JAX."""

import importlib.util
import subprocess
import sys

import pytest

import pcm3_jax
from pcm3_jax import __main__ as pcm3

# Print every setting, which the modules of tasks and methods declare.
HEAVY = {"train", "bench"}
# Runs `pcm3` where importing JAX is an error.
WITHOUT_JAX = "import sys; sys.modules['jax'] = None; from pcm3_jax.__main__ import main; main()"


def run(*arguments: str, program: tuple[str, ...]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *program, *arguments], capture_output=True, text=True)


def test_help_lists_every_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pcm3"])
    pcm3.main()
    lines = capsys.readouterr().out.splitlines()
    for name, (module, _) in pcm3.COMMANDS.items():
        assert [line.split()[-1] for line in lines if line.startswith(f"  {name} ")] == [module]
        assert importlib.util.find_spec(module)


def test_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pcm3", "--version"])
    pcm3.main()
    assert capsys.readouterr().out == f"pcm3_jax {pcm3_jax.__version__}\n"


@pytest.mark.parametrize(
    ("name", "end"),
    [("prdict", "'prdict'; did you mean 'predict'?"), ("x", "'x'; pcm3 --help lists them.")],
)
def test_an_unknown_command_is_explained(monkeypatch, name, end):
    monkeypatch.setattr(sys, "argv", ["pcm3", name])
    with pytest.raises(SystemExit) as stop:
        pcm3.main()
    assert stop.value.code == f"error: There is no command {end}"


@pytest.mark.parametrize("name", sorted(pcm3.COMMANDS.keys() - HEAVY))
def test_help_needs_no_jax(name):
    result = run(name, "--help", program=("-c", WITHOUT_JAX))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: pcm3 {name} ")


@pytest.mark.parametrize("name", sorted(HEAVY))
def test_help_of_runs_lists_settings(name):
    result = run(name, "--help", program=("-m", "pcm3_jax"))
    assert (result.returncode, result.stderr) == (0, "")
    assert f"pcm3 {name} --config=configs/NAME.py" in result.stdout
    assert "--config.optimizer.epochs=451" in result.stdout


def test_a_command_passes_on_arguments_and_exit_code():
    result = run("summary", "nowhere", program=("-m", "pcm3_jax"))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "error: There is no nowhere.\n"
