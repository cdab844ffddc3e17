"""Opening a built data set: checksums, classes that features.json names, and who is to blame."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pcm3_jax.data import built, recordings
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.parallel import Devices
from tfds_builders import build

NAME = "synthetic_skeletons/n64x32"


@pytest.fixture
def folder(data_dir, tmp_path):
    """A copy of a built data set."""
    shutil.copytree(data_dir, tmp_path / "data")
    (found,) = (tmp_path / "data" / NAME).iterdir()
    return found


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_changed_byte_of_a_small_file_is_noticed_when_it_is_opened(folder):
    small = [path for path in folder.iterdir() if not built.is_shard(path)]
    assert {"dataset_info.json", "features.json", "label.labels.txt"} <= {p.name for p in small}
    for path in small:
        content = path.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 7)):
            flip(path, place)
            with pytest.raises(UserError, match="delete the folder and build it again"):
                built.open_built(folder)
            path.write_bytes(content)
    built.open_built(folder)


def test_shards_are_checked_by_verify_only(folder, capsys):
    arguments = [NAME, f"--data_dir={folder.parents[2]}"]
    assert build.main([*arguments, "--verify"]) == 0
    assert "every byte is as it was built" in capsys.readouterr().out
    shard = next(path for path in folder.iterdir() if built.is_shard(path))
    flip(shard, shard.stat().st_size // 2)
    assert build.main(arguments) == 0
    assert build.main([*arguments, "--verify"]) == 1
    assert f"the checksum of {shard.name} is wrong" in capsys.readouterr().err
    # Sizes are always compared.
    shard.write_bytes(shard.read_bytes() + b"0")
    with pytest.raises(UserError, match="bytes, not"):
        recordings.count(NAME, str(folder.parents[2]), "train")


def test_data_sets_without_checksums_are_read_and_not_verified(folder, tmp_path, capsys):
    (folder / built.CHECKSUMS_FILE).unlink()
    assert recordings.count(NAME, str(folder.parents[2]), "train") == 64
    arguments = [f"--data_dir={folder.parents[2]}", "--verify"]
    assert build.main([NAME, *arguments]) == 1
    assert "was built without checksums" in capsys.readouterr().err
    assert build.main(["synthetic_skeletons/n4x3", *arguments]) == 1
    assert "does not exist, so it cannot be verified" in capsys.readouterr().err


def test_the_features_of_every_builder_are_accepted(tmp_path):
    for config in ("n4x3", "n2x1_untrimmed"):
        builder = build.build(f"synthetic_skeletons/{config}", tmp_path)
        assert built.open_built(Path(builder.data_path)).info.features.keys()


EVIL = """
from pathlib import Path
from tensorflow_datasets.core.features import text_feature
Path(__file__).with_name("executed").touch()
class Text(text_feature.Text):
    pass
"""
TEXT = "tensorflow_datasets.core.features.text_feature.Text"


def named(features, key):
    """The content of features.json with a class of one's own under a key that TFDS reads."""
    if key == "pythonClassName":
        return json.dumps(features).replace(TEXT, "evil.Text")
    if key == "python_class_name":
        return json.dumps(features).replace(f'"pythonClassName": "{TEXT}"', f'"{key}": "evil.Text"')
    inner = {"name": {"type": "evil.Text", "content": {}}}
    if key == "type":
        return json.dumps({"type": features["pythonClassName"], "content": inner})
    name = features["pythonClassName"]
    return json.dumps({"pythonClassName": name, key: {"json": json.dumps(inner)}})


@pytest.mark.parametrize(
    "key", ["pythonClassName", "python_class_name", "type", "jsonFeature", "json_feature"]
)
def test_a_class_that_no_builder_writes_is_never_imported(folder, tmp_path, monkeypatch, key):
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    path = folder / "features.json"
    path.write_text(named(json.loads(path.read_text()), key))
    (folder / built.CHECKSUMS_FILE).unlink()
    data_dir = str(folder.parents[2])
    for attempt in (
        lambda: recordings.read(NAME, data_dir, "test", 9, Devices("pmap"), resident=False),
        lambda: recordings.count(NAME, data_dir, "test"),
        lambda: build.build(NAME, Path(data_dir)),
    ):
        with pytest.raises(UserError, match="features.json may not have"):
            attempt()
    assert not (tmp_path / "executed").exists() and "evil" not in sys.modules
    # The payload works: TFDS itself imports the class.
    program = f"import tensorflow_datasets as t; t.builder_from_directory({str(folder)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=False)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), "Cannot allocate memory; free some memory, or raise the limit"),
        (OSError(errno.EMFILE, "Too many open files"), "raise the limit on open files"),
        (RuntimeError("can't start new thread"), "raise the limit on threads"),
        (RuntimeError("open() failed: Permission denied; reading x"), "give this user the perm"),
        (ValueError("bad record"), "delete the folder and build it again"),
    ],
)
def test_a_data_set_is_blamed_only_for_what_is_wrong_with_it(folder, error, advice):
    with pytest.raises(UserError) as caught, built.named_if_damaged(folder):
        raise error
    assert str(folder) in str(caught.value) and advice in str(caught.value)
    assert ("build it again" in str(caught.value)) == ("build it again" in advice)
