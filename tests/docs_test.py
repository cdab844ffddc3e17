"""README.md and docs/: commands of own_data.md run; links, files, tests and settings exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pcm3_jax.config import default_config
from pcm3_jax.data.joint_layouts import LAYOUTS, parse_layout

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
OWN_DATA = (ROOT / "docs" / "own_data.md").read_text()
# Reduces runs of minutes to seconds.
TINY = (
    "model.hidden=8 model.layers=2 model.decoder_hidden=8 model.decoder_layers=1 "
    "model.prompt_width=2 model.projection=8 method.queue_size=8 optimizer.batch_size=4 "
    "optimizer.epochs=1 linear.epochs=1 linear.batch_size=4 linear.cached_crops=1 "
    "eval.every_epochs=1 eval.batch_size=4"
)


def commands(page: str) -> list[str]:
    """The commands `python -m …` in a page's code blocks, one per line."""
    blocks = re.findall(r"^```\n(.*?)^```", page, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("python -m ")]


@pytest.fixture
def own(tmp_path):
    """A directory with the page's folder `own`, of three labels, and the configs."""
    rng = np.random.default_rng(0)
    rows = ["file,label,performer,split"]
    for number in range(1, 13):
        day = "day1" if number <= 8 else "day2"
        frames = rng.normal(size=(1, 1, 25, 3)) + 0.1 * rng.normal(size=(20, 1, 25, 3)).cumsum(0)
        frames[:, 0, 22] = np.nan
        path = tmp_path / "own" / day / f"{number:04}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, frames)
        label = ("wave", "sit down", "bow")[number % 3]
        split = "train" if day == "day1" else "test"
        rows.append(f"{day}/{number:04}.npy,{label},{1 + (day == 'day2')},{split}")
    (tmp_path / "own" / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return tmp_path


@pytest.mark.slow
def test_own_data_from_a_folder_to_predictions(own):
    """Runs every command of the page, in order."""
    found = commands(OWN_DATA)
    assert [command.split()[2] for command in found] == [
        "pcm3_jax.show", "tfds_builders.build", "pcm3_jax.main", "pcm3_jax.main", "pcm3_jax.embed",
        "pcm3_jax.predict", "pcm3_jax.fit", "pcm3_jax.predict",
    ]  # fmt: skip
    flags = [f"--config.{setting}" for setting in TINY.split()]
    printed = []
    for command in found:
        arguments = shlex.split(command)[1:] + (flags if "pcm3_jax.main" in command else [])
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=own,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, f"{command}\n{result.stderr}"
        printed.append(result.stdout)
    assert printed[0].startswith("show.html: 1 recording")
    assert "train 8, test 4" in printed[1]
    assert (own / "runs" / "own_linear" / "results.json").exists()
    assert printed[4].splitlines()[1].startswith("own/day1/0001.npy,")
    assert "wave" in printed[5] and "sit down" in printed[5]
    assert "held-out performers: " in printed[6] and "wave" in printed[7]


def test_own_data_lists_every_layout():
    rows = dict(re.findall(r"^\| `(\w+_\d+)` \| (\d+) \|", OWN_DATA, re.M))
    assert rows == {name: str(len(layout.joints)) for name, layout in LAYOUTS.items()}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_files_and_tests_exist(page):
    text = page.read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        path = page.parent / target if target else page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M) if anchor else []
        assert not anchor or anchor in {re.sub(r"\W+", "-", h.lower()) for h in headings}
    files = r"`((?:pcm3_jax|tfds_builders|configs|launch|tests)/[\w/.]+)(?:::(\w+))?`"
    for file, test in re.findall(files, text):
        assert (ROOT / file).exists() or "NAME" in file or file == "configs/tables/tableN.py", file
        assert not test or f"def {test}(" in (ROOT / file).read_text(), test


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_settings_exist(page):
    named = set(re.findall(r"\bconfig\.([\w.]*\w)", page.read_text()))
    # Two are config.json and the placeholder in --config.key=value.
    assert named - {"json", "key"} <= default_config().flat().keys()


def test_own_data_shows_a_layout_that_works():
    (example,) = re.findall(r"^```toml\n(.*?)^```", OWN_DATA, re.M | re.S)
    layout = parse_layout(example.encode(), "docs/own_data.md")
    assert len(layout.joints) == 9 and layout.axes == ("-x", "y", "z")
