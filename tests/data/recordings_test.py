"""Reading built data sets, and the errors for those that cannot be used."""

import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from pcm3_jax.data import recordings
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.parallel import Devices
from tfds_builders.skeleton_builder import Shard, SkeletonBuilder, SkeletonConfig

NAME = "synthetic_skeletons/n64x32"


class Handmade(SkeletonBuilder):
    """Writes the given sequences without any check."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [SkeletonConfig(name="all", description="The only one.")]
    LABELS = ("wave", "bow")
    # TFDS looks for a description here; there is none.
    pkg_dir_path = epath.Path(__file__).parent

    def __init__(self, sequences, **kwargs):
        self._sequences = sequences
        super().__init__(**kwargs)

    def _shards(self):
        def examples():
            for index, skeleton in enumerate(self._sequences):
                name = f"clip{index}"
                yield (
                    name,
                    {
                        "skeleton": skeleton.astype(np.float32),
                        "label": index % 2,
                        "name": name,
                        "subject": 0,
                        "camera": 0,
                        "setup": 0,
                        "num_frames": len(skeleton),
                    },
                )

        return {"train": [Shard(examples, len(self._sequences), "handmade")]}


def write(folder, sequences) -> None:
    """Writes a data set "handmade" with a split "train"."""
    builder = Handmade(sequences, data_dir=folder)
    builder.download_and_prepare(download_dir=str(folder / "downloads"))


def read(data_dir, name=NAME, split="train", max_frames=300, resident=True):
    devices = Devices("pmap")
    return recordings.read(name, str(data_dir), split, max_frames, devices, resident=resident)


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(length, 2, 25, 3))


def flat(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), 150).astype(np.float32)


def test_frames_are_packed_without_padding(tmp_path):
    sequences = [noise(length, length) for length in (5, 2, 9)]
    write(tmp_path, sequences)
    split = read(tmp_path, "handmade")
    assert len(split) == 3
    assert split.length.tolist() == [5, 2, 9]
    assert split.start.tolist() == [0, 5, 7]
    assert split.label.tolist() == [0, 1, 0]
    assert split.classes == ["wave", "bow"]
    assert split.name == ["clip0", "clip1", "clip2"]
    np.testing.assert_array_equal(split.frames, flat(np.concatenate(sequences)))


def test_long_recordings_are_cut(tmp_path):
    sequences = [noise(9), noise(3)]
    write(tmp_path, sequences)
    split = read(tmp_path, "handmade", max_frames=4)
    assert split.length.tolist() == [4, 3]
    np.testing.assert_array_equal(split.frames[:4], flat(sequences[0][:4]))


def test_resident_and_streamed_reading_agree(data_dir):
    resident, streamed = read(data_dir), read(data_dir, resident=False)
    assert streamed.frames is None
    np.testing.assert_array_equal(resident.length, streamed.length)
    np.testing.assert_array_equal(resident.label, streamed.label)
    ids = np.array([63, 0, 7])
    padded = streamed.padded(ids)
    assert padded.shape == (3, 300, 150)
    for row, i in enumerate(ids):
        start, length = resident.start[i], resident.length[i]
        frames = resident.frames[start : start + length]
        np.testing.assert_array_equal(padded[row, :length], frames)
        assert not padded[row, length:].any()


@pytest.mark.parametrize(
    ("sequence", "complaint"),
    [
        (noise(0), "has 0 frames; a sequence needs at least 2"),
        (noise(1), "has 1 frames; a sequence needs at least 2"),
        (np.where(np.arange(5)[:, None, None, None] == 3, np.nan, noise(5)), "in frame 3"),
        (np.where(np.arange(5)[:, None, None, None] == 2, np.inf, noise(5)), "in frame 2"),
    ],
    ids=["empty", "single", "nan", "inf"],
)
@pytest.mark.parametrize("resident", [True, False])
def test_an_invalid_sequence_is_an_error_that_names_it(tmp_path, sequence, complaint, resident):
    write(tmp_path, [noise(4), sequence])
    with pytest.raises(UserError, match=f"Sequence 'clip1' of 'handmade' .train.*{complaint}"):
        read(tmp_path, "handmade", resident=resident)


def test_a_missing_data_set_is_an_error_that_says_how_to_build_it(tmp_path, data_dir):
    with pytest.raises(UserError, match="tfds_builders.build synthetic_skeletons/n64x32"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="There is no data set 'ntu'"):
        read(data_dir, "ntu")


def test_a_misspelt_data_set_is_an_error_that_suggests_one(data_dir):
    with pytest.raises(UserError, match=r"; did you mean 'synthetic_skeletons/n64x32'\?$"):
        read(data_dir, "synthetic_skeleton/n64x32")


def test_a_missing_split_is_an_error_that_lists_the_splits(data_dir):
    with pytest.raises(UserError, match=r"no split 'validation'; it has \['test', 'train'\]"):
        read(data_dir, split="validation")


def test_an_ambiguous_name_means_the_default_configuration_or_is_an_error(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    folder = tmp_path / "data" / "synthetic_skeletons"
    assert len(read(tmp_path / "data", "synthetic_skeletons")) == 64
    shutil.copytree(folder / "n64x32", folder / "other")
    with pytest.raises(UserError, match=r"config\.data\.name to one of .*n64x32.*other"):
        read(tmp_path / "data", "synthetic_skeletons")
    (folder / "other").rename(folder / "default")
    version = next((folder / "default").iterdir())
    assert recordings.find("synthetic_skeletons", str(tmp_path / "data")) == version
    # Versions are compared as numbers: 10 is later than 9.
    for other in ("9.0.0", "10.0.0"):
        shutil.copytree(version, version.with_name(other))
    assert recordings.find("synthetic_skeletons", str(tmp_path / "data")).name == "10.0.0"


def test_a_name_that_implies_other_coordinates_is_an_error(data_dir, tmp_path):
    folder = tmp_path / "data" / "synthetic_skeletons"
    shutil.copytree(data_dir / NAME, folder / "n64x32_centered")
    with pytest.raises(UserError, match="config.data.name to 'synthetic_skeletons/n64x32_centered"):
        read(tmp_path / "data", "synthetic_skeletons")
    assert len(read(tmp_path / "data", "synthetic_skeletons/n64x32_centered")) == 64


@pytest.mark.parametrize("damage", ["delete", "truncate", "features", "info"])
def test_a_damaged_data_set_is_an_error_that_names_it(data_dir, tmp_path, damage):
    shutil.copytree(data_dir, tmp_path / "data")
    (folder,) = (tmp_path / "data" / NAME).iterdir()
    (shard,) = folder.glob("*-train.array_record*")
    if damage == "delete":
        shard.unlink()
    elif damage == "truncate":
        shard.write_bytes(shard.read_bytes()[:10_000])
    elif damage == "features":
        (folder / "features.json").write_text("{")
    else:
        (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "data")
    assert str(folder) in str(caught.value) and "build it again" in str(caught.value)
    assert "\n" not in str(caught.value)
    if damage in ("features", "info"):
        with pytest.raises(UserError, match="cannot be read|is damaged"):
            recordings.count(NAME, str(tmp_path / "data"), "train")
