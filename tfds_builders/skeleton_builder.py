"""What all skeleton data sets share: features, shards, errors meant for the user."""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from pcm3_jax.data.normalization import normalize_sequence
from pcm3_jax.errors import UserError

Example = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """One file of a split.

    Attributes:
        examples: called once, yields (unique key, example).
        size: how many it yields, for the progress bar.
    """

    examples: Callable[[], Iterator[tuple[str, Example]]]
    size: int


def skeleton_features(labels: Sequence[str]) -> tfds.features.FeaturesDict:
    """The features of every skeleton data set; `labels` are its class names in order."""
    return tfds.features.FeaturesDict(
        {
            # Axes: time, person, joint, xyz; metres; normalised. Raw bytes, since encoding
            # number by number is seven times slower.
            "skeleton": tfds.features.Tensor(
                shape=(None, 2, 25, 3), dtype=np.float32, encoding="bytes"
            ),
            "label": tfds.features.ClassLabel(names=labels),
            "name": tfds.features.Text(),
            "subject": tfds.features.Scalar(np.int32),
            "camera": tfds.features.Scalar(np.int32),
            "setup": tfds.features.Scalar(np.int32),
            "num_frames": tfds.features.Scalar(np.int32),
        }
    )


def make_example(
    skeleton: np.ndarray, *, label: int, name: str, subject: int, camera: int = 0, setup: int = 0
) -> Example:
    """One example of `skeleton_features`, normalised.

    Args:
        skeleton: (T, 2, 25, 3) metres as recorded; an absent second person is zeros.
        label: index of the class.
        name: the recording's name in its source.
        subject: the performer's number.
        camera: number of the camera, 0 where the data set has only one.
        setup: number of the set-up, 0 where the data set has only one.

    Raises:
        UserError: if the recording cannot be normalised (empty, or not finite).
    """
    try:
        normalized = normalize_sequence(skeleton)
    except ValueError as error:
        raise UserError(f"{name}: {error}; remove or repair this recording.") from error
    return {
        "skeleton": normalized,
        "label": label,
        "name": name,
        "subject": subject,
        "camera": camera,
        "setup": setup,
        "num_frames": len(skeleton),
    }


class SkeletonBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Base of the builders: a subclass names its labels and gives its shards.

    Shards, unlike TFDS' usual generators, need neither TensorFlow nor a second, shuffling pass;
    a subclass puts its examples in a shuffled, deterministic order itself.
    """

    LABELS: ClassVar[Sequence[str]]
    HOMEPAGE: ClassVar[str | None] = None
    NEEDS_MANUAL_DIR: ClassVar[bool] = False

    def __init__(self, *, manual_dir: Path | None = None, **kwargs: Any):
        """Takes TFDS' own arguments and `manual_dir`, a folder or file with the raw data."""
        super().__init__(file_format="array_record", **kwargs)
        self.manual_dir = manual_dir

    @classmethod
    def config_named(cls, name: str | None) -> tfds.core.BuilderConfig:
        """The config of that name; the first one for None.

        Raises:
            UserError: if there is none.
        """
        configs = {config.name: config for config in cls.BUILDER_CONFIGS}
        if name is None:
            return cls.BUILDER_CONFIGS[0]
        if name not in configs:
            raise UserError(f"{cls.name} has no config {name!r}; use one of {', '.join(configs)}.")
        return configs[name]

    @abc.abstractmethod
    def _shards(self) -> Mapping[str, Sequence[Shard]]:
        """The shards of each split, in order."""

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=skeleton_features(self.LABELS), homepage=self.HOMEPAGE
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[tuple[str, Example]]]]]:
        shards_per_split = self._shards()
        total = sum(shard.size for shards in shards_per_split.values() for shard in shards)
        # disable=None: shown on a terminal only.
        progress = tqdm(total=total, desc="writing", unit=" clips", disable=None, leave=False)

        def counted(shard: Shard) -> Iterator[tuple[str, Example]]:
            for keyed_example in shard.examples():
                yield keyed_example
                progress.update()
            if progress.n == total:
                progress.close()

        return {
            split: [lambda shard=shard: counted(shard) for shard in shards]
            for split, shards in shards_per_split.items()
        }
