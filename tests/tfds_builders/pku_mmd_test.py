"""The builder of PKU-MMD: parts, protocols, trimmed and whole videos, flaws."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pcm3_jax.data.normalization import normalize_sequence
from tests.data.formats.raw_writers import labels_text, split_text, video_text
from tests.tfds_builders.built import read_built
from tfds_builders import build
from tfds_builders.pku_mmd import pku_mmd_dataset_builder as pku

# {video: rows of (1-based action, start, end, confidence)}
ROWS = {
    "0002-L": [(1, 3, 20, 2), (51, 20, 350, 2)],
    "0002-M": [(7, 0, 12, 1)],
    "0003-R": [(1, 5, 15, 2), (2, 15, 30, 2)],
}
FRAMES = {"0002-L": 360, "0002-M": 40, "0003-R": 30}
PART_2 = {"A01N01-L": [(4, 1, 9, 2)], "A01N02-M": [(5, 2, 11, 2)]}


def video(name, frames):
    """(T, 2, 25, 3); the second person comes and goes, in one video they never come."""
    rng = np.random.default_rng(list(name.encode()))
    skeleton = (rng.normal(size=(frames, 2, 25, 3)) + [0, 0, 3]).astype(np.float32)
    skeleton[: frames // 3, 1] = 0
    if name == "0002-M":
        skeleton[:, 1] = 0
    return skeleton


def write(folder, rows, train, test, *, crlf=False):
    """The three kinds of files of a part; {video: skeleton}."""
    skeletons = {name: video(name, FRAMES.get(name, 20)) for name in rows}
    for kind in ("PKU_Skeleton_Renew", "Label_PKU_final"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name, skeleton in skeletons.items():
        path = Path(f"{name}.txt")
        (folder / "PKU_Skeleton_Renew" / path).write_bytes(video_text(skeleton, crlf))
        (folder / "Label_PKU_final" / path).write_bytes(labels_text(rows[name], crlf))
    (folder / "cross-subject.txt").write_bytes(split_text(train, test, crlf))
    (folder / "cross-view.txt").write_bytes(split_text(test, train, crlf))
    return skeletons


@pytest.fixture
def raw(tmp_path):
    """Both parts, side by side."""
    folder = tmp_path / "raw"
    write(folder / "I", ROWS, ["0002-L", "0002-M"], ["0003-R"])
    write(folder / "II", PART_2, ["A01N01-L"], ["A01N02-M"], crlf=True)
    return folder


@pytest.mark.parametrize(
    ("config", "train", "test"),
    [
        ("part1_xsub", {"0002-L_0", "0002-L_1", "0002-M_0"}, {"0003-R_0", "0003-R_1"}),
        ("part1_xview", {"0003-R_0", "0003-R_1"}, {"0002-L_0", "0002-L_1", "0002-M_0"}),
        ("part2_xsub", {"A01N01-L_0"}, {"A01N02-M_0"}),
        ("part2_xview", {"A01N02-M_0"}, {"A01N01-L_0"}),
        ("part1_xsub_untrimmed", {"0002-L", "0002-M"}, {"0003-R"}),
        ("part1_xview_untrimmed", {"0003-R"}, {"0002-L", "0002-M"}),
    ],
)
def test_each_protocol_splits_as_published(tmp_path, raw, config, train, test):
    examples = read_built(build.build(f"pku_mmd/{config}", tmp_path / "data", raw))
    assert (examples["train"].keys(), examples["test"].keys()) == (train, test)


def test_trimmed_examples_are_the_labelled_frames(tmp_path, raw):
    builder = build.build("pku_mmd/part1_xsub", tmp_path / "data", raw)
    examples = read_built(builder)
    # Seven digits are stored; see the tests of NTU RGB+D.
    expected = normalize_sequence(video("0002-L", 360)[20:320])
    long = examples["train"]["0002-L_1"]
    np.testing.assert_allclose(long["skeleton"], expected, atol=2e-5)
    assert (long["label"], long["num_frames"], long["camera"]) == (50, 330, 1)
    other = examples["test"]["0003-R_0"]
    np.testing.assert_allclose(
        other["skeleton"], normalize_sequence(video("0003-R", 30)[5:15]), atol=2e-5
    )
    assert (other["label"], other["num_frames"], other["camera"]) == (0, 10, 3)
    assert builder.info.features["label"].names == list(pku.ACTIONS)
    assert len(set(pku.ACTIONS)) == 51


def test_untrimmed_examples_are_whole_videos_with_their_actions(tmp_path, raw):
    examples = read_built(build.build("pku_mmd/part1_xsub_untrimmed", tmp_path / "data", raw))
    one = examples["train"]["0002-L"]
    # As recorded, seven digits of coordinates up to 7 m.
    np.testing.assert_allclose(one["skeleton"], video("0002-L", 360), atol=1e-6)
    actions = {key: list(values) for key, values in one["actions"].items()}
    assert actions == {"label": [0, 50], "start": [3, 20], "stop": [20, 350]}
    assert not examples["train"]["0002-M"]["skeleton"][:, 1].any()
    normalized = read_built(
        build.build("pku_mmd/part1_xsub_untrimmed_normalized", tmp_path / "data", raw)
    )
    np.testing.assert_allclose(
        normalized["train"]["0002-L"]["skeleton"],
        normalize_sequence(video("0002-L", 360)),
        atol=2e-5,
    )


def test_all_protocols_of_a_part_parse_once(tmp_path, raw, monkeypatch):
    build.build("pku_mmd/part1_xsub", tmp_path / "data", raw)
    monkeypatch.setattr(pku, "parse_video", None)
    for config in ("part1_xview", "part1_xsub_untrimmed"):
        build.build(f"pku_mmd/{config}", tmp_path / "data", raw)


def test_zip_archives_give_the_same(tmp_path, raw):
    archive = tmp_path / "pku.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in raw.rglob("*.txt"):
            out.write(path, path.relative_to(raw))
    expected = read_built(build.build("pku_mmd/part1_xsub", tmp_path / "one", raw))
    actual = read_built(build.build("pku_mmd/part1_xsub", tmp_path / "two", archive, processes=2))
    for split, examples in expected.items():
        assert actual[split].keys() == examples.keys()
        for name, example in examples.items():
            np.testing.assert_array_equal(actual[split][name]["skeleton"], example["skeleton"])


def test_the_report_counts_files_examples_and_differences(tmp_path, raw, capsys):
    (raw / "I" / "cross-subject.txt").write_bytes(split_text(["0002-L"], ["0003-R"]))
    builder = build.build("pku_mmd/part1_xsub", tmp_path / "data", raw)
    report = json.loads((Path(builder.data_path) / "report.json").read_text())
    assert report["left_out"]["not in cross-subject.txt"] == ["0002-M.txt"]
    assert len(report["left_out"]["not of part 1"]) == 4
    assert report["examples"] == {"train": 2, "test": 2}
    assert report["splits"]["test"]["bow"] == 1
    assert report["warnings"] == [
        "there are 2 videos; a complete part I has 1,076",
        "there are 4 actions; a complete part I has 21,545",
    ]
    assert "warning: there are 2 videos" in capsys.readouterr().out


LABELS, VIDEO = "I/Label_PKU_final/0003-R.txt", "I/PKU_Skeleton_Renew/0003-R.txt"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            LABELS,
            labels_text([(1, 15, 20, 2), (2, 5, 15, 2)]),
            "line 2: found start 5 out of order",
        ),
        (LABELS, labels_text([(1, 5, 31, 2)]), "line 1: found frames 5 to 31"),
        (LABELS, b"", "the file is empty"),
        (LABELS, None, "there is no label file for this video"),
        (VIDEO, video_text(video("0003-R", 30)).rsplit(b" ", 3)[0], "line 30: found"),
        (VIDEO, video_text(video("0003-R", 30)).replace(b" ", b" nan ", 1), "line 1: found"),
        (VIDEO, video_text(np.zeros((30, 2, 25, 3))), "no body in frames 5 to 15"),
        (VIDEO, None, "lists 0003-R, but there is no skeleton file 0003-R.txt"),
        ("I/Label_PKU_final/0009-R.txt", labels_text(ROWS["0002-L"]), "no video for these labels"),
        ("I/0002-L.txt", video_text(video("0002-L", 3)), "has the same name"),
        ("I/notes.txt", b"see the manual\n", "the name is neither that of part I"),
    ],
)
def test_a_flaw_is_refused_or_left_out(tmp_path, capsys, raw, file, content, message):
    # A second test video, so that the split is not empty without the flawed one.
    write(raw / "I", ROWS | {"0004-R": [(1, 5, 15, 2)]}, ["0002-L", "0002-M"], ["0003-R", "0004-R"])
    if content is None:
        (raw / file).unlink()
    else:
        (raw / file).write_bytes(content)
    command = ["pku_mmd/part1_xsub", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={raw}"]
    assert build.main([*command, "--workers=1"]) == 1
    error = capsys.readouterr().err
    assert message in error and str(raw) in error
    assert error.count("\n") == 1
    assert build.main([*command, "--workers=1", "--on_bad_file=skip"]) == 0
    assert message.split(": ")[-1] in capsys.readouterr().out


def test_a_split_file_is_needed(tmp_path, capsys, raw):
    (raw / "II" / "cross-view.txt").unlink()
    command = ["pku_mmd/part2_xview", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={raw}"]
    assert build.main(command) == 1
    assert "no split file cross-view.txt of part 2" in capsys.readouterr().err
