"""Which runs a table needs, resumption, statistics and refusals.

Most tests replace the tasks by fakes; the runner, the workdirs and the files are real.
"""

import json
import re
from pathlib import Path

import pytest

from pcm3_jax import main, registry
from pcm3_jax.config import config_class, validate
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import write_json
from pcm3_jax.settings import section, setting
from pcm3_jax.tables import runner
from pcm3_jax.train.workdir import locked
from tests.tables.making import RUNS, build, kind, recipe
from tfds_builders import build as tfds_build

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
        config = recipe(
            number, data__dir=data, tables__runs=str(tmp_path / "runs"), tables__scale="small"
        )
        main.run(config, tmp_path / f"table{number}")
    # PCM³ in three streams, CMD, MoCo-GRU; Table 7's three others; all of Table 8 but its second
    # row, which is Table 7's multi-task; Table 9's prompts but for its best; Table 10's but for
    # PCM³ itself.
    assert fakes.count("pretrain", "cmd") == 3 + 1 + 1 + 3 + 5 + 3 + 7
    assert len({str(config) for config in fakes.ran}) == len(fakes.ran)


def test_settings_that_a_task_does_not_read_make_no_other_run(fakes, data, tmp_path):
    for epochs in (3, 4):
        for number in (1, 3):
            config = recipe(
                number, data__dir=data, linear__epochs=epochs, detection__epochs=epochs,
                cmd__weight=epochs * 1.0, tables__cells="^(PCM³|MoCo-GRU)/NTU",
                tables__runs=str(tmp_path / "runs"),
            )  # fmt: skip
            main.run(config, tmp_path / f"table{number}_{epochs}")
    assert fakes.count("pretrain") == 2 * 4
    assert fakes.count("retrieval") == 2 * 4
    assert fakes.count("linear_eval") == 2 * 2 * 4


def test_finished_runs_are_reused(fakes, data, tmp_path):
    config = recipe(3, data__dir=data, tables__scale="small")
    first = main.run(config, tmp_path / "table")
    ran = len(fakes.ran)
    lost = next((tmp_path / "table" / "runs").glob("retrieval*"))
    (lost / "results.json").unlink()
    # An interrupted run has claimed its folder and left something there.
    (lost / "metrics.jsonl").touch()
    assert main.run(config, tmp_path / "table") == first
    assert len(fakes.ran) == ran + 1
    # The data's folder is not part of a run's fingerprint.
    config.data.dir = build(tmp_path / "moved")
    assert main.run(config, tmp_path / "table") == first


def test_an_interruption_leaves_what_is_finished(fakes, data, tmp_path):
    fakes.errors["cmd"] = KeyboardInterrupt()
    config = recipe(3, data__dir=data, tables__scale="small")
    with pytest.raises(KeyboardInterrupt):
        main.run(config, tmp_path / "table")
    rows = json.loads((tmp_path / "table" / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows if row["source"] == "here" and row["cells"]] == [
        "random encoder", "MoCo-GRU",
    ]  # fmt: skip


def test_mean_deviation_and_number_over_seeds(fakes, data, tmp_path):
    config = recipe(3, data__dir=data, tables__scale="small", tables__seeds=(0, 1))
    main.run(config, tmp_path / "table")
    # More seeds can be added later.
    config.tables.seeds = (0, 1, 2)
    results = main.run(config, tmp_path / "table")
    cell = next(row for row in results["rows"] if row["method"] == "PCM³")["cells"]["synthetic (%)"]
    assert cell["values"] == [75.0, 87.5, 100.0]
    assert (cell["runs"], cell["mean"], cell["std"]) == (3, 87.5, 12.5)
    assert len({folder for folders in cell["folders"] for folder in folders}) == 3
    assert "| PCM³ | here | 3 | 87.5 ± 12.5 | – |" in (tmp_path / "table/results.md").read_text()
    seeds = [config.seed for config in fakes.ran if kind(config) == "pretrain"]
    assert sorted(seeds) == [0, 0, 1, 1, 2, 2]


def test_three_streams_are_pretrained_as_the_program_does_and_fused(fakes, data, tmp_path):
    config = recipe(1, data__dir=data, tables__scale="small", tables__cells="^3s-PCM³")
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
    main.run(
        recipe(1, data__dir=data, tables__scale="small", tables__cells="CMD"), tmp_path / "table"
    )
    assert fakes.count("cmd") == 1
    streams = [config.views.stream for config in fakes.ran if config.task == "linear_eval"]
    assert sorted(streams) == ["bone", "joint", "motion"]
    assert len({config.encoder for config in fakes.ran if config.task == "linear_eval"}) == 1


def test_detection_is_a_transfer(fakes, data, tmp_path):
    main.run(recipe(5, data__dir=data, tables__cells="^PCM³"), tmp_path / "table")
    pretrained, evaluated = fakes.ran
    assert pretrained.data.name == "ntu_rgbd/ntu60_xsub"
    assert evaluated.data.name == "pku_mmd/part1_xsub_untrimmed"
    assert evaluated.encoder.endswith(runner._fingerprint(pretrained, []))


def test_occlusion_costs_the_mean_over_the_data_sets(fakes, data, tmp_path):
    results = main.run(recipe(4, data__dir=data, tables__cells="^random.*Δ"), tmp_path / "table")
    (row,) = [row for row in results["rows"] if row["method"] == "random encoder"]
    # The fakes lose 25 points on either data set.
    assert row["cells"]["spatial occlusion, Δ"]["mean"] == pytest.approx(25)
    # The Δ took the occluded evaluations with it.
    assert row["cells"]["spatial occlusion, NTU 60 xview (%)"]["mean"] == 25.0


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


def test_data_sets_built_from_arrays_take_the_place_of_the_papers(fakes, tmp_path):
    names = tuple(f"ntu_rgbd/ntu60_{split}@pyskl" for split in ("xsub", "xview"))
    data = build(tmp_path / "data", *names)
    config = recipe(4, data__dir=data, tables__data=names, tables__cells="^PCM³")
    results = main.run(config, tmp_path / "table")
    assert {config.data.name for config in fakes.ran} == set(names)
    assert all("@pyskl" in column for column in results["columns"][:6])
    assert results["rows"][-2]["cells"]["spatial occlusion, NTU 60 xsub @pyskl (%)"]["mean"]


def test_nothing_is_pretrained_for_an_evaluation_without_data(fakes, tmp_path):
    data = build(tmp_path / "data", "ntu_rgbd/ntu60_xsub")
    with pytest.raises(UserError, match=r"^No cell of table 5 can be run: There is no data set "):
        main.run(recipe(5, data__dir=data), tmp_path / "table")
    assert fakes.ran == []


def test_a_run_that_fails_is_tried_once(fakes, data, tmp_path):
    fakes.errors["pretrain"] = UserError("The loss is not finite.")
    main.run(recipe(4, data__dir=data, tables__scale="small"), tmp_path / "table")
    # MoCo-GRU and PCM³, for four columns each.
    assert fakes.count("pretrain") == 2


def test_chosen_cells_first_then_the_others(fakes, data, tmp_path):
    config = recipe(3, data__dir=data, tables__scale="small", tables__cells="^pcm³/")
    results = main.run(config, tmp_path / "table")
    assert [config.task for config in fakes.ran] == ["pretrain", "retrieval"]
    row = next(row for row in results["rows"] if row["method"] == "MoCo-GRU")
    assert row["cells"]["synthetic (%)"]["reasons"] == ["config.tables.cells does not match it."]
    config.tables.cells = "moco"
    results = main.run(config, tmp_path / "table")
    measured = {row["method"] for row in results["rows"] if row["source"] == "here"
                for cell in row["cells"].values() if cell["runs"]}  # fmt: skip
    assert measured == {"MoCo-GRU", "PCM³"}


def test_other_data_sets_are_the_columns(fakes, tmp_path):
    data = build(tmp_path / "data", "a", "b", "c_untrimmed")
    names = ("a", "a>b", "c_untrimmed")
    config = recipe(9, data__dir=data, tables__data=names, tables__cells="no prompts")
    results = main.run(config, tmp_path / "table")
    assert results["columns"] == [
        "a (%)", "b from a (%)", "mAP_v, c_untrimmed from a (%)",
        "NTU 60 xview (%)", "mAP_v, PKU-MMD I xsub (%)",
    ]  # fmt: skip
    assert fakes.count("pretrain") == 1
    assert [c.data.name for c in fakes.ran] == ["a", "a", "b", "c_untrimmed"]


def test_waits_for_a_run_of_another_process(fakes, data, tmp_path, monkeypatch):
    settings = {
        "tables__cells": "random encoder/NTU 60 xsub",
        "tables__runs": str(tmp_path / "runs"),
    }
    config = recipe(3, data__dir=data, **settings)
    (planned,) = registry.TASKS["table"].planned_runs(config, tmp_path / "table")

    def finish(seconds):
        write_json(planned.folder / "results.json", {"knn_accuracy": 0.25})

    monkeypatch.setattr(runner.time, "sleep", finish)
    with locked(planned.folder):
        document = main.run(config, tmp_path / "table")
    assert fakes.ran == []
    measured = [cell for row in document["rows"] for cell in row["cells"].values()]
    assert [cell["values"] for cell in measured if cell.get("runs")] == [[25.0]]


def test_small_settings_that_cannot_work_are_refused_before_anything_runs(fakes, data, tmp_path):
    config = recipe(3, data__dir=data, tables__scale="small", model__prompt_width=100)
    with pytest.raises(UserError, match=r"config\.model\.prompt_width is 100"):
        main.run(config, tmp_path / "table")
    assert fakes.ran == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tables__number", 11, r"config\.tables\.number is 11, but must be in \[0, 10\]"),
        ("tables__seeds", (), r"config\.tables\.seeds is \(\)"),
        ("tables__seeds", (1, 1), r"config\.tables\.seeds is \(1, 1\), .* different numbers"),
        ("tables__seeds", ("0",), r"config\.tables\.seeds has '0', .* whole number"),
        ("tables__data", ("a>b>c",), r"config\.tables\.data is \('a>b>c',\)"),
        ("tables__data", ("a", "a"), r"config\.tables\.data .* different names"),
        ("tables__cells", "(", r"config\.tables\.cells is '\(', which is not a regular expression"),
        ("tables__scale", "tiny", r"config\.tables\.scale is 'tiny'"),
        ("tables__streams", ("bone", "bone"), r"config\.tables\.streams .* different streams"),
    ],
)
def test_bad_settings_give_one_sentence(key, value, message):
    with pytest.raises(UserError, match=message) as error:
        validate(recipe(1, **{key: value}))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_cells_that_do_not_exist_are_refused(fakes, data, tmp_path):
    with pytest.raises(UserError, match="'nothing', which no cell of table 3 matches; one of"):
        main.run(recipe(3, data__dir=data, tables__cells="nothing"), tmp_path / "table")


def test_a_workdir_belongs_to_one_table(fakes, data, tmp_path):
    main.run(recipe(3, data__dir=data, tables__scale="small"), tmp_path / "table")
    with pytest.raises(UserError, match=r"config\.tables\.number \(there 3, here 1\)"):
        main.run(recipe(1, data__dir=data, tables__scale="small"), tmp_path / "table")


def table_0(data, tmp_path, **settings):
    config = recipe(0, data__dir=data, tables__runs=str(tmp_path), **settings)
    return main.run(config, tmp_path / "table")


def test_table_0_compares_random_pretrained_and_fused_encoders(fakes, data, tmp_path):
    streams = ("motion", "bone")
    results = table_0(data, tmp_path, tables__seeds=(3, 4), tables__streams=streams)
    cells = {row["method"]: [*row["cells"]] for row in results["rows"]}
    of_encoder = ["1-NN (%)", "linear (%)"]
    assert cells == {
        "raw coordinates, joint": ["1-NN (%)", "ridge (%)"],
        "random encoder, motion": of_encoder,
        "random encoder, bone": of_encoder,
        "pretrained encoder, motion": of_encoder,
        "pretrained encoder, bone": of_encoder,
        "fused encoders, motion+bone": ["linear (%)"],
    }
    counts = {"baseline": 1, "pretrain": 4, "retrieval": 8, "linear_eval": 8, "fusion": 2}
    assert {name: fakes.count(name) for name in counts} == counts
    # Both streams are pretrained alike, with the settings of the configuration.
    assert {config.method.kl_weight for config in fakes.ran} == {1.0}
    # The same table can follow with other seeds and streams; here with the joints.
    table_0(data, tmp_path, tables__seeds=(3,))
    assert [kind(config) for config in fakes.ran[sum(counts.values()) :]] == [
        "retrieval", "linear_eval", "pretrain", "retrieval", "linear_eval",
    ]  # fmt: skip


def test_table_0_pretrains_by_the_configured_method(fakes, data, tmp_path):
    streams = ("motion", "bone")
    table_0(data, tmp_path, method__name="cmd", tables__streams=streams)
    assert (fakes.count("cmd"), fakes.count("pretrain")) == (1, 0)


# What an older compare.sh called its runs, by task and whether they have an encoder.
OLDER_NAMES = {
    ("baseline", False): "baseline",
    ("pretrain", False): "pretrain",
    ("retrieval", False): "random_retrieval",
    ("retrieval", True): "pretrained_retrieval",
    ("linear_eval", False): "random_linear_eval",
    ("linear_eval", True): "pretrained_linear_eval",
    ("fusion", False): "fusion",
}


def make_older(runs, **recipe):
    """Gives runs the folders and the config.json of an older version.

    Args:
      runs: the folder of all runs.
      recipe: settings by section, which the older version recorded with runs of every task.
    """
    configs = {path.parent: json.loads(path.read_text()) for path in runs.glob("*_*/config.json")}
    folders = {}
    for folder, content in configs.items():
        name = OLDER_NAMES[content["task"], bool(content["encoder"])]
        folders[str(folder)] = str(runs / f"{name}_{content['views']['stream']}_{content['seed']}")
    for folder, content in configs.items():
        content["encoder"] = folders.get(content["encoder"], "")
        content["fusion"]["runs"] = [folders[run] for run in content["fusion"]["runs"]]
        if content["method"].pop("name") == "cmd":
            content["task"] = "cmd"
        content["model"]["rematerialise"] = content["model"].pop("remat")
        content["model"]["recurrence"] = "stepwise"
        content["data"]["stream_threads"] = content["data"].pop("read_threads")
        content["data"]["feed"] = "stream"
        del content["tables"]
        content |= {"scale": "paper", "table": 1, "table_seeds": [0], "peers": "none"}
        for name, settings in recipe.items():
            content[name] |= settings
        write_json(folder / "config.json", content)
        folder.rename(folders[str(folder)])


def test_runs_of_an_older_version_are_found_by_their_settings(fakes, data, tmp_path):
    settings = {"tables__streams": ("motion", "bone"), "linear__epochs": 7}
    first = table_0(data, tmp_path / "runs", **settings)
    ran = len(fakes.ran)
    make_older(tmp_path / "runs", linear={"epochs": 7})
    # The paths in their settings then lead nowhere.
    (tmp_path / "runs").rename(tmp_path / "moved")
    again = table_0(data, tmp_path / "moved", **settings)
    assert len(fakes.ran) == ran

    def listed(results, key):
        return [cell[key] for row in results["rows"] for cell in row["cells"].values()]

    assert listed(again, "values") == listed(first, "values")
    folders = {folder for cell in listed(again, "folders") for run in cell for folder in run}
    assert folders == {
        "baseline_joint_0", "fusion_joint_0",
        *(f"{encoder}_{task}_{stream}_0" for encoder in ("random", "pretrained")
          for task in ("retrieval", "linear_eval") for stream in ("motion", "bone")),
    }  # fmt: skip


def test_a_cmd_run_of_an_older_version_is_found(fakes, data, tmp_path):
    config = recipe(3, data__dir=data, tables__cells="^CMD/NTU 60 xsub")
    main.run(config, tmp_path / "table")
    make_older(tmp_path / "table" / "runs")
    content = json.loads((tmp_path / "table/runs/pretrain_joint_0/config.json").read_text())
    assert content["task"] == "cmd"
    main.run(config, tmp_path / "table")
    assert [kind(config) for config in fakes.ran] == ["cmd", "retrieval"]


def test_an_unfinished_run_of_an_older_version_continues(fakes, data, tmp_path):
    table_0(data, tmp_path, linear__epochs=7)
    ran = len(fakes.ran)
    # Pretraining does not read linear.epochs, which the older version recorded all the same.
    make_older(tmp_path, linear={"epochs": 7})
    (tmp_path / "pretrain_joint_0" / "results.json").unlink()
    (tmp_path / "pretrain_joint_0" / "checkpoints").mkdir()
    (tmp_path / "pretrained_retrieval_joint_0" / "results.json").unlink()
    results = table_0(data, tmp_path, linear__epochs=7)
    assert [kind(config) for config in fakes.ran[ran:]] == ["pretrain", "retrieval"]
    assert not any(cell["reasons"] for row in results["rows"] for cell in row["cells"].values())
    assert (tmp_path / "pretrain_joint_0" / "results.json").exists()


def test_a_new_setting_with_its_default_changes_no_fingerprint():
    @section
    class Newer(config_class()):
        added: int = setting(3, "a setting of a later version")

    older, newer = config_class()(), Newer()
    older.seed = newer.seed = 1
    assert runner._fingerprint(newer, ["a"]) == runner._fingerprint(older, ["a"])
    newer.added = 4
    assert runner._fingerprint(newer, ["a"]) != runner._fingerprint(older, ["a"])


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
        number, **TINY, tables__scale="small", data__dir=str(data_dir), tables__data=tiny_data,
        tables__cells=cell, tables__runs=str(shared_runs),
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
