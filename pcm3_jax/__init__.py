"""PCM³: self-supervised representations of 3-D skeleton actions.

`load` returns a trained model, `available` lists those that come with the package; everything else
is imported from the submodules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcm3_jax.inference.model import Model, load
    from pcm3_jax.inference.shipped_models import available

# Also read, without importing the package, when it is built (pyproject.toml).
__version__ = "0.1.0"
__all__ = ["Model", "available", "load"]


def __getattr__(name: str) -> Any:
    # Imported on first access, so that dataset builders and tools need no JAX.
    if name == "available":
        from pcm3_jax.inference.shipped_models import available

        return available
    if name in __all__:
        from pcm3_jax.inference import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
