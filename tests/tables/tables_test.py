"""The tables of the paper: which runs they need, resumption, statistics and layout.

Most tests replace the tasks by fakes that take no time; the runner, the workdirs and the files
are real.
"""

import csv
import json
import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest

from pcm3_jax import main, registry
from pcm3_jax.config import default_config, leaf, validate
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import write_json
from pcm3_jax.tables import paper, runner
from pcm3_jax.tables.scale import SMALL, scaled
from pcm3_jax.train.checkpoint import locked
from tfds_builders import build as tfds_build

CONFIGS = Path(__file__).parents[2] / "configs" / "tables"
# A cell of each table that runs for real, at tiny size.  They share two pretraining runs.
REAL_CELLS = [
    (1, "^PCM³/"),
    (2, "^PCM³/10%"),
    (3, "^PCM³/"),
    (4, "^PCM³/spatial.*Δ"),
    (5, "^PCM³/mAP_a"),
    (6, "^PCM³/"),
    (7, "^PCM³/retrieval"),
    (8, "^intra[+]mask[+]predict[+]inter[+]KL/"),
    (9, "^no prompts/synthetic"),
    (10, "^60 %/topology"),
]
TINY = {
    "views.frames": 16,
    "views.min_crop_frames": 16,
    "views.mix_blocks": (2, 3),
    "model.hidden": 8,
    "model.layers": 1,
    "model.projection": 8,
    "model.decoder_hidden": 8,
    "model.decoder_layers": 1,
    "model.prompt_width": 2,
    "method.queue_size": 64,
    "cmd.neighbours": 32,
    "optimizer.epochs": 1,
    "linear.epochs": 3,
    "linear.batch_size": 16,
    "linear.cached_crops": 1,
    "finetune.epochs": 1,
    "finetune.batch_size": 4,
    "finetune.draws": 1,
    "detection.frames": 4,
    "detection.epochs": 1,
    "motion_prediction.observed": 8,
    "motion_prediction.future": 2,
    "motion_prediction.hidden": 8,
    "motion_prediction.epochs": 1,
}


def recipe(number: int, **settings):
    config = runpy.run_path(str(CONFIGS / f"table{number}.py"))["get_config"]()
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in settings.items()}
    )
    return config


class Fakes:
    """Tasks that only note that they ran, and return what depends on method and seed."""

    def __init__(self, monkeypatch):
        self.ran = []
        for task in ("pretrain", "cmd", "linear_eval", "fusion", "finetune", "retrieval",
                     "detection", "motion_prediction"):  # fmt: skip
            monkeypatch.setitem(registry.TASKS, task, self._run)

    def _run(self, config, workdir):
        self.ran.append(config)
        # What a task is given must be as good as what a command line gives it.
        validate(config)
        encoders = [config.encoder] if config.encoder else config.fusion.runs
        assert all((Path(encoder) / "results.json").exists() for encoder in encoders)
        occluded = config.occlusion.kind != "none"
        value = 0.5 + 0.25 * bool(config.encoder) + 0.125 * config.seed - 0.25 * occluded
        return {
            "top1": value, "top5": 1.0, "knn_accuracy": value, "map_action@0.5": value,
            "map_video@0.5": value, "mpjpe": 100 * value, "zero_velocity": 90.0,
        }  # fmt: skip

    def count(self, *names):
        return sum(config.task in names for config in self.ran)


@pytest.fixture
def fakes(monkeypatch):
    return Fakes(monkeypatch)


def build(folder, *names):
    """Makes data sets look built."""
    for name in names:
        path = folder / name / "1.0.0" / "dataset_info.json"
        path.parent.mkdir(parents=True)
        path.touch()
    return str(folder)


@pytest.fixture
def data(tmp_path):
    """Every data set of the tables, at both scales."""
    names = {name.rpartition(">")[2] for name in paper.LABELS}
    return build(tmp_path / "data", *sorted(names))


# How many runs each table needs at paper scale, and how many of them pretrain: by hand from the
# paper's tables.  Table 1, for each of five benchmarks: MoCo-GRU, CMD and three streams of PCM³
# are pretrained; six evaluations of single streams, four more for the fusions, and two fusions.
# A transfer to PKU-MMD I or motion prediction (xsub) needs pretraining of its own where the other
# columns are xview: Tables 7 and 9.
RUNS = {
    1: (75, 25), 2: (22, 6), 3: (28, 12), 4: (30, 6), 5: (5, 2), 6: (5, 2), 7: (28, 8),
    8: (12, 6), 9: (20, 10), 10: (16, 8),
}  # fmt: skip


@pytest.mark.parametrize("number", RUNS)
def test_the_runs_of_a_table(number, fakes, data, tmp_path):
    results = main.run(recipe(number, data__dir=data), tmp_path / "table")
    assert (len(fakes.ran), fakes.count("pretrain", "cmd")) == RUNS[number]
    names = [path.name for path in (tmp_path / "table" / "runs").iterdir()]
    assert len(names) == len(fakes.ran)
    # On the paper's data every published figure is in a column that is measured.
    measured = {h for row in results["rows"] if row["source"] == "here" for h in row["cells"]}
    assert measured == set(results["columns"])
    assert results["notes"][1:] == []


def test_tables_share_their_runs(fakes, data, tmp_path):
    for number in RUNS:
        config = recipe(number, data__dir=data, table_runs=str(tmp_path / "runs"), scale="small")
        main.run(config, tmp_path / f"table{number}")
    # PCM³ in three streams, CMD, MoCo-GRU; Table 7's three others; all of Table 8 but its second
    # row, which is Table 7's multi-task; Table 9's prompts but for its best; Table 10's but for
    # PCM³ itself.
    assert fakes.count("pretrain", "cmd") == 3 + 1 + 1 + 3 + 5 + 3 + 7
    assert len({str(config) for config in fakes.ran}) == len(fakes.ran)


def test_settings_of_evaluations_do_not_make_another_pretraining(fakes, data, tmp_path):
    for epochs in (3, 4):
        config = recipe(
            3, data__dir=data, linear__epochs=epochs, detection__epochs=epochs, cmd__weight=epochs
            * 1.0, table_cells="^(PCM³|MoCo)", table_runs=str(tmp_path / "runs"),
        )  # fmt: skip
        main.run(config, tmp_path / f"table_{epochs}")
    assert fakes.count("pretrain") == 2 * 4
    assert fakes.count("retrieval") == 2 * 8


def test_what_is_finished_is_not_run_again(fakes, data, tmp_path):
    config = recipe(3, data__dir=data, scale="small")
    first = main.run(config, tmp_path / "table")
    ran = len(fakes.ran)
    lost = next((tmp_path / "table" / "runs").glob("retrieval*"))
    (lost / "results.json").unlink()
    # An interrupted run has claimed its folder and left something there.
    (lost / "metrics.jsonl").touch()
    assert main.run(config, tmp_path / "table") == first
    assert len(fakes.ran) == ran + 1
    # Where the data lie is not what a run is about.
    config.data.dir = build(tmp_path / "moved")
    assert main.run(config, tmp_path / "table") == first


def test_an_interruption_leaves_what_is_finished(fakes, data, tmp_path, monkeypatch):
    def stop(config, workdir):
        raise KeyboardInterrupt

    monkeypatch.setitem(registry.TASKS, "cmd", stop)
    config = recipe(3, data__dir=data, scale="small")
    with pytest.raises(KeyboardInterrupt):
        main.run(config, tmp_path / "table")
    rows = json.loads((tmp_path / "table" / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows if row["source"] == "here" and row["cells"]] == [
        "random encoder", "MoCo-GRU",
    ]  # fmt: skip


def test_mean_deviation_and_number_over_seeds(fakes, data, tmp_path):
    config = recipe(3, data__dir=data, scale="small", table_seeds=(0, 1))
    main.run(config, tmp_path / "table")
    # More seeds can be added later.
    config.table_seeds = (0, 1, 2)
    results = main.run(config, tmp_path / "table")
    cell = next(row for row in results["rows"] if row["method"] == "PCM³")["cells"]["synthetic (%)"]
    assert cell["values"] == [75.0, 87.5, 100.0]
    assert (cell["runs"], cell["mean"], cell["std"]) == (3, 87.5, 12.5)
    assert len({folder for folders in cell["folders"] for folder in folders}) == 3
    assert "| PCM³ | here | 3 | 87.5 ± 12.5 | – |" in (tmp_path / "table/results.md").read_text()
    seeds = [config.seed for config in fakes.ran if config.task == "pretrain"]
    assert sorted(seeds) == [0, 0, 1, 1, 2, 2]


def test_three_streams_are_pretrained_as_the_program_does_and_fused(fakes, data, tmp_path):
    config = recipe(1, data__dir=data, scale="small", table_cells="^3s-PCM³")
    main.run(config, tmp_path / "table")
    pretrained = {c.views.stream: c.method for c in fakes.ran if c.task == "pretrain"}
    assert set(pretrained) == {"joint", "bone", "motion"}
    assert pretrained["joint"].task_prompts and pretrained["joint"].kl_weight == 1.0
    for stream in ("bone", "motion"):
        method = pretrained[stream]
        assert not (method.task_prompts or method.domain_prompts or method.contrast_guides_decoder)
        assert method.kl_weight == 0.0
    (fusion,) = [config for config in fakes.ran if config.task == "fusion"]
    assert [Path(run).name.split("_")[-3] for run in fusion.fusion.runs] == list(pretrained)


def test_one_cmd_run_serves_all_streams(fakes, data, tmp_path):
    main.run(recipe(1, data__dir=data, scale="small", table_cells="CMD"), tmp_path / "table")
    assert fakes.count("cmd") == 1
    streams = [config.views.stream for config in fakes.ran if config.task == "linear_eval"]
    assert sorted(streams) == ["bone", "joint", "motion"]
    assert len({config.encoder for config in fakes.ran if config.task == "linear_eval"}) == 1


def test_detection_is_a_transfer(fakes, data, tmp_path):
    main.run(recipe(5, data__dir=data, table_cells="^PCM³"), tmp_path / "table")
    pretrained, evaluated = fakes.ran
    assert pretrained.data.name == "ntu_rgbd/ntu60_xsub"
    assert evaluated.data.name == "pku_mmd/part1_xsub_untrimmed"
    assert evaluated.encoder.endswith(runner._fingerprint(pretrained, ()))


def test_the_ablations_set_what_they_are_named_after(fakes, data, tmp_path):
    methods = {}
    for number in (7, 8, 9, 10):
        base = scaled(recipe(number, data__dir=data, scale="small"))
        base.scale = "paper"
        plan = runner.Plan(base, tmp_path)
        table = paper.TABLES[number]
        for row in table.rows:
            for column in table.columns(paper.benchmarks(table, (), "small")):
                (pretrained,) = plan.evaluation(row, column, column.terms[0], 0).needs
                methods[number, row.name] = pretrained.config.method
                methods[number, column.heading] = pretrained.config.views
    assert methods[7, "masked prediction"].positives == ()
    assert not methods[7, "contrast"].masked_prediction
    assert methods[7, "multi-task"] == methods[8, "intra+inter"]
    assert methods[8, "intra+mask+inter+KL"].positives == ("intra", "mask", "inter")
    assert methods[8, "intra+mask+inter+KL"].kl_weight == 1.0
    assert methods[9, "no prompts"] == methods[8, "intra+mask+predict+inter+KL"]
    assert methods[9, "both prompts"].prompt_placement == "before_norm"
    assert methods[9, "both prompts after norm"] == methods[7, "PCM³"]
    assert not methods[9, "domain prompts"].task_prompts
    assert methods[10, "random, synthetic (%)"].mask_strategy == "random"
    assert methods[10, "random, synthetic (%)"].mask_ratio == 0.8


def test_occlusion_costs_the_mean_over_the_data_sets(fakes, data, tmp_path):
    results = main.run(recipe(4, data__dir=data, table_cells="^random.*Δ"), tmp_path / "table")
    (row,) = [row for row in results["rows"] if row["method"] == "random encoder"]
    # The fakes lose 25 points on either data set.
    assert row["cells"]["spatial occlusion, Δ"]["mean"] == pytest.approx(25)
    # The Δ took the occluded evaluations with it.
    assert row["cells"]["spatial occlusion, NTU 60 xview (%)"]["mean"] == 25.0


def test_the_published_loss_by_occlusion_is_not_that_of_other_data():
    headings = [
        [column.heading for column in paper.TABLES[4].columns(paper.Benchmarks(actions=actions))]
        for actions in (paper.NTU60, paper.NTU60[:1])
    ]
    assert headings[0][2] == "spatial occlusion, Δ"
    assert headings[1][1] == "spatial occlusion, Δ, NTU 60 xsub"


MARKDOWN = """\
# Table 6: Motion prediction

| method | source | runs | MPJPE, synthetic (mm) | MPJPE, NTU 60 xsub (mm) |
| --- | --- | ---: | ---: | ---: |
| zero velocity | here | 1 | 90.0 | – |
| random encoder | here | 1 | 50.0 | – |
| random encoder | published |  | – | 108.5 |
| CRRL | published, not run here |  | – | 104.9 |
| ISC | published, not run here |  | – | 144.2 |
| CMD | here |  | not run | – |
| CMD | published |  | – | 145.0 |
| PCM³ | here | 1 | 75.0 | – |
| PCM³ | published |  | – | 101.7 |

Rows marked published are the paper's own figures; the others were measured here.

Not on data sets of the paper's table: MPJPE, synthetic (mm). Compare the order of the methods \
there with the published order, not the numbers.

Measured at small scale: smaller networks, shorter training and shorter sequences than the paper's.

Not run, or not with every seed:

- CMD/MPJPE, synthetic (mm): The loss is not finite.
"""


def test_the_files(fakes, data, tmp_path, monkeypatch):
    def diverge(config, workdir):
        raise UserError("The loss is not finite.")

    monkeypatch.setitem(registry.TASKS, "cmd", diverge)
    workdir = tmp_path / "table"
    results = main.run(recipe(6, data__dir=data, scale="small"), workdir)
    assert (workdir / "results.md").read_text() == MARKDOWN
    with open(workdir / "results.csv", newline="") as file:
        lines = list(csv.reader(file))
    cells = [
        line.strip("| ").split(" | ") for line in MARKDOWN.splitlines()[2:13] if "---" not in line
    ]
    assert [[cell for cell in line if cell] for line in lines] == [
        [cell.strip() for cell in line if cell.strip()] for line in cells
    ]
    assert json.loads((workdir / "results.json").read_text()) == results
    assert results["task"] == "table" and results["table"] == 6
    assert not list(workdir.glob(".partial.*"))


def test_published_figures_stand_beside_ours_on_the_papers_data(fakes, data, tmp_path):
    main.run(recipe(5, data__dir=data), tmp_path / "table")
    lines = (tmp_path / "table" / "results.md").read_text().splitlines()
    assert lines[2] == (
        "| method | source | runs | mAP_a, PKU-MMD I xsub (%) | mAP_v, PKU-MMD I xsub (%) |"
    )
    assert lines[-4:-2] == [
        "| PCM³ | here | 1 | 75.0 | 75.0 |",
        "| PCM³ | published |  | 61.8 | 61.3 |",
    ]


def test_rows_have_the_papers_marks(fakes, data, tmp_path):
    main.run(recipe(8, data__dir=data), tmp_path / "table")
    lines = (tmp_path / "table" / "results.md").read_text().splitlines()
    assert lines[2].startswith("| s_intra | s_inter | s_mask | s_predict | L_KL | source |")
    assert lines[6:8] == [
        "| ✓ | ✓ |  |  |  | here | 1 | 75.0 |", "| ✓ | ✓ |  |  |  | published |  | 87.5 |",
    ]  # fmt: skip


@pytest.mark.parametrize("number", RUNS)
def test_published_figures_have_a_column_and_mostly_a_row(number):
    table = paper.TABLES[number]
    headings = [column.heading for column in table.columns(table.benchmarks)]
    assert len(set(headings)) == len(headings)
    figures = paper.published(number)
    assert all(set(row) <= set(headings) for row in figures.values())
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names)
    assert set(names) & set(figures)


def test_data_sets_that_are_not_built_leave_cells_out(fakes, tmp_path):
    data = build(tmp_path / "data", "ntu_rgbd/ntu60_xsub")
    results = main.run(recipe(3, data__dir=data), tmp_path / "table")
    row = next(row for row in results["rows"] if row["method"] == "PCM³")
    assert row["cells"]["NTU 60 xsub (%)"]["mean"] == 75.0
    missing = row["cells"]["NTU 60 xview (%)"]
    assert (missing["mean"], missing["runs"]) == (None, 0)
    assert "There is no data set 'ntu_rgbd/ntu60_xview'" in missing["reasons"][0]
    assert (
        "| PCM³ | here | 1 | 75.0 | not run | not run | not run |"
        in (tmp_path / "table" / "results.md").read_text()
    )


def test_nothing_is_pretrained_for_an_evaluation_without_data(fakes, tmp_path):
    data = build(tmp_path / "data", "ntu_rgbd/ntu60_xsub")
    with pytest.raises(UserError, match=r"^No cell of table 5 can be run: There is no data set "):
        main.run(recipe(5, data__dir=data), tmp_path / "table")
    assert fakes.ran == []


def test_a_run_that_fails_is_tried_once(fakes, data, tmp_path, monkeypatch):
    tried = []

    def fail(config, workdir):
        tried.append(config.seed)
        raise UserError("The loss is not finite.")

    monkeypatch.setitem(registry.TASKS, "pretrain", fail)
    main.run(recipe(4, data__dir=data, scale="small"), tmp_path / "table")
    # MoCo-GRU and PCM³, for four columns each.
    assert len(tried) == 2


def test_some_cells_only_then_the_others(fakes, data, tmp_path):
    config = recipe(3, data__dir=data, scale="small", table_cells="^pcm³/")
    results = main.run(config, tmp_path / "table")
    assert [config.task for config in fakes.ran] == ["pretrain", "retrieval"]
    row = next(row for row in results["rows"] if row["method"] == "MoCo-GRU")
    assert row["cells"]["synthetic (%)"]["reasons"] == ["config.table_cells does not name it."]
    config.table_cells = "moco"
    results = main.run(config, tmp_path / "table")
    measured = {row["method"] for row in results["rows"] if row["source"] == "here"
                for cell in row["cells"].values() if cell["runs"]}  # fmt: skip
    assert measured == {"MoCo-GRU", "PCM³"}


def test_other_data_sets_are_the_columns(fakes, tmp_path):
    data = build(tmp_path / "data", "a", "b", "c_untrimmed")
    names = ("a", "a>b", "c_untrimmed")
    config = recipe(9, data__dir=data, table_data=names, table_cells="no prompts")
    results = main.run(config, tmp_path / "table")
    assert results["columns"] == [
        "a (%)", "b from a (%)", "mAP_v, c_untrimmed from a (%)",
        "NTU 60 xview (%)", "mAP_v, PKU-MMD I xsub (%)",
    ]  # fmt: skip
    assert fakes.count("pretrain") == 1
    assert [c.data.name for c in fakes.ran] == ["a", "a", "b", "c_untrimmed"]


def test_what_another_process_runs_is_waited_for(fakes, data, tmp_path, monkeypatch):
    settings = {"table_cells": "random encoder/NTU 60 xsub", "table_runs": str(tmp_path / "runs")}
    config = recipe(3, data__dir=data, **settings)
    (planned,) = runner.planned_runs(config, tmp_path / "table")

    def finish(seconds):
        write_json(planned.folder / "results.json", {"knn_accuracy": 0.25})

    monkeypatch.setattr(runner.time, "sleep", finish)
    with locked(planned.folder):
        document = main.run(config, tmp_path / "table")
    assert fakes.ran == []
    measured = [cell for row in document["rows"] for cell in row["cells"].values()]
    assert [cell["values"] for cell in measured if cell.get("runs")] == [[25.0]]


def test_small_settings_give_way_to_what_was_chosen():
    config = recipe(3, scale="small", model__hidden=48, linear__epochs=7)
    small = scaled(config)
    assert (small.model.hidden, small.linear.epochs) == (48, 7)
    assert small.model.decoder_hidden == SMALL["model.decoder_hidden"]
    assert config.model.decoder_hidden == 512
    paper = default_config()
    assert all(leaf(paper, key) != value for key, value in SMALL.items())
    config.scale = "paper"
    assert scaled(config) == config


def test_small_settings_that_cannot_work_are_refused_before_anything_runs(fakes, data, tmp_path):
    config = recipe(3, data__dir=data, scale="small", model__prompt_width=100)
    with pytest.raises(UserError, match=r"config\.model\.prompt_width is 100"):
        main.run(config, tmp_path / "table")
    assert fakes.ran == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("table", 11, r"config\.table is 11, but must be in \[1, 10\]"),
        ("table_seeds", (), r"config\.table_seeds is \(\)"),
        ("table_seeds", (1, 1), r"config\.table_seeds is \(1, 1\), .* all different"),
        ("table_seeds", ("0",), r"config\.table_seeds is \('0',\), .* whole numbers"),
        ("table_data", ("a>b>c",), r"config\.table_data is \('a>b>c',\)"),
        ("table_data", ("a", "a"), r"config\.table_data .* different names"),
        ("table_cells", "(", r"config\.table_cells is '\(', which is no regular expression"),
        ("scale", "tiny", r"config\.scale is 'tiny'"),
    ],
)
def test_bad_settings_give_one_sentence(key, value, message):
    with pytest.raises(UserError, match=message) as error:
        validate(recipe(1, **{key: value}))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_small_scale_is_for_tables():
    with pytest.raises(UserError, match=r"config\.scale is 'small', which only"):
        validate(recipe(1, scale="small", task="pretrain"))


def test_cells_that_do_not_exist_are_refused(fakes, data, tmp_path):
    with pytest.raises(UserError, match="'nothing', which no cell of table 3 matches; one of"):
        main.run(recipe(3, data__dir=data, table_cells="nothing"), tmp_path / "table")


def test_a_workdir_is_one_tables(fakes, data, tmp_path):
    main.run(recipe(3, data__dir=data, scale="small"), tmp_path / "table")
    with pytest.raises(UserError, match=r"config\.table \(there 3, here 1\)"):
        main.run(recipe(1, data__dir=data, scale="small"), tmp_path / "table")


@pytest.fixture(scope="module")
def tiny_data(data_dir):
    """Data sets of single actions and of videos."""
    tfds_build.build("synthetic_skeletons/n4x2_untrimmed", data_dir)
    return "synthetic_skeletons/n64x32", "synthetic_skeletons/n4x2_untrimmed"


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(("number", "cell"), REAL_CELLS)
def test_a_cell_for_real(number, cell, data_dir, tiny_data, shared_runs, tmp_path):
    config = recipe(
        number, **TINY, scale="small", data__dir=str(data_dir), table_data=tiny_data,
        table_cells=cell, table_runs=str(shared_runs),
    )  # fmt: skip
    validate(config)
    results = main.run(config, tmp_path / "table")
    ours = [
        value
        for row in results["rows"]
        if row["source"] == "here"
        for heading, value in row["cells"].items()
        if re.search(cell, f"{row['method']}/{heading}")
    ]
    assert ours
    # Per cent or millimetres of a network that has learnt nothing.
    assert all(value["runs"] == 1 and -100 <= value["mean"] <= 1000 for value in ours)


def test_one_command_makes_all_tables_with_shared_runs(tmp_path):
    script = CONFIGS.parents[1] / "launch" / "tables.sh"
    command = ["bash", script, tmp_path, "--dry_run", "--config.scale=small"]
    lines = subprocess.run(
        command, env=os.environ | {"EXTRA": "none"}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert lines == [
        f"python -m pcm3_jax.main --config=configs/tables/table{number}.py "
        f"--workdir={tmp_path}/table{number} --config.table_runs={tmp_path}/runs "
        f"--config.scale=small && cat {tmp_path}/table{number}/results.md"
        for number in RUNS
    ]


# A Python for which table 5 cannot be made, and which SIGTERM ends in table 7.
PYTHON = """#!/bin/sh
case "$*" in
    *table5.py*) exit 1 ;;
    *table7.py*) exit 143 ;;
    *-m*) echo "$3" ;;
esac
"""


def test_a_table_that_cannot_be_made_does_not_keep_the_next_from_it(tmp_path):
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    workdir = tmp_path / "work"
    for number in RUNS:
        (workdir / f"table{number}").mkdir(parents=True)
        (workdir / f"table{number}" / "results.md").touch()
    result = subprocess.run(
        ["bash", CONFIGS.parents[1] / "launch" / "tables.sh", workdir],
        env=os.environ | {"EXTRA": "none", "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 143
    assert result.stdout.split() == [
        f"--config=configs/tables/table{number}.py" for number in (1, 2, 3, 4, 6)
    ]
