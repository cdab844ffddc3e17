import json
from pathlib import Path

import pytest

from pcm3_jax import summary
from pcm3_jax.config import default_config
from pcm3_jax.errors import UserError
from pcm3_jax.report.summary import table
from pcm3_jax.runtime.files import write_json


def finished_run(folder, results, **settings):
    config = default_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in settings.items()})
    folder.mkdir()
    write_json(folder / "config.json", json.loads(config.to_json()))
    write_json(folder / "results.json", results)
    return folder


def test_one_row_an_encoder_and_stream_with_mean_and_deviation_over_seeds(tmp_path):
    runs = [
        finished_run(
            tmp_path / "b", {"knn_accuracy": 0.5, "ridge_accuracy": 0.25}, task="baseline"
        ),
        finished_run(tmp_path / "r", {"knn_accuracy": 0.125}, task="retrieval"),
        finished_run(tmp_path / "p0", {"knn_accuracy": 0.8}, task="retrieval", encoder="x"),
        finished_run(tmp_path / "p1", {"knn_accuracy": 0.9}, task="retrieval", encoder="y"),
        finished_run(tmp_path / "l", {"top1": 0.75, "top5": 1.0}, task="linear_eval", encoder="x"),
        finished_run(tmp_path / "t", {"knn_accuracy": 0.0}, task="pretrain"),
        finished_run(tmp_path / "s", {"top1": 0.0}, task="finetune", encoder="x"),
        finished_run(
            tmp_path / "b0", {"top1": 0.5}, task="linear_eval", encoder="z", views__stream="bone"
        ),
        finished_run(tmp_path / "f", {"top1": 0.875}, task="fusion"),
        tmp_path / "not_started",
    ]
    heading, _, *rows = table(runs).splitlines()
    assert heading == (
        "| data set | encoder | stream | 1-NN (%) | linear (%) | finetuned (%) | ridge (%) | runs |"
    )
    assert rows == [
        "| synthetic_skeletons | raw coordinates | joint | 50.0 | – | – | 25.0 | 1 |",
        "| synthetic_skeletons | random encoder | joint | 12.5 | – | – | – | 1 |",
        "| synthetic_skeletons | pretrained encoder | joint | 85.0 ± 7.1 | 75.0 | 0.0 | – | 2 |",
        "| synthetic_skeletons | pretrained encoder | bone | – | 50.0 | – | – | 1 |",
        "| synthetic_skeletons | fused encoders | several | – | 87.5 | – | – | 1 |",
    ]


def test_other_settings_are_another_row_and_named(tmp_path):
    runs = [
        finished_run(
            tmp_path / f"{kind}{seed}",
            {"top1": top1 + seed / 10},
            task="linear_eval",
            encoder=f"x{seed}",
            occlusion__kind=kind,
            seed=seed,
            data__dir=f"data{seed}",
        )
        for kind, top1 in (("none", 0.5), ("spatial", 0.25))
        for seed in (0, 1)
    ]
    rows = table(runs).splitlines()[2:]
    start = "| synthetic_skeletons | pretrained encoder | joint "
    assert rows == [
        start + '(occlusion.kind="none") | 55.0 ± 7.1 | 2 |',
        start + '(occlusion.kind="spatial") | 30.0 ± 7.1 | 2 |',
    ]


def test_encoders_of_other_training_are_other_rows(tmp_path):
    runs = []
    for method in ("pcm3", "cmd"):
        for seed in (0, 1):
            encoder = finished_run(tmp_path / f"{method}{seed}", {}, method__name=method, seed=seed)
            runs.append(
                finished_run(
                    tmp_path / f"on_{method}{seed}",
                    {"top1": 0.5 + seed / 10},
                    task="linear_eval",
                    encoder=str(encoder),
                    seed=seed,
                )
            )
    runs += [
        finished_run(
            tmp_path / f"fused{number}",
            {"top1": 0.75},
            task="fusion",
            fusion__runs=(str(runs[number]),),
            fusion__weights=(1.0,),
        )
        for number in (0, 1, 2)
    ]
    rows = table(runs).splitlines()[2:]
    start = "| synthetic_skeletons | pretrained encoder | joint "
    fused = "| synthetic_skeletons | fused encoders | several "
    assert rows == [
        start + '(encoder.method.name="pcm3") | 55.0 ± 7.1 | 2 |',
        start + '(encoder.method.name="cmd") | 55.0 ± 7.1 | 2 |',
        fused + '(run 1.encoder.method.name="pcm3") | 75.0 ± 0.0 | 2 |',
        fused + '(run 1.encoder.method.name="cmd") | 75.0 | 1 |',
    ]


def test_encoders_that_are_files_or_checkpoints_are_told_apart(tmp_path):
    encoder = finished_run(tmp_path / "p", {}, task="pretrain")
    named = [
        str(encoder), f"{encoder}/checkpoints/1", f"{encoder}/checkpoints/2", "a.safetensors",
        "b.safetensors", "b.safetensors",
    ]  # fmt: skip
    runs = [
        finished_run(tmp_path / str(i), {"top1": i / 10}, task="linear_eval", encoder=name)
        for i, name in enumerate(named)
    ]
    rows = table(runs).splitlines()[2:]
    assert sorted(row.split(" | ")[-2:] for row in rows) == [
        ["0.0", "1 |"], ["10.0", "1 |"], ["20.0", "1 |"], ["30.0", "1 |"], ["45.0 ± 7.1", "2 |"],
    ]  # fmt: skip


def test_shipped_models_and_what_a_run_started_from_are_told_apart(tmp_path):
    """Rows name the model of an evaluation, and the one that its encoder's pretraining used."""
    started = [
        finished_run(tmp_path / f"p{i}", {}, task="pretrain", encoder=name)
        for i, name in enumerate(("", "base"))
    ]
    named = [*map(str, started), "base", "base-motion"]
    runs = [
        finished_run(tmp_path / str(i), {"top1": i / 10}, task="linear_eval", encoder=name)
        for i, name in enumerate(named)
    ]
    rows = table(runs).splitlines()[2:]
    assert len(rows) == 4
    for row, name in zip(rows, ("", "encoder", "", ""), strict=True):
        assert ('encoder.encoder="base"' in row) == bool(name)
    assert '(encoder="base")' in rows[2] and '(encoder="base-motion")' in rows[3]


def test_from_inside_a_workdir(tmp_path, monkeypatch):
    """The workdir's config.json is not taken for that of an encoder with an empty name."""
    monkeypatch.chdir(finished_run(tmp_path / "run", {"top1": 0.5}, task="linear_eval"))
    assert table([Path()]).count("random encoder") == 1


def test_comparisons_with_pytorch_are_not_listed(tmp_path):
    cell = {"devices": 1, "batch_size": 4, "device": "cpu", "dtype": "float32"}
    ours = {"samples_per_second_per_device": 2.0, "step_seconds": 2.0, "peak_memory_gb": 1.0}
    for name, figures in (("a", cell | ours), ("b", {"device": "cpu", "ours": ours})):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "benchmark.json", figures)
    rows = table([tmp_path / "a", tmp_path / "b"]).splitlines()[2:]
    assert rows == ["| cpu | float32 | 1 | 4 | 2 | 2 | 1 |"]
    with pytest.raises(UserError, match="no finished evaluation"):
        table([tmp_path / "b"])


def test_without_a_finished_evaluation_it_says_so(tmp_path):
    with pytest.raises(UserError, match="no finished evaluation"):
        summary.run([str(tmp_path)])
    with pytest.raises(UserError, match="There is no nowhere"):
        summary.run(["nowhere"])
    with pytest.raises(UserError, match="required: WORKDIR"):
        summary.run([])
