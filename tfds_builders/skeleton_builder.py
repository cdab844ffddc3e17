"""Base class of all builders: features, configs, coordinates, and writing of shards."""

import abc
import dataclasses
import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, writer

from pcm3_jax.data.built import write_checksums
from pcm3_jax.data.normalization import NORMALIZATIONS
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import whole
from tfds_builders import workers

Example = dict[str, Any]

SHARD_SIZE = 512  # examples per file


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a split.

    Attributes:
        examples: yields (unique key, example); called once, must be picklable.
        size: number of examples.
        mark: hash of the examples' inputs; changes when the examples change.
    """

    examples: Callable[[], Iterator[tuple[str, Example]]]
    size: int
    mark: str


@dataclasses.dataclass(eq=False, kw_only=True)
class SkeletonConfig(tfds.core.BuilderConfig):
    """A variant of a data set; `coordinates` is one of `NORMALIZATIONS`."""

    coordinates: str = "normalized"


def trimmed_features(labels: Sequence[str]) -> dict[str, Any]:
    """The features of a recording of one action; `labels` are the class names, in order."""
    return _SHARED_FEATURES | {"label": tfds.features.ClassLabel(names=labels)}


def untrimmed_features(labels: Sequence[str]) -> dict[str, Any]:
    """The features of a video with several actions; `stop` is exclusive."""
    action = {
        "label": tfds.features.ClassLabel(names=labels),
        "start": tfds.features.Scalar(np.int32),
        "stop": tfds.features.Scalar(np.int32),
    }
    return _SHARED_FEATURES | {"actions": tfds.features.Sequence(action)}


_SHARED_FEATURES = {
    # Axes: time, person, joint, xyz; metres. Raw bytes are encoded seven times faster than lists
    # of numbers.
    "skeleton": tfds.features.Tensor(shape=(None, 2, 25, 3), dtype=np.float32, encoding="bytes"),
    "name": tfds.features.Text(),
    "subject": tfds.features.Scalar(np.int32),
    "camera": tfds.features.Scalar(np.int32),
    "setup": tfds.features.Scalar(np.int32),
    # Frames of the recording; `skeleton` has fewer if it was cut.
    "num_frames": tfds.features.Scalar(np.int32),
}


# mypy does not know the class keywords of TFDS, which has no type annotations.
class SkeletonBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base class of the builders; a subclass defines `LABELS` and `_shards`.

    Shards are written by several processes, without TensorFlow, and kept in `staging` until the
    data set is complete, so that an interrupted build resumes. Subclasses must yield examples in a
    shuffled but deterministic order.
    """

    HOMEPAGE: ClassVar[str | None] = None
    NEEDS_MANUAL_DIR: ClassVar[bool] = False

    # A property, so that a subclass may compute it.
    @property
    @abc.abstractmethod
    def LABELS(self) -> Sequence[str]:
        """The class names; a label is an index in them."""

    def __init__(
        self,
        *,
        manual_dir: Path | None = None,
        processes: int = 1,
        skip_bad_files: bool = False,
        **kwargs: Any,
    ):
        """See `tfds_builders.build.build`; other arguments are those of TFDS."""
        super().__init__(file_format=tfds.core.FileFormat.ARRAY_RECORD, **kwargs)
        self.manual_dir = manual_dir
        self.processes = processes
        self.skip_bad_files = skip_bad_files

    @classmethod
    def config_named(cls, name: str | None) -> tfds.core.BuilderConfig:
        """The config of that name, which may end in `_<coordinates>`; None for the first config.

        Raises:
            UserError: if there is none.
        """
        configs = {config.name: config for config in cls.BUILDER_CONFIGS}
        if name is None:
            return cls.BUILDER_CONFIGS[0]
        stem, _, coordinates = name.rpartition("_")
        if coordinates in NORMALIZATIONS:
            config = dataclasses.replace(cls.config_named(stem), name=name, coordinates=coordinates)
            # Registered, since TFDS logs a warning for any other config.
            return cls.builder_configs.setdefault(name, config)
        if name not in configs:
            raise UserError(f"{cls.name} has no config {name!r}; use one of {', '.join(configs)}.")
        return configs[name]

    @property
    def staging(self) -> Path:
        """Folder with parsed files and shards of unfinished builds of this data set."""
        return Path(self.data_dir_root) / ".staging" / self.name

    @abc.abstractmethod
    def _shards(self) -> Mapping[str, Sequence[Shard]]:
        """The shards of each split, in order."""

    def _features(self) -> dict[str, Any]:
        return trimmed_features(self.LABELS)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self._features())
        return self.dataset_info_from_configs(features=features, homepage=self.HOMEPAGE)

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> NoReturn:
        raise NotImplementedError("shards are written by _download_and_prepare")

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        shards = self._shards()
        staging = self.staging / self.builder_config.name
        staging.mkdir(parents=True, exist_ok=True)
        workers.remove_unfinished(staging)
        every = [shard for some in shards.values() for shard in some]
        write = functools.partial(_write_shard, staging, self.info.features)
        sizes = [shard.size for shard in every]
        paths = iter(list(workers.run(write, every, self.processes, sizes, "writing", "clips")))
        splits = []
        for split, some in shards.items():
            template = self._get_filename_template(split_name=split)
            for index, path in enumerate(chosen := list(itertools.islice(paths, len(some)))):
                _link(path, template.sharded_filepath(shard_index=index, num_shards=len(some)))
            info = tfds.core.SplitInfo(
                name=split,
                shard_lengths=[shard.size for shard in some],
                num_bytes=sum(path.stat().st_size for path in chosen),
                filename_template=template,
            )
            splits.append(info)
        self.info.set_splits(tfds.core.splits.SplitDict(splits))
        # TFDS writes these files once more, as they are, after this method.
        self.info.download_size = dl_manager.downloaded_size
        self.info.write_to_directory(self.data_dir)
        write_checksums(Path(self.data_dir))

    def _post_download_and_prepare_hook(self) -> None:
        shutil.rmtree(self.staging / self.builder_config.name)


def _write_shard(folder: Path, features: tfds.features.FeaturesDict, shard: Shard) -> Path:
    path = folder / f"{shard.mark}.array_record"
    if not path.exists():
        serializer = example_serializer.ExampleSerializer(features.get_serialized_info())

        def serialize(example: Example) -> bytes:
            proto = serializer.get_tf_example(features.encode_example(example))
            # Sorted fields, so that equal data give equal bytes.
            return proto.SerializeToString(deterministic=True)

        records = ((key, serialize(example)) for key, example in shard.examples())
        array_record = writer.ExampleWriter(tfds.core.FileFormat.ARRAY_RECORD)
        with whole(path) as partial:
            array_record.write(partial, records)
    return path


def _link(path: Path, place: Path) -> None:
    """Hard-links a file, so that the next build finds it at `path` if this one is killed."""
    try:
        os.link(path, place)
    except OSError:  # some file systems have no hard links
        shutil.copyfile(path, place)
