"""What all skeleton data sets share: features, configs, coordinates, and writing shards."""

import abc
import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, writer

from pcm3_jax.data.normalization import NORMALIZATIONS
from pcm3_jax.errors import UserError
from tfds_builders import workers

Example = dict[str, Any]

# Examples of one file, if their builder has no reason for another number.
SHARD_SIZE = 512


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a split.

    Attributes:
        examples: called once, yields (unique key, example); can be pickled.
        size: how many it yields.
        mark: changes when what it yields does.
    """

    examples: Callable[[], Iterator[tuple[str, Example]]]
    size: int
    mark: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SkeletonConfig(tfds.core.BuilderConfig):
    """A variant of a data set; `coordinates` is one of `NORMALIZATIONS`."""

    coordinates: str = "normalized"


def trimmed_features(labels: Sequence[str]) -> dict[str, Any]:
    """The features of a recording of one action; `labels` are the class names in order."""
    return _SHARED_FEATURES | {"label": tfds.features.ClassLabel(names=labels)}


def untrimmed_features(labels: Sequence[str]) -> dict[str, Any]:
    """The features of a video with several actions; `stop` is the frame after the last."""
    action = {
        "label": tfds.features.ClassLabel(names=labels),
        "start": tfds.features.Scalar(np.int32),
        "stop": tfds.features.Scalar(np.int32),
    }
    return _SHARED_FEATURES | {"actions": tfds.features.Sequence(action)}


_SHARED_FEATURES = {
    # Axes: time, person, joint, xyz; metres. Raw bytes, since encoding number by number is seven
    # times slower.
    "skeleton": tfds.features.Tensor(shape=(None, 2, 25, 3), dtype=np.float32, encoding="bytes"),
    "name": tfds.features.Text(),
    "subject": tfds.features.Scalar(np.int32),
    "camera": tfds.features.Scalar(np.int32),
    "setup": tfds.features.Scalar(np.int32),
    # Of the recording, of which long ones may be stored in part.
    "num_frames": tfds.features.Scalar(np.int32),
}


# TFDS has no types, so that its keywords of classes are not known.
class SkeletonBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base of the builders: a subclass names its labels and gives its shards.

    Shards are written by several processes, without TensorFlow, and kept in `staging` until the
    data set is whole, so that an interrupted build goes on where it was. A subclass puts its
    examples in a shuffled, deterministic order itself.
    """

    HOMEPAGE: ClassVar[str | None] = None
    NEEDS_MANUAL_DIR: ClassVar[bool] = False

    # A property, so that a subclass may compute it or set it.
    @property
    @abc.abstractmethod
    def LABELS(self) -> Sequence[str]:
        """The names of the classes; their order gives their numbers."""

    def __init__(
        self,
        *,
        manual_dir: Path | None = None,
        processes: int = 1,
        skip_bad_files: bool = False,
        **kwargs: Any,
    ):
        """Takes TFDS' own arguments and those of the build command.

        Args:
            manual_dir: folder or file with the raw data.
            processes: how many work at once.
            skip_bad_files: leave out raw files that cannot be used, instead of refusing all.
            **kwargs: of TFDS' builders.
        """
        super().__init__(file_format=tfds.core.FileFormat.ARRAY_RECORD, **kwargs)
        self.manual_dir = manual_dir
        self.processes = processes
        self.skip_bad_files = skip_bad_files

    @classmethod
    def config_named(cls, name: str | None) -> tfds.core.BuilderConfig:
        """The config of that name, which may end in `_<coordinates>`; the first one for None.

        Raises:
            UserError: if there is none.
        """
        configs = {config.name: config for config in cls.BUILDER_CONFIGS}
        if name is None:
            return cls.BUILDER_CONFIGS[0]
        stem, _, coordinates = name.rpartition("_")
        if coordinates in NORMALIZATIONS:
            config = dataclasses.replace(cls.config_named(stem), name=name, coordinates=coordinates)
            # Entered among the known ones: TFDS logs a warning for any other.
            return cls.builder_configs.setdefault(name, config)
        if name not in configs:
            raise UserError(f"{cls.name} has no config {name!r}; use one of {', '.join(configs)}.")
        return configs[name]

    @property
    def staging(self) -> Path:
        """Where finished pieces of builds of this data set wait."""
        return Path(self.data_dir_root) / ".staging" / self.name

    @abc.abstractmethod
    def _shards(self) -> Mapping[str, Sequence[Shard]]:
        """The shards of each split, in order."""

    def _features(self) -> dict[str, Any]:
        return trimmed_features(self.LABELS)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self._features())
        return self.dataset_info_from_configs(features=features, homepage=self.HOMEPAGE)

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager):
        raise NotImplementedError("shards are written by _download_and_prepare")

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        shards = [(split, shard) for split, some in self._shards().items() for shard in some]
        staging = self.staging / self.builder_config.name
        staging.mkdir(parents=True, exist_ok=True)
        workers.remove_unfinished(staging)
        results = workers.run(
            functools.partial(_write_shard, staging, self.info.features),
            [shard for _, shard in shards],
            self.processes,
            sizes=[shard.size for _, shard in shards],
            description="writing",
            unit="clips",
        )
        written: dict[str, list[tuple[Path, int]]] = {}
        for (split, shard), path in zip(shards, results, strict=True):
            written.setdefault(split, []).append((path, shard.size))
        splits = []
        for split, files in written.items():
            template = self._get_filename_template(split_name=split)
            for index, (path, _) in enumerate(files):
                place = template.sharded_filepath(shard_index=index, num_shards=len(files))
                _link(path, Path(place))
            splits.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[size for _, size in files],
                    num_bytes=sum(path.stat().st_size for path, _ in files),
                    filename_template=template,
                )
            )
        self.info.set_splits(tfds.core.splits.SplitDict(splits))

    def _post_download_and_prepare_hook(self) -> None:
        shutil.rmtree(self.staging / self.builder_config.name)


def _write_shard(folder: Path, features: tfds.features.FeaturesDict, shard: Shard) -> Path:
    path = folder / f"{shard.mark}.array_record"
    if not path.exists():
        serializer = example_serializer.ExampleSerializer(features.get_serialized_info())

        def serialize(example: Example) -> bytes:
            proto = serializer.get_tf_example(features.encode_example(example))
            # Fields in one order, so that the same data give the same bytes.
            return proto.SerializeToString(deterministic=True)

        records = ((key, serialize(example)) for key, example in shard.examples())
        array_record = writer.ExampleWriter(tfds.core.FileFormat.ARRAY_RECORD)
        workers.write_whole(path, lambda whole: array_record.write(whole, records))
    return path


def _link(path: Path, place: Path) -> None:
    """Makes a second name of a file, so that a build killed here finds the first."""
    try:
        os.link(path, place)
    except OSError:  # some file systems have no links
        shutil.copyfile(path, place)
