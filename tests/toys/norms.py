"""A toy task: the mean norm of the features of the test split.

All that a downstream task needs besides this file is its line in `pcm3_jax.registry`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pcm3_jax.data.recordings import Recordings
from pcm3_jax.settings import Config, Section, require, section, setting
from pcm3_jax.tasks.common import EncoderTask, encoder
from pcm3_jax.tasks.task import Cost, Metric, Results


@section
class NormSettings(Section):
    """Lengths of features."""

    order: int = setting(2, "p of the p-norm", low=1)


class Norms(EncoderTask):
    """Mean length of an encoder's features of the test split."""

    name = "norms"
    settings = {"norms": NormSettings}
    metrics = (Metric("mean_norm", "feature length", better="", compared=True),)

    def check(self, config: Config) -> None:
        order = config.of(NormSettings).order
        require(order != 13, f"config.norms.order is {order}, which is unlucky.")

    def run(self, config: Config, workdir: Path) -> Results:
        devices = self.devices(config)
        embedder, variables = encoder(config, devices)
        _, test_split = self.read(config, devices)
        features = embedder.central(variables, test_split)
        lengths = np.linalg.norm(features, config.of(NormSettings).order, axis=1)
        return {"mean_norm": float(lengths.mean())}

    def cost(self, config: Config, train_split: Recordings, test_split: Recordings) -> Cost:
        return Cost(len(test_split))
