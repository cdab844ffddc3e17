"""The whole configuration: the shared settings and those of every task and method."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pcm3_jax.methods import METHODS
from pcm3_jax.registry import TASKS
from pcm3_jax.settings import Config, Section, part, require, section
from pcm3_jax.tasks.task import Task
from pcm3_jax.train import workdir as workdirs

__all__ = ["Config", "config_class", "default_config", "read_config", "task_of", "validate"]


def config_class() -> type[Config]:
    """The configuration class: `Config` plus a section for every task and method."""
    owned = [owner.settings for owner in METHODS.values()]
    owned += [owner.settings for owner in TASKS.values()]
    return _composed(tuple(item for settings in owned for item in settings.items()))


@functools.cache
def _composed(sections: tuple[tuple[str, type[Section]], ...]) -> type[Config]:
    members: dict[str, Any] = {name: part(kind) for name, kind in sections}
    documented = {"__annotations__": dict(sections), "__doc__": Config.__doc__}
    return section(type("Config", (Config,), members | documented))


def default_config() -> Any:
    """PCM³ as published: §4.2 and the authors' program.

    It is a `Config` that also has a section for every task and method.
    """
    return config_class()()


def task_of(config: Config) -> Task:
    """The task that a configuration names."""
    return TASKS[config.task]


def validate(config: Config) -> None:
    """Raises for settings that cannot work, naming the key and the allowed values.

    Raises:
      UserError: the first setting that cannot work.
    """
    config.check_types()
    for key, value, choices in (
        ("task", config.task, TASKS),
        ("method.name", config.method.name, METHODS),
    ):
        require(
            value in choices, f"config.{key} is {value!r}, but must be one of {tuple(choices)}."
        )
    task_of(config).validate(config)


def read_config(workdir: Path) -> Config:
    """The configuration of the run in a workdir, including all task and method sections.

    Raises:
      UserError: the workdir has no configuration, or it cannot be read.
    """
    return workdirs.read_config(workdir, config_class())
