"""What a dry run prints, refuses, and leaves unchanged."""

import re

import pytest

from pcm3_jax import main
from pcm3_jax.errors import UserError
from pcm3_jax.registry import TASKS
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tables import runner
from pcm3_jax.tasks import pretrain
from pcm3_jax.tasks.common import Embedder, duration, read_splits
from pcm3_jax.train import cost
from tfds_builders import build


def test_a_pretraining_run_is_described_and_not_started(program, tmp_path):
    code, out, err = program.run(tmp_path / "run", "--dry_run")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["task"] == "pretrain"
    assert lines["data"].startswith("64 sequences in synthetic_skeletons/n64x32 (train) and 32")
    assert lines["schedule"] == (
        "6 epochs of 4 steps; learning rate 0.02 from epoch 0, 0.002 from epoch 3"
    )
    assert lines["step"].startswith("16 sequences, ")
    assert "3 evaluations" in lines["time"]
    needed, largest = re.fullmatch(
        r"(\S+) GB per device, without the data; 80 GB hold a batch of about ([\d,]+) sequences",
        lines["memory"],
    ).groups()
    assert 0 < float(needed) < 1 and int(largest.replace(",", "")) > 10_000
    assert list(tmp_path.iterdir()) == []


# Of 64 training and 32 test sequences, of 16 frames for the encoder.
ENCODED = {
    "linear_eval": 100 * 64 + 32,
    "retrieval": 64 + 32,
    # Five draws of 6.4 sequences.
    "finetune": 5 * (3 * 10 * 6.4 + 32),
    "motion_prediction": (3 * 10 * 64 + 32) * 8 / 16,
}


@pytest.mark.parametrize("task", [*ENCODED, "pretrain", "baseline"])
def test_every_task_on_recordings_is_described(monkeypatch, run_config, tmp_path, task):
    monkeypatch.setattr(pretrain, "step_seconds", lambda config, devices: 2.0)
    monkeypatch.setattr(Embedder, "seconds", lambda *_: 3 / 96)
    monkeypatch.setattr(cost, "step_memory", lambda config, rows: 1e9 + 1e6 * rows)
    run_config.task = task
    run_config.method.name = "cmd"
    run_config.cmd.neighbours = 8
    run_config.linear.epochs, run_config.linear.cached_crops = 100, 0
    run_config.finetune.epochs = run_config.motion_prediction.epochs = 10
    run_config.finetune.update(fraction=0.1, draws=5)
    run_config.motion_prediction.observed = 8
    lines = main.dry_run(run_config, tmp_path / "run")
    assert lines["task"] == task
    assert "18 classes" in lines["data"]
    if task == "pretrain":
        assert lines["method"] == "cmd"
        assert lines["network"].count(",") == 1  # An encoder and a projector.
        # 24 steps and three evaluations.
        assert lines["time"] == "57 s, including 3 evaluations of 3 s"
        assert lines["memory"].endswith("80 GB hold a batch of about 79,000 sequences")
    elif task != "baseline":
        assert lines["encoder"].startswith("random, ")
        encoded = ENCODED[task]
        assert lines["time"] == (
            f"about {duration(encoded * 3 / 96)}: as long as encoding {encoded:,.0f} "
            "sequences of 16 frames"
        )
    assert list(tmp_path.iterdir()) == []


def test_detection_encodes_a_window_around_every_frame(monkeypatch, run_config, tmp_path):
    monkeypatch.setattr(Embedder, "seconds", lambda *_: 1.0)
    build.build("synthetic_skeletons/n4x2_untrimmed", tmp_path)
    run_config.data.update(name="synthetic_skeletons/n4x2_untrimmed", dir=str(tmp_path))
    run_config.task = "detection"
    run_config.detection.update(epochs=2, train_every=3, frames=8)
    train, test = read_splits(run_config, Devices("pmap"), untrimmed=True)
    windows = 3 * 2 * train.length.sum() / 3 + test.length.sum()
    lines = main.dry_run(run_config, tmp_path / "run")
    assert lines["time"].endswith(f"as long as encoding {windows / 2:,.0f} sequences of 16 frames")
    monkeypatch.undo()
    # Measured on whole videos, too.
    assert main.dry_run(run_config, tmp_path / "run")["time"].startswith("about ")


@pytest.fixture
def table_config(monkeypatch, run_config, tmp_path):
    monkeypatch.setattr(runner, "step_seconds", lambda config, devices: 2.0)
    run_config.task = "table"
    run_config.tables.update(
        number=3,
        data=("synthetic_skeletons/n64x32",),
        runs=str(tmp_path / "runs"),
        cells="random|PCM",
    )
    run_config.cmd.neighbours = 8
    return run_config


def test_a_table_lists_its_runs_and_their_time(table_config, tmp_path):
    lines = main.dry_run(table_config, tmp_path / "table")
    assert lines["runs"] == "3, of which 0 have finished"
    names = [lines[f"  {number}"] for number in (1, 2, 3)]
    assert [name.partition("_")[0] for name in names] == ["retrieval", "pretrain-pcm3", "retrieval"]
    # Six epochs of 64 sequences in steps of 16 that take two seconds.
    assert lines["time"].startswith("48 s for pretraining (1 of these runs): ")
    folder = tmp_path / "runs" / names[0]
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("{}")
    lines = main.dry_run(table_config, tmp_path / "table")
    assert lines["runs"] == "3, of which 1 have finished"
    assert lines["  1"] == names[1]


def test_a_table_lists_the_data_that_it_lacks(table_config, tmp_path, capsys):
    table_config.tables.data = ("synthetic_skeletons/n64x32", "intellirehabds")
    lines = main.dry_run(table_config, tmp_path / "table")
    assert lines["runs"] == "6, of which 0 have finished"
    assert lines["missing"].startswith("There is no data set 'intellirehabds' in ")
    assert lines["time"].startswith("48 s for pretraining (1 of")
    table_config.tables.data = ("intellirehabds",)
    capsys.readouterr()
    with pytest.raises(UserError, match="No run of table 3 has its data"):
        main.dry_run(table_config, tmp_path / "table")
    assert "There is no data set 'intellirehabds'" in capsys.readouterr().out


def test_a_finished_run_needs_its_data_no_more(table_config, tmp_path):
    table_config.tables.data = ("intellirehabds>synthetic_skeletons/n64x32", "intellirehabds")
    table_config.tables.cells = "PCM"
    names = [
        run.folder.name for run in TASKS["table"].planned_runs(table_config, tmp_path / "table")
    ]
    pretrained = tmp_path / "runs" / next(name for name in names if name.startswith("pretrain"))
    pretrained.mkdir(parents=True)
    (pretrained / "results.json").write_text("{}")
    assert "missing" in main.dry_run(table_config, tmp_path / "table")


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"data.name": "nothing"}, "no data set 'nothing'"),
        ({"optimizer.batch_size": 80}, "only 64 sequences"),
        ({"task": "retrieval", "encoder": "nowhere"}, "There is no nowhere: name a workdir"),
        ({"task": "fusion"}, "names 0 workdirs"),
        (
            {"task": "fusion", "fusion.runs": ("nowhere",), "fusion.weights": (1.0,)},
            "no finished linear evaluation in nowhere",
        ),
    ],
)
def test_what_would_end_the_run_ends_the_dry_run(run_config, tmp_path, changes, expected):
    run_config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=expected):
        main.dry_run(run_config, tmp_path / "run")


def test_a_workdir_of_another_run_is_refused(finished_run, run_config):
    run_config.seed = 1
    with pytest.raises(UserError, match="belongs to a run with other settings"):
        main.dry_run(run_config, finished_run[0])


def test_the_largest_batch_is_extrapolated(monkeypatch, small_config):
    monkeypatch.setattr(cost, "step_memory", lambda config, rows: 100 + 10 * rows)
    assert cost.largest_batch(small_config, 16, budget=400.0) == (260, 30)
    assert cost.largest_batch(small_config, 16, budget=1.0) == (260, 0)
