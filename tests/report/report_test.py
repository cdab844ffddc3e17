"""The whole report of two small runs, on the command line and in its parts."""

import copy
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pcm3_jax import convert
from pcm3_jax.errors import UserError
from pcm3_jax.report import __main__ as report
from pcm3_jax.report import page
from pcm3_jax.report.contents import contents
from pcm3_jax.report.encoders import Splits, shown_under
from pcm3_jax.report.runs import read_runs

HOSTILE = "</script><script>hacked = 1</script><img src=x onerror='hacked = 1'>&\u2028\"'"


def data_of(text):
    """The data embedded in the page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_parts_agree_with_what_the_runs_measured(report_contents, two_runs):
    pretrained, linear = (json.loads((run / "results.json").read_text()) for run in two_runs)
    (encoder,) = report_contents["encoders"]
    assert encoder["accuracy"] == pretrained["knn_accuracy"]
    nearest, classifier = (np.array(c["matrix"]) for c in report_contents["confusions"])
    assert nearest.sum() == classifier.sum() == encoder["test"] == 32
    assert np.trace(nearest) / 32 == pretrained["knn_accuracy"]
    assert np.trace(classifier) / 32 == linear["top1"]
    assert report_contents["notes"] == ["linear: its encoder is shown under run."]


def test_the_gallery_has_the_nearest_first(report_contents):
    (encoder,) = report_contents["encoders"]
    places = encoder["map"]
    assert len(places["x"]) == len(places["sequence"]) == 32
    right = dict(zip(places["name"], places["right"], strict=True))
    for query in encoder["gallery"]:
        cosines = [found["cosine"] for found in query["neighbours"]]
        assert len(cosines) == 5 and cosines == sorted(cosines, reverse=True)
        assert query["neighbours"][0]["right"] == right[query["name"]]
    assert {right[query["name"]] for query in encoder["gallery"]} == {True, False}
    # A sequence that is shown several times is stored once.
    found = [(one["name"], one["sequence"]) for q in encoder["gallery"] for one in q["neighbours"]]
    names, sequences = map(set, zip(*found, strict=True))
    assert len(names) == len(sequences) < len(found)


def test_predictions_of_every_checkpoint_and_all_views(report_contents, two_runs):
    (masked,) = report_contents["masked"]
    kept = sorted(int(path.name) for path in (two_runs[0] / "checkpoints").iterdir())
    assert masked["steps"] == kept and len(kept) >= 2
    sequences = report_contents["sequences"]
    for row in masked["rows"]:
        assert len(row["predicted"]) == len(row["errors"]) == len(kept)
        assert min(row["errors"]) > 0
        truth, *predicted = (sequences[i]["data"] for i in (row["truth"], *row["predicted"]))
        assert len({truth, *predicted}) == 1 + len(kept)
    (views,) = report_contents["views"]
    assert len(views["panels"]) == 7
    # The masked view is the target with some joints left out.
    drawn = [sequences[panel["sequence"]]["data"] for panel in views["panels"]]
    assert len(set(drawn)) == 6 and drawn[3] == drawn[4] and views["panels"][4]["hidden"]


def test_the_command_writes_one_file_that_needs_nothing_else(two_runs, tmp_path, capsys):
    out = tmp_path / "page.html"
    report.run([*map(str, two_runs), f"--out={out}", "--curves_only"])
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{out}: 2 runs, ")
    # Their commands do, which is no warning.
    assert "differ" not in printed.err
    text = out.read_text()
    assert re.findall(r"(?:src|href)=[\"'](?!#|data:)", text) == []
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    found = data_of(text)
    assert not found["encoders"] and "--curves_only" in found["notes"][0]
    assert [chart["name"] for chart in found["charts"]["learning"]][:2] == ["loss", "knn_accuracy"]
    assert list(tmp_path.iterdir()) == [out]


def test_runs_made_differently_are_warned_of(two_runs, tmp_path, capsys):
    shutil.copytree(two_runs[1], tmp_path / "other")
    (start,) = json.loads((two_runs[1] / "provenance.json").read_text())
    (tmp_path / "other" / "provenance.json").write_text(json.dumps([start | {"python": "2.7"}]))
    folders = [str(two_runs[1]), str(tmp_path / "other")]
    report.run([*folders, f"--out={tmp_path / 'page.html'}", "--curves_only"])
    assert "warning: The runs differ in python: " in capsys.readouterr().err


def test_the_report_is_small(report_contents):
    # The synthetic sequences are as long as real ones; a page of 1,200 is to stay below 15 MB.
    sequences = report_contents["sequences"]
    places = [sequences[i] for i in report_contents["encoders"][0]["map"]["sequence"]]
    assert 1200 * max(len(one["data"]) for one in places) < 9e6


def test_hostile_names_stay_data(report_contents):
    report_contents["runs"][0]["name"] = report_contents["title"] = HOSTILE
    report_contents["warnings"] = [HOSTILE]
    report_contents["charts"]["learning"][0]["series"][0]["points"][0][1] = float("inf")
    text = page.render(report_contents)
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<img" not in text
    found = data_of(text)
    assert found["runs"][0]["name"] == found["warnings"][0] == HOSTILE
    assert found["charts"]["learning"][0]["series"][0]["points"][0][1] is None


def test_an_encoder_is_shown_once_wherever_it_lies(two_runs, tmp_path):
    pretrained, linear = two_runs
    checkpoint = max((pretrained / "checkpoints").iterdir(), key=lambda path: int(path.name))
    earlier = min((pretrained / "checkpoints").iterdir(), key=lambda path: int(path.name))
    exported = tmp_path / "exported.safetensors"
    convert.run(["export", str(pretrained), str(exported)])
    encoders = {"checkpoint": checkpoint, "exported": exported, "earlier": earlier}
    for name, encoder in encoders.items():
        shutil.copytree(linear, tmp_path / name)
        config = json.loads((linear / "config.json").read_text()) | {"encoder": str(encoder)}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    # The pretraining run comes last, but shows the most.
    folders = [*(tmp_path / name for name in encoders), linear, pretrained]
    runs, _ = read_runs(folders)
    assert shown_under(runs) == {
        "run": "run", "linear": "run", "checkpoint": "run", "exported": "run",
        "earlier": "earlier",
    }  # fmt: skip
    found = contents(runs[1:4], {}, Splits(None))
    assert [found["runs"][one["run"]]["name"] for one in found["encoders"]] == [
        "exported", "earlier"
    ]  # fmt: skip
    assert "linear: its encoder is shown under exported." in found["notes"]


def test_a_run_under_way(two_runs, tmp_path):
    shutil.copytree(two_runs[0], tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 99')
    found = contents(*read_runs([tmp_path / "run"]), Splits(None))
    assert found["runs"][0]["status"] == "not finished, step 24"
    assert found["notes"] == ["run: no checkpoint has been saved yet."]
    assert found["tables"] == [] and found["charts"]["learning"]


def test_a_table_under_way_and_an_encoder_that_is_gone(two_runs, tmp_path):
    config = json.loads((two_runs[0] / "config.json").read_text())
    document = {"table": 1, "title": "a", "notes": [], "marks": [], "columns": [], "rows": []}
    changes = {
        "table": {"task": "table"},
        "evaluation": {"task": "retrieval", "encoder": "runs/gone"},
    }
    for name, changed in changes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config | changed))
    (tmp_path / "table" / "results.json").write_text(json.dumps(document))
    folders = [tmp_path / name for name in changes]
    found = contents(*read_runs(folders), Splits(None))
    assert [run["status"] for run in found["runs"]] == ["not finished, no step logged yet"] * 2
    assert "evaluation: its encoder runs/gone does not exist." in found["notes"]


def test_names_need_not_be_utf8(report_contents, tmp_path):
    report_contents["runs"][0]["name"] = report_contents["title"] = "caf\udce9"
    page.write(tmp_path / "page.html", report_contents)
    assert "caf?" in (tmp_path / "page.html").read_text(encoding="utf-8")


def rewrite_config(workdir, **changes):
    config = json.loads((workdir / "config.json").read_text())
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    (workdir / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__dir": "/nowhere"}, "There is no data set .* in /nowhere"),
        ({"model__hidden": 16}, "does not fit its configuration"),
    ],
)
def test_what_no_longer_fits_is_named(two_runs, tmp_path, changes, message):
    shutil.copytree(two_runs[0], tmp_path / "run")
    rewrite_config(tmp_path / "run", **changes)
    with pytest.raises(UserError, match=message):
        report.run([str(tmp_path / "run"), f"--out={tmp_path / 'page.html'}"])
    assert not (tmp_path / "page.html").exists()


def test_a_mistake_is_one_sentence_and_exit_code_1(tmp_path):
    command = [sys.executable, "-m", "pcm3_jax.report", str(tmp_path / "gone")]
    command.append(f"--out={tmp_path / 'page.html'}")
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stdout == ""
    assert re.fullmatch(r"error: There is no folder .*gone: .*\.\n", ended.stderr)
    assert not list(tmp_path.iterdir())


def test_the_output_must_be_writable(two_runs, tmp_path):
    for out in (tmp_path, tmp_path / "no" / "page.html"):
        with pytest.raises(UserError, match="is a folder|cannot be written"):
            report.run([str(two_runs[1]), f"--out={out}", "--curves_only"])


def test_figures_are_written(report_contents, tmp_path):
    figures = pytest.importorskip("pcm3_jax.report.figures", reason="needs playwright")
    if figures.BROWSER is None:
        pytest.skip("needs Chromium")
    small = copy.deepcopy(report_contents)
    small["runs"][0]["name"] = "../$x"
    small["charts"]["learning"] = small["charts"]["learning"][:2]
    small["charts"]["machine"] = []
    small["confusions"] = small["confusions"][:1]
    small["encoders"][0]["gallery"] = small["encoders"][0]["gallery"][:1]
    small["masked"][0]["rows"], small["views"] = [], []
    for sequence in small["sequences"]:
        sequence["seconds"] = 0.2
    page.write(tmp_path / "page.html", small)
    written = figures.write(tmp_path / "figures", tmp_path / "page.html")
    assert sorted(written) == sorted((tmp_path / "figures").iterdir())
    assert sorted(path.name for path in written) == [
        "confusion_.._x_nearest_neighbour.png",
        "curve_knn_accuracy.png",
        "curve_loss.png",
        "map_.._x.png",
        "neighbours_.._x.gif",
    ]
    from PIL import Image

    for path in written:
        with Image.open(path) as image:
            # Something is drawn, and a GIF moves.
            assert len(image.convert("L").getcolors(256)) > 4
            assert getattr(image, "n_frames", 1) == (3 if path.suffix == ".gif" else 1)


def test_figures_without_a_browser_are_refused(monkeypatch, tmp_path):
    figures = pytest.importorskip("pcm3_jax.report.figures", reason="needs playwright")
    monkeypatch.setattr(figures, "BROWSER", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="needs Chromium: install it"):
        figures.write(tmp_path / "figures", tmp_path / "page.html")
