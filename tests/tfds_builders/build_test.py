"""The build command: what it writes, what it says, what it refuses."""

import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from pcm3_jax.data.normalization import NORMALIZATIONS, normalization_of
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import lock
from tfds_builders import build, workers

REPOSITORY = Path(__file__).parents[2]

# All that a reader needs: no builder code, no TensorFlow.
READ = """
import sys
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory(sys.argv[1])
source = builder.as_data_source("test")
example = source[0]
names = builder.info.features["label"].names
print(len(source), example["skeleton"].shape[1:], example["skeleton"].dtype, names[0])
assert "tensorflow" not in sys.modules and "tfds_builders" not in sys.modules
"""


def test_reads_without_the_builder_and_without_tensorflow(tiny_dir):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ, str(tiny_dir)],
        capture_output=True,
        text=True,
        cwd=Path(tiny_dir),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "48 (2, 25, 3) float32 wave_left\n"


@pytest.mark.parametrize("name", build.BUILDERS)
def test_tfds_finds_the_builders(name, tmp_path):
    (first, *_) = build.load_builder(name).BUILDER_CONFIGS
    builder = tfds.builder(f"{name}/{first.name}", data_dir=tmp_path)
    assert isinstance(builder, build.load_builder(name)) and builder.builder_config == first


def test_the_package_does_not_import_the_builders():
    for path in (REPOSITORY / "pcm3_jax").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) tfds_builders", path.read_text(), re.M), path


def test_examples_are_normalised_and_complete(tiny_dir):
    builder = tfds.builder_from_directory(tiny_dir)
    subjects = {}
    for split, count in {"train": 96, "test": 48}.items():
        examples = list(builder.as_data_source(split))
        assert len(examples) == count
        assert len({example["name"] for example in examples}) == count
        for example in examples:
            assert example["num_frames"] == len(example["skeleton"])
            assert not example["skeleton"][:, 0, 1].any()  # the first person's spine
        assert {example["label"] for example in examples} == set(range(18))
        subjects[split] = {example["subject"] for example in examples}
    assert not subjects["train"] & subjects["test"]


def run(*arguments):
    """The command in a process of its own, warnings being errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tfds_builders.build", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )


def test_command_builds_once_and_says_so(tmp_path):
    first = run("synthetic_skeletons/n20x5", f"--data_dir={tmp_path}")
    assert (first.returncode, first.stderr) == (0, "")
    assert "train 20, test 5" in first.stdout
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    second = run("synthetic_skeletons/n20x5", f"--data_dir={tmp_path}")
    assert (second.returncode, second.stderr) == (0, "")
    assert "already built" in second.stdout
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert files == after


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("nonsense", "no builder 'nonsense'"),
        ("synthetic_skeletons/huge", "no config 'huge'"),
        ("synthetic_skeletons/n10x0", "empty split"),
        ("intellirehabds/other", "no config 'other'"),
        ("intellirehabds", "give --manual_dir"),
    ],
)
def test_one_sentence_for_a_wrong_name(tmp_path, capsys, dataset, message):
    assert build.main([dataset, f"--data_dir={tmp_path}"]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("manual_dir", ["missing", "empty"])
def test_missing_or_empty_manual_dir(tmp_path, capsys, manual_dir):
    (tmp_path / "empty").mkdir()
    arguments = [f"--data_dir={tmp_path}", f"--manual_dir={tmp_path / manual_dir}"]
    assert build.main(["intellirehabds", *arguments]) == 1
    assert str(tmp_path / manual_dir) in capsys.readouterr().err


def test_workers_are_counted_from_one(tmp_path, capsys):
    assert build.main(["synthetic_skeletons/tiny", f"--data_dir={tmp_path}", "--workers=0"]) == 1
    assert capsys.readouterr().err == "error: --workers=0 must be 1 or more.\n"


def test_data_dir_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert build.main(["synthetic_skeletons/tiny", f"--data_dir={tmp_path / 'file'}"]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_a_folder_without_its_shards_is_not_a_data_set(tmp_path, capsys):
    arguments = ["synthetic_skeletons/n4x3", f"--data_dir={tmp_path}"]
    assert build.main(arguments) == 0
    next(tmp_path.rglob("*test.array_record*")).unlink()
    assert build.main(arguments) == 1
    assert "is incomplete" in capsys.readouterr().err


def test_a_killed_build_leaves_nothing_that_counts(tmp_path):
    leftover = tmp_path / "synthetic_skeletons" / "n4x3" / "incomplete.ABCDEF_1.0.0"
    leftover.mkdir(parents=True)
    (leftover / "features.json").touch()
    assert build.main(["synthetic_skeletons/n4x3", f"--data_dir={tmp_path}"]) == 0
    assert not leftover.exists()


def test_a_failed_build_leaves_no_data_set(tmp_path, recordings):
    (recordings / "101" / "101_18_0_1_1_Stand-frame.txt").write_text("1,2,3")
    data_dir = tmp_path / "data"
    arguments = ["intellirehabds", f"--data_dir={data_dir}", f"--manual_dir={recordings}"]
    assert build.main(arguments) == 1
    assert not list(data_dir.rglob("*1.0.0*"))


def test_clips_do_not_depend_on_the_size_of_the_data_set(tmp_path, tiny_dir):
    small = tfds.builder_from_directory(
        build.build("synthetic_skeletons/n7x3", tmp_path).data_path
    ).as_data_source("train")
    tiny = tfds.builder_from_directory(tiny_dir).as_data_source("train")
    for index in range(7):
        np.testing.assert_array_equal(small[index]["skeleton"], tiny[index]["skeleton"])


@pytest.mark.parametrize("name", build.BUILDERS)
def test_the_name_of_a_data_set_says_how_it_is_normalised(name):
    for config in build.load_builder(name).BUILDER_CONFIGS:
        for suffix in ("", *(f"_{coordinates}" for coordinates in NORMALIZATIONS)):
            try:
                found = build.load_builder(name).config_named(f"{config.name}{suffix}")
            except UserError:  # the files of some configs lack some coordinates
                assert suffix and "@" in config.name
                continue
            expected = NORMALIZATIONS[found.coordinates]
            assert normalization_of(f"{name}/{found.name}") is expected


def test_a_second_build_of_a_data_set_at_once_is_an_error(tmp_path, capsys):
    arguments = ["synthetic_skeletons/n4x3", f"--data_dir={tmp_path}"]
    staging = tmp_path / ".staging" / "synthetic_skeletons"
    staging.mkdir(parents=True)
    with lock(staging / ".lock"):
        assert build.main(arguments) == 1
    assert "another process builds synthetic_skeletons" in capsys.readouterr().err
    assert build.main(arguments) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_sentence_and_the_build_goes_on(tmp_path, filled, capsys, workers):
    arguments = ["synthetic_skeletons/n4x3", f"--data_dir={tmp_path}", f"--workers={workers}"]
    with filled():
        assert build.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: cannot write synthetic_skeletons") and error.count("\n") == 1
    assert "free some disk space" in error
    assert not list(tmp_path.rglob("*1.0.0*")) and not list(tmp_path.rglob(".partial*"))
    assert build.main(arguments) == 0


def test_a_worker_that_dies_is_one_sentence(tmp_path, monkeypatch, capsys):
    def died(*arguments, **options):
        raise BrokenProcessPool("A process in the process pool was terminated abruptly")

    monkeypatch.setattr(workers, "run", died)
    assert build.main(["synthetic_skeletons/n4x3", f"--data_dir={tmp_path}"]) == 1
    assert "perhaps for lack of memory; give fewer --workers" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", "{}", '{"version": "9.0.0"}'])
def test_a_damaged_data_set_is_one_sentence(tmp_path, capsys, damage):
    arguments = ["synthetic_skeletons/n4x3", f"--data_dir={tmp_path}"]
    assert build.main(arguments) == 0
    next(tmp_path.rglob("dataset_info.json")).write_text(damage)
    assert build.main(arguments) == 1
    error = capsys.readouterr().err
    assert "delete the folder and build it again" in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["n99999999999999999999x5", "motions_n99999999999999999999"])
def test_sizes_of_twenty_digits_are_no_config(tmp_path, capsys, name):
    assert build.main([f"synthetic_skeletons/{name}", f"--data_dir={tmp_path}"]) == 1
    assert "no config" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["json", "npy"])
@pytest.mark.parametrize("damage", ["cut", "byte", "empty", "gone"])
def test_damaged_parsed_parts_are_parsed_again(tmp_path, recordings, part, damage):
    def shards():
        folder = Path(build.build("intellirehabds", tmp_path / "data", recordings).data_path)
        found = {path.name: path.read_bytes() for path in folder.glob("*.array_record*")}
        shutil.rmtree(folder)
        return found

    right = shards()
    path = next((tmp_path / "data" / ".staging").rglob(f"*.{part}"))
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": content[:-9], "byte": changed, "empty": b""}[damage])
    assert shards() == right and path.stat().st_size > len(content) // 2


def test_unreadable_archives_are_skipped_if_bad_files_are(tmp_path, recordings, capsys):
    for path in recordings.iterdir():  # one archive for each performer
        with zipfile.ZipFile(recordings / f"{path.name}.zip", "w") as archive:
            for file in path.iterdir():
                archive.write(file, file.name)
        shutil.rmtree(path)
    (recordings / "102.zip").write_bytes(b"PK no more")
    arguments = [f"--data_dir={tmp_path / 'data'}", f"--manual_dir={recordings}"]
    assert build.main(["intellirehabds", *arguments]) == 1
    error = capsys.readouterr().err
    assert "102.zip: it cannot be read (File is not a zip file)" in error
    assert "--on_bad_file=skip" in error
    assert build.main(["intellirehabds", *arguments, "--on_bad_file=skip"]) == 0
    assert "left out 1: it cannot be read (File is not a zip file)" in capsys.readouterr().out
