"""What the tasks that train an encoder on labels share."""

import jax
import numpy as np
import pytest

from pcm3_jax.data.batch import Clips
from pcm3_jax.errors import UserError
from pcm3_jax.registry import TASKS
from pcm3_jax.tasks.supervised import take


def test_take(videos):
    frames = videos.frames
    clips = Clips(np.array([3, 70]), np.array([8, 8]))
    taken = take(frames, clips, count=3, stride=2)
    assert taken.shape == (2, 3, 1, 25, 3)
    np.testing.assert_array_equal(taken[..., 0, 24, 2], [[3, 5, 7], [70, 72, 74]])


@pytest.mark.parametrize("task", ["finetune", "detection", "motion_prediction"])
def test_batches_that_do_not_divide_are_refused(run_config, tmp_path, monkeypatch, task):
    """Otherwise the rows of the output would not match the samples."""
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    getattr(run_config, task).batch_size = 16
    with pytest.raises(UserError, match=rf"config\.{task}\.batch_size is 16, .* over 3 devices"):
        TASKS[task].run(run_config, tmp_path)
    with pytest.raises(UserError, match="batch_size is 16, .* over 3 devices"):
        next(TASKS[task].plan(run_config, tmp_path))
    getattr(run_config, task).batch_size = 15
    with pytest.raises(UserError, match=r"config\.eval\.batch_size is 16, .* over 3 devices"):
        TASKS[task].run(run_config, tmp_path)
