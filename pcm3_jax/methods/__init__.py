"""Pretraining methods; to add one, add a file here and a line to `METHODS`."""

from pcm3_jax.methods.cmd import CMD
from pcm3_jax.methods.method import Method
from pcm3_jax.methods.pcm3 import PCM3Method
from pcm3_jax.settings import Config

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        PCM3Method(),
        CMD(),
    )
}


def method_of(config: Config) -> Method:
    """The pretraining method that a configuration names."""
    return METHODS[config.method.name]
