"""A toy method: its loss only pulls the embeddings of two views of a sequence together.

All that a pretraining method needs besides this file is its line in `pcm3_jax.methods`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from pcm3_jax.augment.pipeline import draw_poses
from pcm3_jax.data.batch import Batch
from pcm3_jax.data.skeleton import to_stream
from pcm3_jax.methods.method import Method, encoder_flops
from pcm3_jax.methods.pcm3 import Metrics, apply_gradients, step_key
from pcm3_jax.methods.state import State, build_model, init_variables
from pcm3_jax.models.pcm3 import PCM3, PromptOffsets
from pcm3_jax.settings import TINY, Config, Section, require, section, setting


@section
class PullSettings(Section):
    """The toy method."""

    weight: float = setting(1.0, "of the loss", low=TINY)


class Pull(Method):
    """Loss: weight · (1 - z · z') of two augmented views, with PCM³'s encoder and projector."""

    name = "pull"
    settings = {"pull": PullSettings}

    def check(self, config: Config) -> None:
        weight = config.of(PullSettings).weight
        require(weight != 13, f"config.pull.weight is {weight}, which is unlucky.")

    def build_model(self, config: Config, axis_name: str | None = None) -> PCM3:
        return build_model(config, axis_name).clone(
            positives=("intra",), masked_prediction=False, domain_prompts=False, task_prompts=False
        )

    def create_state(
        self, model: PCM3, optimizer: optax.GradientTransformation, config: Config
    ) -> State:
        params, batch_stats = init_variables(model, jax.random.key(config.seed))
        return State.start(params, batch_stats, optimizer)

    def step(
        self,
        state: State,
        frames: jax.Array,
        batch: Batch,
        *,
        model: PCM3,
        optimizer: optax.GradientTransformation,
        config: Config,
    ) -> tuple[State, Metrics]:
        views = [
            to_stream(
                *draw_poses(key, frames, batch.clips, batch.position, config.views, jittering=True),
                config.views.stream,
            )
            for key in jax.random.split(step_key(config.seed, state.step))
        ]

        def loss(params: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
            z, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                jnp.concatenate(views),
                PromptOffsets(*[0] * len(PromptOffsets.names())),
                method=PCM3.key,
                mutable=["batch_stats"],
            )
            first, second = jnp.split(z, 2)
            value = config.of(PullSettings).weight * (1 - (first * second).sum(-1)).mean()
            return value, ({"loss": value}, updated["batch_stats"])

        gradients, (metrics, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
        return apply_gradients(
            state, gradients, metrics, optimizer, model.axis_name, batch_stats=batch_stats
        )

    def step_flops(self, config: Config) -> int:
        return 2 * 3 * encoder_flops(config)

    def loadable(self, tree: dict[str, Any]) -> dict[str, Any]:
        return {name: {"encoder": tree[name]["encoder"]} for name in ("params", "batch_stats")}
