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
LABELS, VIDEO = "I/Label_PKU_final/0003-R.txt", "I/PKU_Skeleton_Renew/0003-R.txt"
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


def rewrite_labels(raw, name, rows):
    (raw / "I" / "Label_PKU_final" / f"{name}.txt").write_bytes(labels_text(rows))


def test_a_bad_row_of_labels_costs_the_row(tmp_path, raw, capsys):
    rows = [(1, 3, 20, 2), (2, 60, 40, 2), (3, 200, 365, 2), (4, 100, 150, 2), (5, 360, 370, 2)]
    rewrite_labels(raw, "0002-L", [*rows, (6, 5, 6, 2)])
    builder = build.build("pku_mmd/part1_xsub", tmp_path / "data", raw)
    examples = read_built(builder)["train"]
    # Numbers in names are those of the rows in the file.
    assert examples.keys() == {"0002-L_0", "0002-L_2", "0002-L_3", "0002-M_0"}
    assert examples["0002-L_2"]["num_frames"] == 160
    expected = normalize_sequence(video("0002-L", 360)[100:150])
    np.testing.assert_allclose(examples["0002-L_3"]["skeleton"], expected, atol=2e-5)
    printed = capsys.readouterr().out
    for line in (
        "left out 1: label rows that do not end after their start "
        "(0002-L.txt, line 2: frames 60 to 40)",
        "left out 1: label rows after the video's end (0002-L.txt, line 5: frames 360 to 370 of",
        "left out 1: actions of fewer than 2 frames (0002-L_5)",
        "note: 1 label rows cut at the video's end (0002-L.txt, line 3: frames 200 to 365 of 360)",
        "note: 2 label rows moved into order (0002-L.txt, line 4: start 100 after 200, ",
        "warning: there are 7 actions; a complete part I has 21,545",
    ):
        assert line in printed
    whole = read_built(build.build("pku_mmd/part1_xsub_untrimmed", tmp_path / "data", raw))
    actions = whole["train"]["0002-L"]["actions"]
    assert list(actions["start"]) == [3, 5, 100, 200]
    assert list(actions["stop"]) == [20, 6, 150, 360]


def test_a_row_without_a_body_costs_the_row(tmp_path, raw, capsys):
    skeleton = video("0003-R", 30)
    skeleton[15:] = 0
    (raw / VIDEO).write_bytes(video_text(skeleton))
    examples = read_built(build.build("pku_mmd/part1_xsub", tmp_path / "data", raw))
    assert examples["test"].keys() == {"0003-R_0"}
    reason = "label rows without a body in their frames (0003-R.txt, line 2: frames 15 to 30)"
    assert f"left out 1: {reason}" in capsys.readouterr().out


def test_a_video_without_a_usable_row_is_left_out(tmp_path, raw, capsys):
    rewrite_labels(raw, "0002-M", [(1, 12, 0, 2)])
    examples = read_built(build.build("pku_mmd/part1_xsub", tmp_path / "data", raw))
    assert examples["train"].keys() == {"0002-L_0", "0002-L_1"}
    printed = capsys.readouterr().out
    assert "left out 1: videos without a usable row of labels (0002-M)" in printed
    assert "warning: there are 2 videos" in printed


def test_a_malformed_row_is_refused_or_costs_the_row(tmp_path, raw, capsys):
    (raw / LABELS).write_bytes(b"1,5,15,2\n2,fifteen,30,2\n")
    command = ["pku_mmd/part1_xsub", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={raw}"]
    assert build.main([*command, "--workers=1"]) == 1
    assert f"{raw / LABELS}, line 2: found 'fifteen' where the start" in capsys.readouterr().err
    assert build.main([*command, "--workers=1", "--on_bad_file=skip"]) == 0
    assert "left out 1: line 2: found 'fifteen' where" in capsys.readouterr().out
    builder = build.build("pku_mmd/part1_xsub", tmp_path / "data")
    assert read_built(builder)["test"].keys() == {"0003-R_0"}


def test_actions_of_the_second_person_only_are_noted(tmp_path, raw, capsys):
    skeleton = video("0003-R", 30)
    skeleton[15:, 0] = 0
    (raw / VIDEO).write_bytes(video_text(skeleton))
    examples = read_built(build.build("pku_mmd/part1_xsub", tmp_path / "data", raw))
    alone = examples["test"]["0003-R_1"]["skeleton"]
    assert not alone[:, 0].any()
    np.testing.assert_allclose(alone[:, 1], skeleton[15:, 1], rtol=1e-6)
    printed = capsys.readouterr().out
    assert "note: 1 examples of the second person only, who stays second" in printed
    assert "(0003-R_1)" in printed


def test_videos_of_one_person_with_commas_and_other_endings(tmp_path, raw, capsys):
    expected = read_built(build.build("pku_mmd/part1_xsub", tmp_path / "one", raw))
    one_person = video_text(video("0002-M", 40)[:, :1]).replace(b"\n ", b"\n").replace(b" ", b",")
    (raw / "I" / "PKU_Skeleton_Renew" / "0002-M.txt").write_bytes(b"\xef\xbb\xbf" + one_person)
    (raw / VIDEO).rename(raw / "I" / "PKU_Skeleton_Renew" / "0003-R.TXT")
    (raw / "README.txt").write_text("Videos: see the paper.\n")
    capsys.readouterr()
    actual = read_built(build.build("pku_mmd/part1_xsub", tmp_path / "two", raw))
    assert "ignored 1: stray files, no data (README.txt)" in capsys.readouterr().out
    for split, examples in expected.items():
        assert actual[split].keys() == examples.keys()
        for name, example in examples.items():
            np.testing.assert_array_equal(actual[split][name]["skeleton"], example["skeleton"])


def test_a_changed_split_or_label_is_not_the_same_data_set(tmp_path, raw, capsys):
    command = ["pku_mmd/part1_xsub", f"--data_dir={tmp_path / 'data'}", "--workers=1"]
    assert build.main([*command, f"--manual_dir={raw}"]) == 0
    other = raw.rename(tmp_path / "moved")
    (other / "II" / "cross-view.txt").unlink()  # of another protocol
    assert build.main([*command, f"--manual_dir={other}"]) == 0
    assert "already built" in capsys.readouterr().out
    rewrite_labels(other, "0003-R", [(1, 5, 15, 2), (3, 15, 30, 2)])
    (other / "I" / "cross-subject.txt").write_bytes(split_text(["0002-L"], ["0003-R"]))
    assert build.main([*command, f"--manual_dir={other}"]) == 1
    error = capsys.readouterr().err
    assert "2 changed (0003-R.txt, cross-subject.txt), 1 missing (0002-M.txt)" in error


def test_a_split_that_cannot_be_read_cannot_be_skipped(tmp_path, raw, capsys):
    (raw / "I" / "cross-subject.txt").write_bytes(b"Training videos:\n0002-L\n")
    command = ["pku_mmd/part1_xsub", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={raw}"]
    assert build.main(command) == 1
    error = capsys.readouterr().err
    assert "cross-subject.txt, line 2: found the end" in error and "on_bad_file" not in error


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (LABELS, b"", "the file is empty"),
        (LABELS, None, "there is no label file for this video"),
        (VIDEO, video_text(video("0003-R", 30)).rsplit(b" ", 3)[0], "line 30: found"),
        (VIDEO, video_text(video("0003-R", 30)).replace(b" ", b" nan ", 1), "line 1: found"),
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
