"""Builder of `synthetic_skeletons`; the clips come from `generator`."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow_datasets as tfds

from pcm3_jax.data.normalization import NORMALIZATIONS, select_bodies
from pcm3_jax.errors import UserError
from tfds_builders import workers
from tfds_builders.skeleton_builder import (
    Example,
    Shard,
    SkeletonBuilder,
    SkeletonConfig,
    trimmed_features,
    untrimmed_features,
)
from tfds_builders.synthetic_skeletons import generator

_SHARD_SIZE = 8 * generator.CHUNK
_SIZED = re.compile(r"n(\d+)x(\d+)(_untrimmed)?")


@dataclass(eq=False, kw_only=True)
class SizeConfig(SkeletonConfig):
    """How many clips, or untrimmed videos, each split has."""

    train: int
    test: int
    untrimmed: bool = False


class Builder(SkeletonBuilder):
    """Synthetic clips or untrimmed videos, split by subject, in any number."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        SizeConfig(name="default", description="3,000 and 1,000 clips.", train=3000, test=1000),
        SizeConfig(name="tiny", description="For tests.", train=96, test=48),
        SizeConfig(
            name="untrimmed", description="120 and 40 videos of several actions.",
            train=120, test=40, untrimmed=True,
        ),
    ]  # fmt: skip
    LABELS = generator.LABELS

    @classmethod
    def config_named(cls, name: str | None) -> tfds.core.BuilderConfig:
        """Also makes configs `n<train>x<test>[_untrimmed]`. Raises UserError for other names."""
        sized = _SIZED.fullmatch(name or "")
        if sized is None:
            try:
                return super().config_named(name)
            except UserError as error:
                raise UserError(
                    f"{str(error).removesuffix('.')} or a size such as n20000x5000."
                ) from None
        train, test = int(sized[1]), int(sized[2])
        if not train or not test:
            raise UserError(
                f"the config {name!r} has an empty split; each split needs one clip or more."
            )
        config = SizeConfig(
            name=name,
            description=f"{train:,} and {test:,} clips.",
            train=train,
            test=test,
            untrimmed=bool(sized[3]),
        )
        # Registered, since TFDS logs a warning for any other config.
        return cls.builder_configs.setdefault(name, config)

    def _features(self) -> dict[str, Any]:
        features = untrimmed_features if self.builder_config.untrimmed else trimmed_features
        return features(self.LABELS)

    def _shards(self) -> Mapping[str, Sequence[Shard]]:
        config = self.builder_config
        # A video is about ten times as long as a clip.
        shard_size = _SHARD_SIZE // 8 if config.untrimmed else _SHARD_SIZE
        shards: dict[str, list[Shard]] = {"train": [], "test": []}
        for split, size in (("train", config.train), ("test", config.test)):
            for start in range(0, size, shard_size):
                stop = min(start + shard_size, size)
                what = (split, start, stop, config.coordinates)
                mark = workers.fingerprint(self.name, str(self.version), config.untrimmed, *what)
                examples = functools.partial(_examples, *what, config.untrimmed)
                shards[split].append(Shard(examples, stop - start, mark))
        return shards


def _examples(
    split: str, start: int, stop: int, coordinates: str, untrimmed: bool
) -> Iterator[tuple[str, Example]]:
    make: Any = generator.generate_untrimmed if untrimmed else generator.generate
    for index, made in enumerate(make(split, start, stop), start):
        name = f"{split}_{index:07d}"
        example = {
            "skeleton": NORMALIZATIONS[coordinates](select_bodies(made.skeleton)),
            "name": name,
            "subject": made.performer,
            "camera": made.camera,
            "setup": 0,
            "num_frames": len(made.skeleton),
        }
        if isinstance(made, generator.Clip):
            yield name, example | {"label": made.label}
            continue
        keys = ("label", "start", "stop")
        actions = [dict(zip(keys, map(int, row), strict=True)) for row in made.intervals]
        yield name, example | {"actions": actions}
