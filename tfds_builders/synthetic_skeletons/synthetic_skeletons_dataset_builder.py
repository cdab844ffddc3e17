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
from tfds_builders.synthetic_skeletons import generator, motions

_SHARD_SIZE = 8 * generator.CHUNK
_SIZED = re.compile(r"n(\d{1,9})x(\d{1,9})(_untrimmed)?", re.ASCII)
_MOTIONS = re.compile(r"motions_n(\d{1,9})", re.ASCII)


@dataclass(eq=False, kw_only=True)
class SizeConfig(SkeletonConfig):
    """How many clips, or untrimmed videos, each split has."""

    train: int
    test: int
    untrimmed: bool = False


@dataclass(eq=False, kw_only=True)
class MotionsConfig(SkeletonConfig):
    """Movement programmes; every programme is in both splits, with other performers."""

    train: int

    @property
    def programmes(self) -> int:
        """Their number: eight training clips or more of each."""
        return max(1, min(motions.PROGRAMMES, self.train // 8))


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

    @property
    def LABELS(self) -> Sequence[str]:
        """The actions; for movement programmes their numbers and descriptions."""
        if not isinstance(self.builder_config, MotionsConfig):
            return generator.LABELS
        known = motions.programmes(self.builder_config.programmes)
        return [f"{number:04d} {programme.name}" for number, programme in enumerate(known)]

    @classmethod
    def config_named(cls, name: str | None) -> tfds.core.BuilderConfig:
        """Also makes configs `n<train>x<test>[_untrimmed]`. Raises UserError for other names."""
        if (found := _MOTIONS.fullmatch(name or "")) and int(found[1]):
            size = int(found[1])
            made = MotionsConfig(name=name, description=f"{size:,} movements.", train=size)
            return cls.builder_configs.setdefault(name, made)
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
        whole = getattr(self.builder_config, "untrimmed", False)
        features = untrimmed_features if whole else trimmed_features
        return features(self.LABELS)

    def _shards(self) -> Mapping[str, Sequence[Shard]]:
        config = self.builder_config
        if isinstance(config, MotionsConfig):
            return self._motion_shards(config)
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

    def _motion_shards(self, config: MotionsConfig) -> dict[str, list[Shard]]:
        shards: dict[str, list[Shard]] = {"train": [], "test": []}
        for split, size in (("train", config.train), ("test", config.programmes)):
            for start in range(0, size, _SHARD_SIZE):
                stop = min(start + _SHARD_SIZE, size)
                what = (split, start, stop, config.coordinates, config.programmes)
                mark = workers.fingerprint(self.name, str(self.version), "motions", *what)
                examples = functools.partial(_motion_examples, *what)
                shards[split].append(Shard(examples, stop - start, mark))
        return shards


def _motion_examples(
    split: str, start: int, stop: int, coordinates: str, programmes: int
) -> Iterator[tuple[str, Example]]:
    for index, made in enumerate(motions.generate(split, start, stop, programmes), start):
        name = f"{split}_{index:07d}"
        yield name, _example(name, made, coordinates) | {"label": made.label}


def _examples(
    split: str, start: int, stop: int, coordinates: str, untrimmed: bool
) -> Iterator[tuple[str, Example]]:
    make: Any = generator.generate_untrimmed if untrimmed else generator.generate
    for index, made in enumerate(make(split, start, stop), start):
        name = f"{split}_{index:07d}"
        example = _example(name, made, coordinates)
        if isinstance(made, generator.Clip):
            yield name, example | {"label": made.label}
            continue
        keys = ("label", "start", "stop")
        actions = [dict(zip(keys, map(int, row), strict=True)) for row in made.intervals]
        yield name, example | {"actions": actions}


def _example(name: str, made: Any, coordinates: str) -> Example:
    """What all recordings have, of a clip or video."""
    return {
        "skeleton": NORMALIZATIONS[coordinates](select_bodies(made.skeleton)),
        "name": name,
        "subject": made.performer,
        "camera": made.camera,
        "setup": 0,
        "num_frames": len(made.skeleton),
    }
