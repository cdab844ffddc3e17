"""Task "fusion" (Table 1, 3s): the summed class probabilities of several linear evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from pcm3_jax.runtime.files import read_arrays
from pcm3_jax.settings import Config, Section, require, section, setting
from pcm3_jax.tasks.linear_probe import METRICS, SCORES_FILE, accuracies
from pcm3_jax.tasks.task import Results, Task


@section
class Fused(Section):
    """Fusion of streams."""

    runs: tuple[str, ...] = setting((), "workdirs of the linear evaluations to fuse")
    weights: tuple[float, ...] = setting((1.0, 1.0, 1.0), "weights of their class probabilities")


class Fusion(Task):
    """Accuracy of a weighted sum of the class probabilities of several linear evaluations."""

    name = "fusion"
    settings = {"fusion": Fused}
    metrics = METRICS
    reads_data = False
    takes_encoder = False

    def run(self, config: Config, workdir: Path) -> Results:
        """Raises UserError like `fused_scores`, or if the runs tested different sequences."""
        paths, found = fused_scores(config), []
        for path in paths:
            found.append(
                read_arrays(path, ("scores", "label", "name"), "run that evaluation again")
            )
            require(
                np.array_equal(found[-1]["name"], found[0]["name"]),
                f"{paths[0].parent} and {path.parent} were not tested on the same sequences.",
            )
        # Sum probabilities, not scores, whose scale differs between encoders.
        probabilities = [
            weight * np.asarray(jax.nn.softmax(run["scores"]))
            for weight, run in zip(config.of(Fused).weights, found, strict=True)
        ]
        total = np.sum(probabilities, axis=0)
        return accuracies(total, found[0]["label"])

    def plan(self, config: Config, workdir: Path) -> Iterator[tuple[str, str]]:
        yield "data", f"scores of {len(fused_scores(config))} linear evaluations"

    def compared(self, config: Config) -> tuple[str, str]:
        return "fused encoders", "several"


def fused_scores(config: Config) -> list[Path]:
    """The files of scores that a fusion needs.

    Raises:
      UserError: a file is missing, or the number of weights differs from the number of runs.
    """
    runs, weights = config.of(Fused).runs, config.of(Fused).weights
    require(
        0 < len(runs) == len(weights),
        f"config.fusion.runs names {len(runs)} workdirs and config.fusion.weights has "
        f"{len(weights)} numbers: give one weight for each linear evaluation.",
    )
    paths = [Path(run) / SCORES_FILE for run in runs]
    for path in paths:
        require(
            path.exists(),
            f"There is no finished linear evaluation in {path.parent}: run it first.",
        )
    return paths
