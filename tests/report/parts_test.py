"""The parts of a report that need no encoder: curves, results, settings, sequences, the map."""

import base64
import json

import numpy as np
import pytest

from pcm3_jax.config import default_config
from pcm3_jax.report import comparison, curves, encoders, results
from pcm3_jax.report.runs import Run
from pcm3_jax.report.sequences import Pool, up_axis


def make_run(tmp_path, name="a", metrics=None, outcome=None, **changes):
    config = default_config()
    config.update_from_flattened_dict(changes)
    path = tmp_path / name
    path.mkdir()
    (path / "config.json").write_text(config.to_json())
    if outcome is not None:
        (path / "results.json").write_text(json.dumps(outcome))
    return Run(path, name, config, metrics or {}, outcome or {}, [], [])


def test_curves_have_units_and_leave_out_what_is_not_finite(tmp_path):
    lines = [
        {"step": 1, "loss": 2.0, "samples_per_second": 9.0, "seconds_left": 1.0},
        {"step": 2, "loss": float("nan"), "knn_accuracy": 0.5, "epoch": 1},
        {"step": 3, "loss": 1.0, "odd": 4.0, "samples_per_second": 8.0},
        {"step": 4, "odd": 5.0},
    ]
    charts = curves.charts([make_run(tmp_path, metrics={"": lines})], {})
    learning = {chart["name"]: chart for chart in charts["learning"]}
    assert list(learning) == ["loss", "knn_accuracy", "odd"]
    assert learning["loss"]["series"] == [{"run": 0, "label": "a", "points": [[1, 2.0], [3, 1.0]]}]
    assert learning["knn_accuracy"]["unit"] == "%"
    assert learning["knn_accuracy"]["series"][0]["points"] == [[2, 50.0]]
    assert [chart["unit"] for chart in charts["machine"]] == ["samples/s"]


def test_long_curves_are_thinned_but_end_where_the_run_ended(tmp_path):
    lines = [{"step": i, "loss": 1.0 * i} for i in range(1, 5001)]
    (chart,) = curves.charts([make_run(tmp_path, metrics={"": [], "draw_0": lines})], {})[
        "learning"
    ]
    (one,) = chart["series"]
    assert one["label"] == "a · draw_0"
    assert len(one["points"]) <= curves.MOST_POINTS and one["points"][-1] == [5000, 5000.0]


def benchmark_of(batch_size, frames, seconds, devices=1, device="TPU v5e"):
    return {
        "device": device, "dtype": "float32", "hidden": 8, "devices": devices,
        "batch_size": batch_size, "frames": frames, "step_seconds": seconds,
    }  # fmt: skip


def test_step_time_by_batch_and_by_frames():
    benchmarks = {
        "a": benchmark_of(4, 16, 2.0),
        "b": benchmark_of(4, 8, 1.0),
        "c": benchmark_of(16, 16, 3.5, devices=2),
        # Virtual devices share one CPU.
        "d": benchmark_of(4, 16, 2.0, device="cpu"),
        "e": benchmark_of(16, 16, 8.0, devices=4, device="cpu"),
        "f": benchmark_of(16, 16, 3.5, devices=2, device="cpu"),
        "peers": {"ours": {"step_seconds": 1.0}},
    }
    (chart,) = curves.charts([], benchmarks)["machine"]
    assert (chart["unit"], chart["across"]) == ("s", "frames in a step")
    # Sixteen sequences on two devices are eight per device.
    assert {one["label"]: one["points"] for one in chart["series"]} == {
        "16 frames a sequence: hidden 8, float32, TPU v5e": [[64, 2.0], [128, 3.5]],
        "batches of 4: hidden 8, float32, TPU v5e": [[32, 1.0], [64, 2.0]],
    }
    del benchmarks["a"]
    assert curves.charts([], benchmarks)["machine"] == []


def test_results_in_their_units(tmp_path):
    runs = [
        make_run(tmp_path, "p", outcome={"task": "pretrain", "steps": 9, "knn_accuracy": 0.5}),
        make_run(tmp_path, "r0", outcome={"knn_accuracy": 0.6}, task="retrieval", encoder="p"),
        make_run(tmp_path, "r1", outcome={"knn_accuracy": 0.8}, task="retrieval", encoder="q"),
        make_run(tmp_path, "m", outcome={"mpjpe": 71.25, "mpjpe@1": 3.0}, task="motion_prediction"),
        make_run(tmp_path, "u", task="linear_eval"),
    ]
    compared, pretrained, retrieved, predicted = results.tables(runs, {})
    assert compared["columns"][3:] == ["1-NN (%)", "MPJPE (mm)", "runs"]
    assert [row[1:] for row in compared["rows"]] == [
        ["random encoder", "joint", "–", "71.2", "1"],
        ["pretrained encoder", "joint", "70.0 ± 14.1", "–", "2"],
    ]
    assert pretrained["columns"] == ["run", "data set", "steps", "1-NN (%)"]
    assert pretrained["rows"] == [["p", "synthetic_skeletons", "9", "50.0"]]
    assert [row[-1] for row in retrieved["rows"]] == ["60.0", "80.0"]
    assert (predicted["columns"][-1], predicted["rows"][0][-1]) == ("MPJPE (mm)", "71.2")


def test_a_paper_table_and_a_benchmark_are_shown(tmp_path):
    row = {"method": "ours", "marks": ["ours"], "source": "here", "cells": {"xsub": {"mean": 1.5}}}
    document = {"table": 3, "title": "Retrieval", "marks": ["method"], "columns": ["xsub"],
                "notes": ["small"], "rows": [row]}  # fmt: skip
    run = make_run(tmp_path, "t", outcome=document, task="table")
    table, benchmark = results.tables([run], {"b": {"devices": 1, "step_seconds": 0.123456}})
    assert table["title"] == "Table 3: Retrieval (t)" and table["notes"] == ["small"]
    assert table["rows"] == [["ours", "here", "", "1.5"]]
    assert benchmark["rows"] == [["b", "1", "0.1235"]]


def test_a_comparison_with_pytorch_has_a_row_for_each_program():
    compared = {"torch": "2", "ours": {"step_seconds": 1.0}, "tuned": {"step_seconds": 2.0}}
    alone = {"devices": 1, "step_seconds": 3.0}
    (table,) = results.tables([], {"c": compared, "b": alone})
    assert table["columns"] == ["", "torch", "step_seconds", "devices"]
    assert table["rows"] == [
        ["c: ours", "2", "1", "–"],
        ["c: tuned", "2", "2", "–"],
        ["b", "–", "3", "1"],
    ]


def test_settings_that_differ_are_marked(tmp_path):
    runs = [make_run(tmp_path), make_run(tmp_path, "b", **{"optimizer.epochs": 3})]
    rows = {row["key"]: row for row in comparison.settings(runs)["rows"]}
    epochs = rows["optimizer.epochs"]
    assert (epochs["default"], epochs["values"], epochs["differs"]) == ("451", ["451", "3"], True)
    assert rows["optimizer.decay_epochs"]["values"][0] == "(351,)"
    assert [key for key, row in rows.items() if row["differs"] or row["changed"]] == [
        "optimizer.epochs"
    ]


def test_sequences_keep_a_tenth_of_a_millimetre_and_no_absent_person():
    poses = np.random.default_rng(0).normal(size=(7, 2, 25, 3)).astype(np.float32)
    pool = Pool()
    assert pool.add(poses, up_axis("x/y_recorded"), 2.0) == 0
    poses[:, 1] = 0
    assert pool.add(poses, up_axis("x"), 2.0) == 1
    both, one = pool.sequences
    assert (both["persons"], one["persons"]) == (2, 1) and (both["up"], one["up"]) == (1, 2)
    raw = np.frombuffer(base64.b64decode(one["data"]), "<i2")
    np.testing.assert_allclose(raw.reshape(7, 1, 25, 3) * one["scale"], poses[:, :1], atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5, 60])
def test_the_map_keeps_groups_apart(count):
    rng = np.random.default_rng(0)
    groups = np.arange(count) % 2
    features = rng.normal(size=(count, 20)) + 40 * (groups[:, None] == np.arange(20) // 10)
    places, method = encoders.plane(features.astype(np.float32))
    assert places.shape == (count, 2) and places.min() >= 0 and places.max() <= 1
    assert method == ("t-SNE" if count >= 10 else "PCA")
    if count > 2:
        distance = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(count)
        np.testing.assert_array_equal(groups[distance.argmin(1)], groups)
