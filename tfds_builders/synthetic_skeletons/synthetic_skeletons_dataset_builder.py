"""Builder of `synthetic_skeletons`; the clips come from `generator`."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import tensorflow_datasets as tfds

from pcm3_jax.data.normalization import select_bodies
from pcm3_jax.errors import UserError
from tfds_builders import workers
from tfds_builders.skeleton_builder import (
    COORDINATES,
    Example,
    Shard,
    SkeletonBuilder,
    SkeletonConfig,
)
from tfds_builders.synthetic_skeletons import generator

_SHARD_SIZE = 8 * generator.CHUNK
_SIZED = re.compile(r"n(\d+)x(\d+)")


@dataclass(eq=False, kw_only=True)
class SizeConfig(SkeletonConfig):
    """How many clips each split has."""

    train: int
    test: int


class Builder(SkeletonBuilder):
    """Synthetic clips, cross-subject; also of any size, by a config name `n<train>x<test>`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        SizeConfig(name="default", description="3,000 and 1,000 clips.", train=3000, test=1000),
        SizeConfig(name="tiny", description="For tests.", train=96, test=48),
    ]
    LABELS = generator.LABELS

    @classmethod
    def config_named(cls, name: str | None) -> tfds.core.BuilderConfig:
        """Also makes configs `n<train>x<test>`. Raises UserError if the name is no config."""
        sized = _SIZED.fullmatch(name or "")
        if sized is None:
            try:
                return super().config_named(name)
            except UserError as error:
                raise UserError(
                    f"{str(error).removesuffix('.')} or a size such as n20000x5000."
                ) from None
        train, test = map(int, sized.groups())
        if not train or not test:
            raise UserError(f"the config {name!r} has an empty split; ask for one clip or more.")
        config = SizeConfig(
            name=name, description=f"{train:,} and {test:,} clips.", train=train, test=test
        )
        # Entered among the known ones: TFDS logs a warning for any other.
        return cls.builder_configs.setdefault(name, config)

    def _shards(self) -> Mapping[str, Sequence[Shard]]:
        config = self.builder_config
        return {
            split: [
                self._shard(split, start, min(start + _SHARD_SIZE, size))
                for start in range(0, size, _SHARD_SIZE)
            ]
            for split, size in (("train", config.train), ("test", config.test))
        }

    def _shard(self, split: str, start: int, stop: int) -> Shard:
        what = (split, start, stop, self.builder_config.coordinates)
        mark = workers.fingerprint(self.name, str(self.version), *what)
        return Shard(functools.partial(_examples, *what), stop - start, mark)


def _examples(split: str, start: int, stop: int, coordinates: str) -> Iterator[tuple[str, Example]]:
    for index, clip in enumerate(generator.generate(split, start, stop), start):
        name = f"{split}_{index:07d}"
        skeleton = COORDINATES[coordinates](select_bodies(clip.skeleton))
        yield (
            name,
            {
                "skeleton": skeleton,
                "label": clip.label,
                "name": name,
                "subject": clip.performer,
                "camera": clip.camera,
                "setup": 0,
                "num_frames": len(skeleton),
            },
        )
