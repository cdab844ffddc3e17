"""The tasks that ``config.task`` can name; to add one, add a file to `tasks` and a line here."""

from __future__ import annotations

from pcm3_jax.tables.runner import TableTask
from pcm3_jax.tasks.coordinates import Coordinates
from pcm3_jax.tasks.detection import Detection
from pcm3_jax.tasks.finetune import Finetune
from pcm3_jax.tasks.fusion import Fusion
from pcm3_jax.tasks.knn import Retrieval
from pcm3_jax.tasks.linear_probe import LinearProbe
from pcm3_jax.tasks.motion_prediction import MotionPrediction
from pcm3_jax.tasks.pretrain import Pretrain
from pcm3_jax.tasks.task import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Pretrain(),
        Retrieval(),
        LinearProbe(),
        Fusion(),
        Finetune(),
        Detection(),
        MotionPrediction(),
        Coordinates(),
    )
}
# The table task runs the other tasks.
TASKS["table"] = TableTask(TASKS)
