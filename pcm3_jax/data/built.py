"""Opening a built data set: its files are checked, and no code that they name is executed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from pcm3_jax.errors import UserError, reason, shortage
from pcm3_jax.runtime.files import crc, read_json

# The sizes and CRCs of a data set's files, written when it is built; older ones have none.
CHECKSUMS_FILE = "checksums.json"
# Differs between builds of the same data.
REPORT_FILE = "report.json"
_AGAIN = "delete the folder and build it again"
# What features.json may name: TFDS imports the module of a class that it does not know yet.
_FEATURES = "tensorflow_datasets.core.features."
_CLASSES = {
    f"{_FEATURES}{name}"
    for name in (
        "class_label_feature.ClassLabel", "features_dict.FeaturesDict", "scalar.Scalar",
        "sequence_feature.Sequence", "tensor_feature.Tensor", "text_feature.Text",
    )
}  # fmt: skip
# Other keys under which TFDS finds classes; a value of the last two is JSON in a string.
_OTHER_KEYS = ("python_class_name", "type", "jsonFeature", "json_feature")


def open_built(folder: Path) -> Any:
    """The TFDS builder that reads the data set in a folder.

    Raises:
      UserError: a file is missing or damaged, or names a class that no builder writes.
    """
    check(folder)
    with named_if_damaged(folder):
        return tfds.builder_from_directory(str(folder))


def check(folder: Path, *, shards: bool = False) -> None:
    """Checks the files of a data set: their sizes, and the content of all but the shards.

    Args:
      folder: of the data set.
      shards: whether to check the content of the shards, too.

    Raises:
      UserError: a file is missing or damaged, or names a class that no builder writes.
    """
    with named_if_damaged(folder):
        _check_classes(read_json(folder / "features.json", dict, _AGAIN))
        if not (folder / CHECKSUMS_FILE).exists():
            return
        for name, (size, checksum) in read_json(folder / CHECKSUMS_FILE, dict, _AGAIN).items():
            path = folder / name
            if path.stat().st_size != size:
                raise ValueError(f"{name} has {path.stat().st_size} bytes, not {size}")
            if (shards or not is_shard(path)) and crc(path) != checksum:
                raise ValueError(f"the checksum of {name} is wrong")


def write_checksums(folder: Path) -> None:
    """Writes the checksums of a data set that is complete."""
    paths = sorted(path for path in folder.iterdir() if path.name != REPORT_FILE)
    found = {path.name: (path.stat().st_size, crc(path)) for path in paths}
    (folder / CHECKSUMS_FILE).write_text(json.dumps(found, indent=1))


def is_shard(path: Path) -> bool:
    """Whether a file of a data set holds examples."""
    return ".array_record" in path.name


@contextlib.contextmanager
def named_if_damaged(folder: Path) -> Iterator[None]:
    """Converts any error of reading into a UserError that names the data set's folder."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        clauses = shortage(error) or f"{reason(error)}; {_AGAIN}"
        raise UserError(f"The data set in {folder} cannot be read: {clauses}.") from error


def _check_classes(value: Any) -> None:
    """Raises ValueError if features.json names a class that no builder writes."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key in _OTHER_KEYS or (key == "pythonClassName" and inner not in _CLASSES):
            raise ValueError(f"features.json may not have {key} = {str(inner)[:60]!r}")
        _check_classes(inner)
