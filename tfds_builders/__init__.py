"""TFDS builders of skeleton data sets, and the command that runs them (`tfds_builders.build`).

Importing this package lets TFDS find them: `tfds.builder("ntu_rgbd/ntu60_xsub")`.
"""

import importlib
from typing import Any

from tensorflow_datasets.core import registered

# Each name is a folder with a module NAME_dataset_builder.py.
BUILDERS = ("intellirehabds", "ntu_rgbd", "own_skeletons", "pku_mmd", "synthetic_skeletons")


class Provider:
    """Imports a builder's module when TFDS asks for it."""

    def has_dataset(self, name: str) -> bool:
        return name in BUILDERS

    def get_builder_cls(self, name: str) -> Any:
        return importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder").Builder


# First, because the next provider imports all builders of TFDS to look for a name.
registered.add_dataset_builder_provider(Provider(), index=0)
