"""The wheel, made from the source distribution, in bare environments; needs a package index."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pcm3_jax

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FIND = """
import tensorflow_datasets as tfds
import tfds_builders

builder = tfds.builder("ntu_rgbd/ntu60_xsub", data_dir="data")
print(builder.info.features["label"].num_classes, "Shahroudy" in builder.info.citation)
"""


def run(*command: str | Path, folder: Path) -> str:
    """The standard output of a command that must succeed, outside the checkout."""
    changed = {"PYTHONPATH": "", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        command, cwd=folder, env=os.environ | changed, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")

    def unneeded(parent: str, names: list[str]) -> list[str]:
        large = ("data", "runs", "build") if Path(parent) == ROOT else ()
        return [n for n in names if n in large or n.startswith(".") or n.endswith(".egg-info")]

    shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=unneeded)
    run(sys.executable, "-m", "venv", "env", folder=folder)
    run(folder / "env/bin/pip", "install", "build", folder=folder)
    # Makes the source distribution, and from it the wheel.
    run(folder / "env/bin/python", "-m", "build", "--outdir=dist", "source", folder=folder)
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_the_wheel_works_in_a_bare_environment(wheel, version, tmp_path):
    python = f"python{version}"
    # A version manager may have a shim for a Python that is not installed.
    if subprocess.run(["bash", "-c", f"{python} -c pass"], capture_output=True).returncode:
        pytest.skip(f"{python} is not installed.")
    run(python, "-m", "venv", "env", folder=tmp_path)
    programs = tmp_path / "env/bin"
    run(programs / "pip", "install", "-c", ROOT / "constraints.txt", wheel, folder=tmp_path)

    pcm3 = programs / "pcm3"
    assert run(pcm3, "--version", folder=tmp_path) == f"pcm3_jax {pcm3_jax.__version__}\n"
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).normal(size=(40, 25, 3)))
    assert run(pcm3, "predict", "noise.npy", folder=tmp_path).startswith("noise.npy")
    assert run(programs / "python", "-c", FIND, folder=tmp_path) == "60 True\n"
    run(pcm3, "build", "synthetic_skeletons/tiny", "--data_dir=data", folder=tmp_path)
    printed = run(
        *(pcm3, "train", "--config=configs/demo.py", "--workdir=runs/raw"),
        *("--config.task=baseline", "--config.data.name=synthetic_skeletons/tiny"),
        folder=tmp_path,
    )
    assert '"encoder": "raw coordinates"' in printed
