"""The runs' configurations side by side, beside the published one."""

from __future__ import annotations

from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from pcm3_jax.config import default_config
from pcm3_jax.report.runs import Run


def table(runs: list[Run]) -> dict[str, Any]:
    """Every setting: its key, the paper's value, each run's, and whether these differ.

    A row is {"key", "default", "values", "differs", "changed"}: whether the runs differ in it,
    and whether one of them differs from the default.
    """
    defaults = flat(default_config())
    configs = [flat(run.config) for run in runs]
    rows = []
    for key in dict.fromkeys([*defaults, *(key for config in configs for key in config)]):
        values = [config.get(key, "–") for config in configs]
        default = defaults.get(key, "–")
        rows.append(
            {
                "key": key,
                "default": default,
                "values": values,
                "differs": len(set(values)) > 1,
                "changed": any(value != default for value in values),
            }
        )
    return {"runs": [run.name for run in runs], "rows": rows}


def flat(config: ConfigDict) -> dict[str, str]:
    """The settings as text, by keys such as "optimizer.epochs"."""
    return {key: str(value) for key, value in flatten_dict(config.to_dict(), sep=".").items()}
