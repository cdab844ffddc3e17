"""The files of a table: layout, published figures, and folders of the runs."""

import csv
import json

from pcm3_jax import main
from pcm3_jax.errors import UserError
from tests.tables.making import recipe

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

These data sets are not in the paper's table: MPJPE, synthetic (mm). Compare the order of the \
methods on them with the published order, not the numbers.

Measured at small scale: smaller networks, shorter training and shorter sequences than the paper's.

Not run, or not with every seed:

- CMD/MPJPE, synthetic (mm): The loss is not finite.
"""


def test_the_files(fakes, data, tmp_path):
    fakes.errors["cmd"] = UserError("The loss is not finite.")
    workdir = tmp_path / "table"
    results = main.run(recipe(6, data__dir=data, tables__scale="small"), workdir)
    text, _, folders = (workdir / "results.md").read_text().partition("\nRuns of every seed, in ")
    assert text == MARKDOWN
    assert folders.startswith(f"{workdir}/runs:\n\n- zero velocity/")
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
    assert [line for line in lines if line.startswith("| PCM³")] == [
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


def test_the_folders_of_runs_and_their_encoders_are_listed(fakes, data, tmp_path):
    config = recipe(6, data__dir=data, tables__seeds=(0, 1), tables__cells="^(random|PCM³)")
    main.run(config, tmp_path / "table")
    text = (tmp_path / "table" / "results.md").read_text()
    listed = text.partition(f"Runs of every seed, in {tmp_path}/table/runs:\n\n")[2].splitlines()
    names = [line.partition(": ")[0] for line in listed]
    rows = ("zero velocity", "random encoder", "PCM³")
    assert names == [f"- {row}/MPJPE, NTU 60 xsub (mm)" for row in rows for _ in range(2)]
    folders = [line.partition(": ")[2].strip("`").split("`, `") for line in listed]
    evaluation = "motion_prediction_ntu_rgbd-ntu60_xsub_joint_seed"
    pretraining = "pretrain-pcm3_ntu_rgbd-ntu60_xsub_joint_seed"
    assert [[name.rpartition("_")[0] for name in run] for run in folders] == [
        [f"{evaluation}0"], [f"{evaluation}1"], [f"{evaluation}0"], [f"{evaluation}1"],
        [f"{pretraining}0", f"{evaluation}0"], [f"{pretraining}1", f"{evaluation}1"],
    ]  # fmt: skip
    there = {path.name for path in (tmp_path / "table" / "runs").iterdir()}
    assert {name for run in folders for name in run} == there


COMPARED = """\
# Encoders compared on synthetic_skeletons/default

| encoder | stream | 1-NN (%) | linear (%) | ridge (%) | runs |
| --- | --- | ---: | ---: | ---: | ---: |
| raw coordinates | joint | 50.0 | – | 25.0 | 1 |
| random encoder | motion | 56.2 ± 8.8 | 56.2 ± 8.8 | – | 2 |
| random encoder | bone | 56.2 ± 8.8 | 56.2 ± 8.8 | – | 2 |
| pretrained encoder | motion | 81.2 ± 8.8 | 81.2 ± 8.8 | – | 2 |
| pretrained encoder | bone | 81.2 ± 8.8 | 81.2 ± 8.8 | – | 2 |
| fused encoders | motion+bone | – | 56.2 ± 8.8 | – | 2 |
"""


def test_table_0_has_no_published_figures(fakes, data, tmp_path):
    streams = ("motion", "bone")
    config = recipe(0, data__dir=data, tables__seeds=(0, 1), tables__streams=streams)
    main.run(config, tmp_path / "table")
    text = (tmp_path / "table" / "results.md").read_text()
    assert text.partition("\nRuns of every seed, in ")[0] == COMPARED
    with open(tmp_path / "table" / "results.csv", newline="") as file:
        heading = next(csv.reader(file))
    assert heading == ["encoder", "stream", "1-NN (%)", "linear (%)", "ridge (%)", "runs"]
