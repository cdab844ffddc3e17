"""The builder of IntelliRehabDS: folders, archives, and one clear sentence for every flaw."""

import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from pcm3_jax.data.formats.intellirehabds import SUBJECTS
from pcm3_jax.errors import UserError
from tfds_builders import build
from tfds_builders.intellirehabds.intellirehabds_dataset_builder import SUBJECTS_OF_SPLIT


def built(data_dir, manual_dir):
    """{split: examples} of a new build."""
    builder = build.build("intellirehabds", data_dir, manual_dir)
    reader = tfds.builder_from_directory(builder.data_path)
    return {split: list(reader.as_data_source(split)) for split in ("train", "test")}


def pack(folder, archive):
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            for path in folder.rglob("*.txt"):
                out.write(path, path.relative_to(folder.parent))
    else:
        mode = {".xz": "w:xz", ".gz": "w:gz", ".tar": "w"}[archive.suffix]
        with tarfile.open(archive, mode) as out:
            out.add(folder, folder.name)
    return archive


def test_folder(tmp_path, recordings):
    examples = built(tmp_path / "data", recordings)
    assert {len(split) for split in examples.values()} == {4}
    assert {e["subject"] for e in examples["train"]} == {101, 302}
    assert {e["subject"] for e in examples["test"]} == {102, 301}
    for example in examples["train"] + examples["test"]:
        name = example["name"].decode()
        subject, _, gesture, *_ = name.split("_")
        assert (example["subject"], example["label"]) == (int(subject), int(gesture))
        assert example["skeleton"].shape == (13 + int(gesture), 2, 25, 3)
        assert not example["skeleton"][:, 1].any()
        assert example["camera"] == example["setup"] == 0
        # A rigid motion keeps the distance between joints; six digits are stored.
        raw = np.loadtxt(recordings / subject / f"{name}.txt", delimiter=",").reshape(-1, 25, 3)
        np.testing.assert_allclose(
            np.linalg.norm(example["skeleton"][:, 0, 3] - example["skeleton"][:, 0, 15], axis=-1),
            np.linalg.norm(raw[:, 3] - raw[:, 15], axis=-1),
            atol=1e-4,
        )


@pytest.mark.parametrize("name", ["a.tar", "a.tar.xz", "a.tar.gz", "a.zip"])
def test_archives_give_the_same(tmp_path, recordings, name):
    expected = built(tmp_path / "folder", recordings)
    holder = tmp_path / "holder"
    holder.mkdir()
    archive = pack(recordings, holder / name)
    for number, manual_dir in enumerate((archive, holder)):
        actual = built(tmp_path / f"data{number}", manual_dir)
        for split, examples in expected.items():
            assert [e["name"] for e in actual[split]] == [e["name"] for e in examples]
            for one, other in zip(actual[split], examples, strict=True):
                np.testing.assert_array_equal(one["skeleton"], other["skeleton"])


def test_subjects_are_split_without_overlap():
    assert len(SUBJECTS) == 30
    assert sorted(SUBJECTS_OF_SPLIT["train"] + SUBJECTS_OF_SPLIT["test"]) == list(SUBJECTS)


GOOD = ",".join(["0.5"] * 75)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("101_18_0_2_1_chair.txt", f"{GOOD}\n{GOOD},1\n", "line 2: found 76 values where a"),
        ("101_18_0_2_1_chair.txt", f"{GOOD}\n\n{GOOD}", "line 2: found a blank line where"),
        ("101_18_0_2_1_chair.txt", GOOD.replace("0.5", "x", 1), "line 1: found 'x' where a number"),
        (
            "101_18_0_2_1_chair.txt",
            f"{GOOD}\n{GOOD.replace('0.5', 'nan', 1)}",
            "line 2: found",
        ),
        ("101_18_0_2_1_chair.txt", GOOD.replace("0.5", "1e39", 1), "line 1: found '1e39'"),
        ("101_18_0_2_1_chair.txt", GOOD.replace("0.5", "0"), "no joint was seen in any frame"),
        ("101_18_0_2_1_chair.txt", "", "found an empty file"),
        ("101_18_9_2_1_chair.txt", GOOD, "the name is not"),
        ("101_18_0_2_1_chair.txt", GOOD.replace("0.5", "1_0", 1), "found '1_0' where a number"),
        ("notes.txt", "hello", "the name is not"),
        ("208_18_0_2_1_chair.txt", GOOD, "no subject has the number 208"),
        ("101_18_0_1_1_Stand-frame.txt", GOOD, "has the same name"),
    ],
)
def test_a_flaw_is_named_with_file_and_line(tmp_path, capsys, recordings, name, text, message):
    (recordings / name).write_text(text)
    arguments = [f"--data_dir={tmp_path / 'data'}", f"--manual_dir={recordings}"]
    assert build.main(["intellirehabds", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert name.removesuffix(".txt") in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("keep", [0, 100, 800])
def test_a_cut_archive_is_refused(tmp_path, capsys, recordings, keep):
    archive = pack(recordings, tmp_path / "a.tar.xz")
    archive.write_bytes(archive.read_bytes()[:keep])
    arguments = [f"--data_dir={tmp_path / 'data'}", f"--manual_dir={archive}"]
    assert build.main(["intellirehabds", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {archive}") and ": it cannot be read (" in error


def test_one_split_only_is_refused(tmp_path, capsys, recordings):
    arguments = [f"--data_dir={tmp_path / 'data'}", f"--manual_dir={recordings / '101'}"]
    assert build.main(["intellirehabds", *arguments]) == 1
    assert "no recording of the test split" in capsys.readouterr().err


def test_a_single_frame_is_a_flaw(tmp_path, recordings):
    path = sorted((recordings / "101").glob("*.txt"))[0]
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match=f"{path.stem}.*needs at least 2 frames"):
        build.build("intellirehabds", tmp_path, recordings)
    builder = build.build("intellirehabds", tmp_path, recordings, skip_bad_files=True)
    names = [e["name"].decode() for e in tfds.builder_from_directory(builder.data_path)
             .as_data_source("train")]  # fmt: skip
    assert len(names) == 3
    assert path.stem not in names
