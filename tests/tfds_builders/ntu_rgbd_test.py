"""The builder of NTU RGB+D: protocols, archives, workers, interruption, reports, flaws."""

import json
import random
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pcm3_jax.data.normalization import center_sequence, normalize_sequence
from tests.data.formats.raw_writers import skeleton_text
from tests.tfds_builders import irds_as_ntu
from tests.tfds_builders.built import read_built
from tfds_builders import build, skeleton_builder
from tfds_builders.ntu_rgbd import ntu_rgbd_dataset_builder as ntu

REPOSITORY = Path(__file__).parents[2]


def body(rng):
    return rng.normal(size=(25, 3)) + [0, 0, 3]


def write_files(folder, names, seed=0):
    """Small files: bodies come and go, both line endings; {name: (T, 25, 3) of the only body}."""
    folder.mkdir(parents=True, exist_ok=True)
    bodies = {}
    for number, name in enumerate(names):
        rng = np.random.default_rng((seed, number))
        moves = np.stack([body(rng) for _ in range(4 + number % 3)]).astype(np.float32)
        bodies[name] = moves
        text = skeleton_text([[one] for one in moves], crlf=number % 2 == 1)
        (folder / f"{name}.skeleton").write_bytes(text)
    return bodies


# Set-ups of both halves, both kinds of camera, a training and a test subject of either half.
NAMES = [
    f"S{setup:03d}C{camera:03d}P{subject:03d}R001A{action:03d}"
    for setup, subjects, actions in (
        (1, (1, 3), (1, 60)), (2, (2, 6), (7, 8)), (18, (45, 41), (61, 120)),
    )
    for camera in (1, 2)
    for subject in subjects
    for action in actions
]  # fmt: skip


@pytest.fixture
def raw(tmp_path):
    """A folder with files at two depths."""
    folder = tmp_path / "raw"
    write_files(folder / "nturgb+d_skeletons", NAMES[:16])
    write_files(folder / "more" / "deep", NAMES[16:], seed=1)
    return folder


def contents(folder):
    """The bytes of every shard and of the metadata, but for the memory used."""
    found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    report = json.loads(found["report.json"])
    del report["peak_memory_mb"]
    return found | {"report.json": report}


@pytest.mark.parametrize(
    ("config", "in_train", "count"),
    [
        ("ntu60_xsub", lambda s, c, p: p in (1, 2), 16),
        ("ntu60_xview", lambda s, c, p: c == 2, 16),
        ("ntu120_xsub", lambda s, c, p: p in (1, 2, 45), 24),
        ("ntu120_xset", lambda s, c, p: s in (2, 18), 24),
    ],
)
def test_each_protocol_splits_as_published(tmp_path, raw, config, in_train, count):
    builder = build.build(f"ntu_rgbd/{config}", tmp_path / "data", raw)
    examples = read_built(builder)
    assert sum(map(len, examples.values())) == count
    for split, some in examples.items():
        assert some
        for name, example in some.items():
            setup, camera, subject, action = (int(name[i : i + 3]) for i in (1, 5, 9, 17))
            assert in_train(setup, camera, subject) == (split == "train")
            assert example["label"] == action - 1
            assert (example["setup"], example["camera"], example["subject"]) == (
                setup, camera, subject,
            )  # fmt: skip
    names = builder.info.features["label"].names
    assert len(names) == (60 if "60" in config else 120)


def test_a_second_protocol_parses_nothing_and_skeletons_are_right(tmp_path, monkeypatch):
    bodies = write_files(tmp_path / "raw", NAMES)
    build.build("ntu_rgbd/ntu120_xsub", tmp_path / "data", tmp_path / "raw")
    monkeypatch.setattr(ntu, "parse", None)
    for config, transform in {
        "ntu60_xview": normalize_sequence,
        "ntu120_xset_centered": center_sequence,
        "ntu120_xset_recorded": lambda skeleton: skeleton,
    }.items():
        examples = read_built(
            build.build(f"ntu_rgbd/{config}", tmp_path / "data", tmp_path / "raw")
        )
        for name, example in (examples["train"] | examples["test"]).items():
            moves = bodies[name]
            skeleton = np.zeros((len(moves), 2, 25, 3), np.float32)
            skeleton[:, 0] = moves
            assert example["num_frames"] == len(moves)
            # Seven digits are stored, of coordinates up to 6 m and of the joints, as near to each
            # other as half a metre, by which they are turned.
            np.testing.assert_allclose(example["skeleton"], transform(skeleton), atol=2e-5)


def test_a_changed_file_is_parsed_again(tmp_path, raw):
    build.build("ntu_rgbd/ntu60_xsub", tmp_path / "data", raw)
    path = raw / "nturgb+d_skeletons" / f"{NAMES[0]}.skeleton"
    path.write_bytes(skeleton_text([[body(np.random.default_rng(9))]] * 11))
    examples = read_built(build.build("ntu_rgbd/ntu60_xview", tmp_path / "data", raw))
    assert (examples["train"] | examples["test"])[NAMES[0]]["num_frames"] == 11


def test_zip_archives_and_any_number_of_workers_give_the_same(tmp_path, raw):
    one = build.build("ntu_rgbd/ntu120_xsub", tmp_path / "one", raw)
    holder = tmp_path / "zips"
    holder.mkdir()
    for number, part in enumerate(raw.iterdir()):
        with zipfile.ZipFile(holder / f"nturgbd_{number}.zip", "w", zipfile.ZIP_DEFLATED) as out:
            for path in part.rglob("*.skeleton"):
                out.write(path, path.relative_to(raw))
    two = build.build("ntu_rgbd/ntu120_xsub", tmp_path / "two", holder, processes=2)
    assert contents(two.data_path) == contents(one.data_path)


def test_the_report_counts_files_examples_and_differences(tmp_path, raw, capsys):
    # One that the authors exclude, one with six bodies in a frame.
    missing = "S001C002P005R002A008"
    write_files(raw, [missing])
    rng = np.random.default_rng(5)
    crowd = [[body(rng) for _ in range(count)] for count in (1, 6, 0, 2)]
    (raw / "S001C001P005R001A001.skeleton").write_bytes(skeleton_text(crowd))
    builder = build.build("ntu_rgbd/ntu60_xsub", tmp_path / "data", raw)
    report = json.loads((Path(builder.data_path) / "report.json").read_text())
    assert report["files_seen"] == 26
    left_out = {reason: len(names) for reason, names in report["left_out"].items()}
    assert left_out == {
        "not part of NTU RGB+D 60": 8,
        "listed by the authors as missing or incomplete": 1,
    }
    assert report["examples"] == {"train": 9, "test": 8}
    assert report["splits"]["train"]["drink water"] == 3
    assert report["expected_splits"] == {"train": 40091, "test": 16487}
    # 948 takes of each of 60 actions, less the excluded ones, are all that both splits have.
    assert sum(report["expected_classes"].values()) == 40091 + 16487
    assert len(report["notes"]) == 1 and "S001C001P005R001A001" in report["notes"][0]
    assert len(report["warnings"]) == 3
    out = capsys.readouterr().out
    assert "train 9 of 40,091" in out
    assert "listed by the authors" in out


def test_expected_classes_of_120_actions_add_up():
    labels = [int(name[-3:]) for name in ntu.MISSING]
    assert len(ntu.MISSING) == 535 and sum(label <= 60 for label in labels) == 302
    assert 60 * (948 + 960) - 535 == 63026 + 50919 == 54468 + 59477
    assert len(set(ntu.ACTIONS)) == 120


def test_subjects_of_the_benchmark():
    assert len(ntu.TRAIN_SUBJECTS) == 53
    assert len([subject for subject in ntu.TRAIN_SUBJECTS if subject <= 40]) == 20


GOOD = skeleton_text([[body(np.random.default_rng(0))]] * 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (NAMES[1], b"\n".join(GOOD.split(b"\n")[:-4]), "found the end of the file"),
        (NAMES[1], GOOD.replace(b"\n25\n", b"\n24\n", 1), "line 4: found 24 joints where 25"),
        (NAMES[1], skeleton_text([[], []]), "found no body in its 2 frames"),
        (NAMES[1], skeleton_text([[np.zeros((25, 3))]]), "found no body in the first 300 frames"),
        ("S001C001P001R001", GOOD, "the name is not SsssCcccPppp"),
    ],
)
def test_a_flaw_is_refused_or_left_out(tmp_path, capsys, raw, name, content, message):
    path = raw / "more" / f"{name}.skeleton"
    path.write_bytes(content)
    shutil.rmtree(raw / "nturgb+d_skeletons")
    command = ["ntu_rgbd/ntu120_xsub", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={raw}"]
    assert build.main([*command, "--workers=1"]) == 1
    error = capsys.readouterr().err
    assert message in error and str(path) in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "data" / "ntu_rgbd").glob("ntu120*/*"))
    assert build.main([*command, "--workers=1", "--on_bad_file=skip"]) == 0
    out = capsys.readouterr().out
    assert message.split(": ")[-1] in out and name in out


def test_stray_files_of_an_archive_are_counted_and_endings_have_any_case(tmp_path, raw, capsys):
    expected = read_built(build.build("ntu_rgbd/ntu60_xsub", tmp_path / "one", raw))
    archive = tmp_path / "NTU.ZIP"
    with zipfile.ZipFile(archive, "w") as out:
        for path in raw.rglob("*.skeleton"):
            out.writestr(f"__MACOSX/._{path.name}", b"Mac OS X")
            mark = b"\xef\xbb\xbf" if "A001" in path.name else b""
            out.writestr(f"all/{path.stem}.Skeleton", mark + path.read_bytes())
    capsys.readouterr()
    actual = read_built(build.build("ntu_rgbd/ntu60_xsub", tmp_path / "two", archive))
    assert "ignored 24: stray files, no data (._S0" in capsys.readouterr().out
    for split, examples in expected.items():
        assert actual[split].keys() == examples.keys()
        for name, example in examples.items():
            np.testing.assert_array_equal(actual[split][name]["skeleton"], example["skeleton"])


def test_recordings_that_keep_the_second_person_only_are_noted(tmp_path, raw, capsys):
    # Who moves most comes after the 300 frames that are used.
    rng = np.random.default_rng(0)
    calm = [[body(rng)] for _ in range(300)]
    lively = [[np.zeros((25, 3)), 5 * body(rng)] for _ in range(9)]
    name = NAMES[0]
    path = raw / "nturgb+d_skeletons" / f"{name}.skeleton"
    path.write_bytes(skeleton_text(calm + lively))
    build.build("ntu_rgbd/ntu60_xsub", tmp_path / "data", raw)
    note = "note: 1 examples of the second person only, who stays second and is not centred"
    printed = capsys.readouterr().out
    assert note in printed and f"({name})" in printed


def test_what_the_files_are_packed_in_does_not_matter_and_their_content_does(tmp_path, raw, capsys):
    command = ["ntu_rgbd/ntu60_xsub", f"--data_dir={tmp_path / 'data'}", "--workers=1"]
    assert build.main([*command, f"--manual_dir={raw}"]) == 0
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in raw.rglob("*.skeleton"):
            out.write(path, path.name)
    assert build.main([*command, f"--manual_dir={archive}"]) == 0
    assert "already built" in capsys.readouterr().out
    # Those of NTU RGB+D 120 are no part of this data set.
    (raw / "more" / "deep" / f"{NAMES[16]}.skeleton").unlink()
    assert build.main([*command, f"--manual_dir={raw}"]) == 0
    (raw / "nturgb+d_skeletons" / f"{NAMES[0]}.skeleton").unlink()
    path = raw / "nturgb+d_skeletons" / f"{NAMES[1]}.skeleton"
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    assert build.main([*command, f"--manual_dir={raw}"]) == 1
    error = capsys.readouterr().err
    assert f"1 changed ({NAMES[1]}.skeleton), 1 missing ({NAMES[0]}.skeleton)" in error
    assert error.count("\n") == 1


def test_a_second_file_of_one_name_is_refused(tmp_path, capsys, raw):
    write_files(raw, NAMES[:1])
    command = ["ntu_rgbd/ntu60_xsub", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={raw}"]
    assert build.main([*command, "--workers=1"]) == 1
    assert "has the same name" in capsys.readouterr().err
    assert build.main([*command, "--workers=1", "--on_bad_file=skip"]) == 0
    assert "has the same name" in capsys.readouterr().out


@pytest.mark.parametrize("keep", [0, 200, -30])
def test_a_cut_archive_is_refused(tmp_path, capsys, raw, keep):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in raw.rglob("*.skeleton"):
            out.write(path, path.name)
    archive.write_bytes(archive.read_bytes()[:keep])
    command = ["ntu_rgbd/ntu60_xsub", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={archive}"]
    assert build.main(command) == 1
    assert f"{archive}: it cannot be read" in capsys.readouterr().err


def test_damage_within_an_archive_is_a_bad_file(tmp_path, capsys, raw):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in raw.rglob("*.skeleton"):
            out.write(path, path.name)
        damaged = out.getinfo(f"{NAMES[0]}.skeleton").header_offset + 200
    content = bytearray(archive.read_bytes())
    content[damaged] ^= 1
    archive.write_bytes(content)
    command = ["ntu_rgbd/ntu60_xsub", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={archive}"]
    assert build.main([*command, "--workers=1"]) == 1
    error = capsys.readouterr().err
    assert f"{archive}/{NAMES[0]}.skeleton: it cannot be read" in error


def build_process(raw, data_dir, workers):
    command = ["ntu_rgbd/ntu120_xsub", f"--data_dir={data_dir}", f"--manual_dir={raw}"]
    return subprocess.Popen(
        [sys.executable, "-m", "tfds_builders.build", *command, f"--workers={workers}"],
        stdout=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )


@pytest.mark.parametrize(
    ("kills", "workers"), [(2, 1), pytest.param(10, 2, marks=pytest.mark.slow)]
)
def test_killed_builds_go_on_to_the_same_shards(tmp_path, raw, monkeypatch, kills, workers):
    # Enough to do that kills hit parsing and writing.
    names = [
        f"S{setup:03d}C001P{subject:03d}R{take:03d}A{action:03d}"
        for setup in (3, 4) for subject in (1, 3) for take in (1, 2) for action in range(1, 61)
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    text = skeleton_text([[body(rng), body(rng)] for _ in range(40)])
    for name in names:
        (raw / f"{name}.skeleton").write_bytes(text)
    start = time.monotonic()
    process = build_process(raw, tmp_path / "whole", workers)
    assert process.wait() == 0
    seconds = time.monotonic() - start
    moments = random.Random(kills)
    for _ in range(kills):
        process = build_process(raw, tmp_path / "killed", workers)
        # Starting the interpreter takes the first half.
        time.sleep(seconds * moments.uniform(0.4, 1.0))
        process.kill()
        process.wait()
    process = build_process(raw, tmp_path / "killed", workers)
    assert process.wait() == 0
    place = "ntu_rgbd/ntu120_xsub/1.0.0"
    assert contents(tmp_path / "killed" / place) == contents(tmp_path / "whole" / place)


def test_finished_shards_are_not_written_again(tmp_path, raw, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(skeleton_builder, "_link", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build.build("ntu_rgbd/ntu60_xsub", tmp_path / "data", raw)
    monkeypatch.setattr(skeleton_builder.writer, "ExampleWriter", None)
    examples = read_built(build.build("ntu_rgbd/ntu60_xsub", tmp_path / "data", raw))
    assert {split: len(some) for split, some in examples.items()} == {"train": 8, "test": 8}


def test_memory_of_a_worker(tmp_path):
    # The largest possible group: both takes of all actions of a subject before one camera in one
    # set-up, two bodies and 300 frames each. A worker holds one group at a time.
    raw = tmp_path / "raw"
    raw.mkdir()
    rng = np.random.default_rng(0)
    text = skeleton_text([[body(rng), body(rng)] for _ in range(300)])
    first = raw / "S001C001P001R001A001.skeleton"
    first.write_bytes(text)
    for take in (1, 2):
        for action in range(1, 61):
            path = raw / f"S001C001P001R{take:03d}A{action:03d}.skeleton"
            if path != first:
                path.hardlink_to(first)
    first.with_name("S001C001P003R001A001.skeleton").hardlink_to(first)  # for the test split
    process = build_process(raw, tmp_path / "data", workers=2)
    assert process.wait() == 0
    report = tmp_path / "data/ntu_rgbd/ntu120_xsub/1.0.0/report.json"
    assert 50 < json.loads(report.read_text())["peak_memory_mb"] < 1000


def test_intellirehabds_as_skeleton_files_gives_the_same_arrays(tmp_path, recordings):
    names = irds_as_ntu.write(recordings, tmp_path / "raw")
    ours = read_built(build.build("intellirehabds", tmp_path / "data", recordings))
    theirs = read_built(build.build("ntu_rgbd/ntu60_xsub", tmp_path / "data", tmp_path / "raw"))
    assert len(names) == sum(map(len, ours.values()))
    for split, examples in ours.items():
        assert len(theirs[split]) == len(examples)
        for name, example in examples.items():
            other = theirs[split][names[name]]
            assert other["label"] == example["label"]
            # As above.
            np.testing.assert_allclose(other["skeleton"], example["skeleton"], atol=2e-5)
