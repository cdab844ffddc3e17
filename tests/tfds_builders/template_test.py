"""The template builds as it stands, so that a copy starts from something that works."""

import numpy as np
import pytest

from tests.tfds_builders.built import read_built
from tfds_builders import build


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Files as the template reads them, and the command that builds them."""
    monkeypatch.setattr(build, "BUILDERS", (*build.BUILDERS, "template"))
    rng = np.random.default_rng(0)
    folder = tmp_path / "files"
    folder.mkdir()
    for label, performer in (("bow", 1), ("wave", 1), ("wave", 2)):
        frames = rng.normal(size=(5, 75)) + 3
        frames[:, 3 * 22 : 3 * 23] = np.nan  # a thumb that is never seen
        np.savetxt(folder / f"{label}_{performer}_1.csv", frames, delimiter=",")
    arguments = [f"--data_dir={tmp_path / 'data'}", f"--manual_dir={folder}", "--workers=1"]
    return folder, ["template", *arguments]


def test_the_template_is_a_builder(command, tmp_path):
    folder, arguments = command
    assert build.main(arguments) == 0
    splits = read_built(build.build("template", tmp_path / "data", folder))
    train, test = splits["train"], splits["test"]
    assert set(train) == {"bow_1_1.csv", "wave_1_1.csv"} and set(test) == {"wave_2_1.csv"}
    assert test["wave_2_1.csv"]["label"] == 1 and test["wave_2_1.csv"]["subject"] == 2
    skeleton = train["bow_1_1.csv"]["skeleton"]
    assert skeleton.shape == (5, 2, 25, 3)
    assert (~skeleton[:, 0].any(axis=-1)).sum(axis=0).tolist() == [
        5 * (joint in (1, 22)) for joint in range(25)
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("jump_1_1.csv", "", "the name is not"),
        ("bow_1_2.csv", "1,2,3\n", "found an array of shape (1, 1, 3)"),
        ("bow_1_2.csv", "x,2,3\n", "could not convert string 'x'"),
    ],
)
def test_the_template_names_a_flawed_file(command, capsys, name, text, message):
    folder, arguments = command
    (folder / name).write_text(text)
    assert build.main(arguments) == 1
    error = capsys.readouterr().err
    assert f"{folder / name}: " in error and message in error and error.count("\n") == 1
