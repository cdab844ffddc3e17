"""Reads what a builder has built."""

import tensorflow_datasets as tfds

from tfds_builders.skeleton_builder import SkeletonBuilder


def read_built(builder: SkeletonBuilder) -> dict[str, dict[str, dict]]:
    """{split: {name: example}} of a built data set."""
    reader = tfds.builder_from_directory(str(builder.data_path))
    return {
        split: {example["name"].decode(): example for example in reader.as_data_source(split)}
        for split in reader.info.splits
    }
