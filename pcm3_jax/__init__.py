"""PCM³: self-supervised representations of 3-D skeleton actions.

`load` returns a trained model; everything else is imported from the submodules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcm3_jax.inference.model import Model, load

__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    # Imported on first access, so that dataset builders and tools need no JAX.
    if name in __all__:
        from pcm3_jax.inference import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
