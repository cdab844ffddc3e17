"""Small data sets that the builder tests share."""

import numpy as np
import pytest

from tfds_builders import build


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """`synthetic_skeletons/tiny`, built once; the folder that `builder_from_directory` takes."""
    data_dir = tmp_path_factory.mktemp("data")
    return build.build("synthetic_skeletons/tiny", data_dir).data_path


@pytest.fixture
def recordings(tmp_path):
    """A folder of eight recordings in the format of IntelliRehabDS, in two subfolders."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "intellirehabds"
    for subject in (101, 102, 301, 302):
        for gesture in (0, 8):
            path = folder / str(subject) / f"{subject}_18_{gesture}_1_1_Stand-frame.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            frames = rng.normal(size=(13 + gesture, 75)) + 3.0
            path.write_text("\n".join(",".join(f"{x:.6g}" for x in frame) for frame in frames))
    return folder
