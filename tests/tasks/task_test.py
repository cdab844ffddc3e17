"""What every task has: its metrics, and its refusals."""

import json

import pytest

from pcm3_jax.errors import UserError
from pcm3_jax.registry import TASKS
from pcm3_jax.tasks.task import Metric, run_task


def test_a_metric_at_a_threshold_is_that_metric():
    metric = TASKS["detection"].metric("map_action@0.5")
    assert metric == Metric("map_action@0.5", "mAP_a@0.5", "%", compared=True)
    assert metric.heading == "mAP_a@0.5 (%)"


def test_an_unknown_metric_is_named_by_its_key():
    assert TASKS["detection"].metric("speed") == Metric("speed", "speed")


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("%", 0.1234, "12.3"),
        ("mm", 56.78, "56.8"),
        ("", 1234.56, "1235"),
        ("", 32, "32"),
        ("%", None, "–"),
        ("", "a", "a"),
    ],
)
def test_values_are_written_in_their_unit(unit, value, text):
    assert Metric("key", "name", unit).text(value) == text


@pytest.mark.parametrize("task", ["fusion", "baseline", "table"])
def test_an_encoder_is_refused_where_none_is_evaluated(run_config, task):
    run_config.encoder = "somewhere"
    with pytest.raises(UserError, match=f"'somewhere', but task '{task}' does not use an encoder"):
        TASKS[task].validate(run_config)


@pytest.mark.parametrize("task", ["pretrain", "fusion", "detection", "motion_prediction", "table"])
def test_occlusion_is_refused_where_nothing_is_occluded(run_config, task):
    run_config.occlusion.kind = "spatial"
    with pytest.raises(UserError, match=f"'spatial', but task '{task}' does not support occlusion"):
        TASKS[task].validate(run_config)


def test_a_random_encoder_is_named(run_config, tmp_path, capsys):
    run_config.task = "retrieval"
    results = run_task(TASKS["retrieval"], run_config, tmp_path)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == {"encoder": "random encoder"} | results
