"""Configurations of tables, data sets that look built, and tasks that take no time."""

import runpy
from pathlib import Path

from pcm3_jax import registry
from pcm3_jax.config import default_config, validate

CONFIGS = Path(__file__).parents[2] / "configs" / "tables"
# How many runs each table needs at paper scale, and how many of them pretrain: by hand from the
# paper's tables.  Table 1, for each of five benchmarks: MoCo-GRU, CMD and three streams of PCM³
# are pretrained; six evaluations of single streams, four more for the fusions, and two fusions.
# A transfer to PKU-MMD I or motion prediction (xsub) needs pretraining of its own where the other
# columns are xview: Tables 7 and 9.
RUNS = {
    1: (75, 25), 2: (22, 6), 3: (28, 12), 4: (30, 6), 5: (5, 2), 6: (5, 2), 7: (28, 8),
    8: (12, 6), 9: (20, 10), 10: (16, 8),
}  # fmt: skip


def recipe(number, **settings):
    """The configuration of a table; a setting is written ``section__name``."""
    if number:
        config = runpy.run_path(str(CONFIGS / f"table{number}.py"))["get_config"]()
    else:
        config = default_config()
        config.task, config.tables.number = "table", 0
        config.data.name = "synthetic_skeletons/default"
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in settings.items()}
    )
    return config


def build(folder, *names):
    """Makes data sets look built."""
    for name in names:
        path = folder / name / "1.0.0" / "dataset_info.json"
        path.parent.mkdir(parents=True)
        path.touch()
    return str(folder)


def kind(config):
    """The task, or "cmd" for pretraining by CMD."""
    cmd = config.task == "pretrain" and config.method.name == "cmd"
    return "cmd" if cmd else config.task


class Fakes:
    """Replaces every task's ``run``; it notes the run and depends on encoder, occlusion and seed.

    Attributes:
      ran: the configurations of all runs.
      errors: what to raise instead, by `kind`.
    """

    def __init__(self, monkeypatch):
        self.ran, self.errors = [], {}
        for name, task in registry.TASKS.items():
            if name != "table":
                monkeypatch.setattr(task, "run", self._run)

    def _run(self, config, workdir):
        self.ran.append(config)
        # The configuration must be as valid as one from the command line.
        validate(config)
        encoders = [config.encoder] if config.encoder else config.fusion.runs
        assert all((Path(encoder) / "results.json").exists() for encoder in encoders)
        if kind(config) in self.errors:
            raise self.errors[kind(config)]
        occluded = config.occlusion.kind != "none"
        value = 0.5 + 0.25 * bool(config.encoder) + 0.125 * config.seed - 0.25 * occluded
        return {
            "top1": value, "top5": 1.0, "knn_accuracy": value, "map_action@0.5": value,
            "map_video@0.5": value, "mpjpe": 100 * value, "zero_velocity": 90.0,
            "ridge_accuracy": 0.25,
        }  # fmt: skip

    def count(self, *kinds):
        return sum(kind(config) in kinds for config in self.ran)
