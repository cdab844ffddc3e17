"""The tasks that a configuration can name: (configuration, workdir) → results."""

from __future__ import annotations

from pcm3_jax import pretraining
from pcm3_jax.downstream import frozen, trained
from pcm3_jax.tables import runner

TASKS = {
    "pretrain": pretraining.pretrain,
    "cmd": pretraining.pretrain,
    "retrieval": frozen.retrieval,
    "linear_eval": frozen.linear_eval,
    "fusion": frozen.fusion,
    "finetune": trained.finetune,
    "detection": trained.detection,
    "motion_prediction": trained.motion_prediction,
    "baseline": frozen.baseline,
    "table": runner.table,
}
