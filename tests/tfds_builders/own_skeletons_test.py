"""The builder of own data: examples, checks of every line of the table, and refused files."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pcm3_jax.data import recordings
from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS, LAYOUTS
from pcm3_jax.data.normalization import normalization_of, normalize_sequence
from pcm3_jax.runtime.parallel import Devices
from tests.data.body import in_order_of, person
from tests.data.formats.raw_writers import array_bytes as npy
from tests.data.formats.raw_writers import claimed
from tests.tfds_builders.built import read_built
from tfds_builders import build

HEADER = "file,label,performer,split\n"
TABLE = HEADER + "a.npy,wave,1,train\nsub/b.npz,bow,1,train\nc.npy,wave,2,test\n"


def walk(joints=25, frames=8, persons=1, seed=0):
    """Somebody two metres away, (T, M, J, 3)."""
    rng = np.random.default_rng(seed)
    steps = 0.02 * rng.normal(size=(frames, persons, joints, 3)).cumsum(axis=0)
    return (rng.normal(size=(persons, joints, 3)) + steps + [0, 0, 3]).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Three sequences of Kinect v2's joints: one person, two, and one without a person axis."""
    folder = tmp_path / "own"
    (folder / "sub").mkdir(parents=True)
    np.save(folder / "a.npy", walk())
    np.savez(folder / "sub" / "b.npz", walk(persons=2, seed=1))
    np.save(folder / "c.npy", walk(seed=2)[:, 0].astype(np.float64))
    (folder / "labels.csv").write_text(TABLE)
    return folder


def run(folder, *arguments, config="kinect_v2_25"):
    data_dir = folder.parent / "data"
    flags = [f"--data_dir={data_dir}", f"--manual_dir={folder}", "--workers=1", *arguments]
    return build.main([f"own_skeletons/{config}", *flags])


def built(folder, data_dir="data", config="kinect_v2_25", **options):
    return read_built(
        build.build(f"own_skeletons/{config}", folder.parent / data_dir, folder, **options)
    )


def test_a_folder_becomes_a_data_set(folder, capsys):
    (folder / "unused.npy").write_bytes(b"")
    assert run(folder) == 0
    printed = capsys.readouterr().out
    assert "train 2, test 1" in printed and "left out 1: not in labels.csv (unused.npy)" in printed
    splits = built(folder)  # is built already
    assert {split: set(some) for split, some in splits.items()} == {
        "train": {"a.npy", "sub/b.npz"}, "test": {"c.npy"}
    }  # fmt: skip
    a, b, c = splits["train"]["a.npy"], splits["train"]["sub/b.npz"], splits["test"]["c.npy"]
    assert [(e["label"], e["subject"], e["num_frames"]) for e in (a, b, c)] == [
        (1, 1, 8), (0, 1, 8), (1, 2, 8)
    ]  # fmt: skip
    for example, skeleton in ((a, walk()), (b, walk(persons=2, seed=1)), (c, walk(seed=2))):
        persons = skeleton.shape[1]
        np.testing.assert_array_equal(
            example["skeleton"][:, :persons], normalize_sequence(skeleton)
        )
        assert not example["skeleton"][:, persons:].any()


def test_archives_workers_and_places_do_not_matter(folder, tmp_path):
    archive = tmp_path / "own.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(folder.rglob("*.*")):
            out.write(path, f"any/{path.relative_to(folder)}")
    for number, source in enumerate((folder, archive)):
        build.build("own_skeletons", tmp_path / str(number), source, processes=1 + number)
    for path in (tmp_path / "0" / "own_skeletons").rglob("*.array_record*"):
        twin = tmp_path / "1" / path.relative_to(tmp_path / "0")
        assert path.read_bytes() == twin.read_bytes()


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_joints_are_zeros(folder, name):
    layout = LAYOUTS[name]
    one, lost = walk(len(layout.joints), frames=9), layout.joints.index
    # A wrist that is lost for two frames, and a person who is not there at first.
    wrist = next(joint for joint in layout.joints if "wrist" in joint and "left" in joint)
    one[3:5, 0, lost(wrist)] = np.nan
    two = np.concatenate([one, walk(len(layout.joints), frames=9, seed=3)], axis=1)
    two[:4, 1] = np.nan
    np.save(folder / "a.npy", two)
    np.save(folder / "c.npy", walk(len(layout.joints)))
    (folder / "labels.csv").write_text(HEADER + "a.npy,x,1,train\nc.npy,x,1,test\n")
    skeleton = built(folder, config=name)["train"]["a.npy"]["skeleton"]
    missing = ~skeleton.any(axis=-1)
    expected = np.zeros((9, 2, 25), bool)
    expected[..., list(layout.missing)] = True
    made_of_it = [target for target, sources in layout.sources.items() if wrist in sources]
    expected[3:5, 0, [KINECT_V2_JOINTS.index(target) for target in made_of_it]] = True
    expected[:, 0, 1] = True  # the centre
    np.testing.assert_array_equal(missing, expected)  # the second person was moved to the start


def test_a_lost_spine_is_interpolated_to_centre_on_and_not_shown(folder):
    steady = np.repeat(walk(frames=1), 8, axis=0) + 0.1 * np.arange(8)[:, None, None, None]
    holed = steady.astype(np.float32)
    holed[2:5, 0, [0, 1, 4]] = np.nan
    np.save(folder / "a.npy", holed)
    skeleton = built(folder)["train"]["a.npy"]["skeleton"]
    whole = normalize_sequence(steady.astype(np.float32))
    seen = ~np.isnan(holed).any(axis=-1)[:, 0]
    np.testing.assert_allclose(skeleton[:, 0][seen], whole[:, 0][seen], atol=1e-5)
    assert not skeleton[:, 0][~seen].any()


def test_skeletons_centred_on_a_joint_keep_it(folder):
    centred = walk() - walk()[:, :, :1]
    np.save(folder / "a.npy", centred)
    skeleton = built(folder)["train"]["a.npy"]["skeleton"]
    assert skeleton[:, 0, 0].any(axis=-1).all()
    np.testing.assert_allclose(skeleton[:, :1], normalize_sequence(walk()), atol=1e-5)


def test_a_hundred_thousand_frames(folder):
    np.save(folder / "a.npy", np.broadcast_to(walk(frames=1), (100_000, 1, 25, 3)))
    assert built(folder)["train"]["a.npy"]["skeleton"].shape == (100_000, 2, 25, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("d.npy,wave,1,train", "line 5: found 'd.npy', but "),
        ("../own/a.npy,wave,1,train", "line 5: found '../own/a.npy', but"),
        ("/etc/passwd,wave,1,train", "line 5: found '/etc/passwd', but"),
        ("\x1b[31m.npy,wave,1,train", r"line 5: found '\x1b[31m.npy', but"),
        ("a.npy,wave,1,test", "line 5: found 'a.npy' a second time (first in line 2)"),
        ("d.npy,wave,1", "line 5: found 3 values where file, label, performer, split"),
        ("d.npy,wave,1,", "line 5: found '' where train or test"),
        ("d.npy,wave,1,validation", "line 5: found 'validation' where train or test"),
        ("d.npy,wave,anna,train", "line 5: found 'anna' where the number of the performer"),
        ("d.npy,wave,-1,train", "line 5: found '-1' where the number"),
        ("d.npy, ,1,train", "line 5: found '' where a label"),
        ('d.npy,"wa\nve",1,train', r"line 6: found 'wa\nve' where a label"),
        ("c2.npy,jump,1,test", "line 5: found 'jump' in the test split, but nowhere in the train"),
        ('"open,wave,1,train', "line 5: found a line that is not CSV"),
        ("\udcff,wave,1,train", "line 5: found bytes that are not UTF-8"),
    ],
)
def test_every_line_of_the_table_is_checked(folder, capsys, line, message):
    content = (TABLE + line + "\n").encode("utf-8", "surrogateescape")
    (folder / "labels.csv").write_bytes(content)
    shutil.copy(folder / "a.npy", folder / "c2.npy")
    assert run(folder) == 1
    error = capsys.readouterr().err
    assert f"labels.csv, {message}" in error and error.count("\n") == 1
    assert not list(folder.parent.glob("data/own_skeletons/*/1*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must hold one labels.csv, but has 0"),
        ("", "found '' where the columns file,label,performer,split were expected"),
        ("a.npy,wave,1,train\n", "line 1: found 'a.npy,wave,1,train' where the columns"),
        (TABLE.replace(",", ";"), "line 1: found 'file;label;performer;split' where the columns"),
        (TABLE.encode("utf-16"), "line 1: found bytes that are not UTF-8"),
        (HEADER, "found no line after the first"),
        (HEADER + "a.npy,wave,1,train\n", "no recording of the test split"),
    ],
)
def test_an_invalid_table_is_refused(folder, capsys, content, message):
    (folder / "labels.csv").unlink()
    (folder / "own_labels.csv").touch()
    if content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        (folder / "labels.csv").write_bytes(content)
    assert run(folder) == 1
    error = capsys.readouterr().err
    assert message in error and "on_bad_file" not in error


def test_two_tables_are_refused(folder, capsys):
    shutil.copy(folder / "labels.csv", folder / "sub")
    assert run(folder) == 1
    assert "must hold one labels.csv, but has 2" in capsys.readouterr().err


def with_value(value, coordinates=slice(None)):
    array = walk()
    array[3, 0, 5, coordinates] = value
    return array


class Bomb:
    """Would leave a trace if it were unpickled."""

    def __reduce__(self):
        return print, ("unpickled",)


PICKLED = npy(np.array([Bomb()], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no usable arrays"),
        (b"text", "holds no usable arrays"),
        (PICKLED, "Object arrays cannot be loaded"),
        (PICKLED[PICKLED.index(b"\x80") :], "pickled"),
        (claimed("(9999999999999,)"), "holds no usable arrays"),
        (npy(walk())[:-1], "holds no usable arrays"),
        (npy(walk(24)), "found an array of shape (8, 1, 24, 3) where (frames, 25, 3)"),
        (npy(walk(24)), "was expected; 24 joints are those of smpl_24 (--layout; in a build, the"),
        (npy(walk(17)), "17 joints are those of coco_17 or h36m_17"),
        (npy(walk()[..., :2]), "found an array of shape (8, 1, 25, 2)"),
        (npy(walk(persons=0)), "found an array of shape (8, 0, 25, 3)"),
        (npy(walk()[0, 0]), "found an array of shape (25, 3)"),
        (npy(walk()[:0]), "found no frames"),
        (npy(walk()[:1]), "found one frame where at least 2"),
        (npy(walk().astype(complex)), "type complex128"),
        (npy(walk().astype(str)), "type <U32"),
        (npy(walk() > 0), "type bool"),
        (npy(np.full_like(walk(), np.nan)), "found no joint of any person"),
        (npy(np.zeros_like(walk())), "found no joint of any person"),
        (npy(with_value(np.nan, 1)), "NaN beside a number in frame 3 at joint 5 (elbow_left)"),
        (npy(with_value(np.inf)), "beyond 100 in frame 3 at joint 5"),
        (npy(1000 * walk().astype(float)), "beyond 100 in frame 0"),
        (npy(1e300 * walk().astype(float)), "beyond 100 in frame 0"),
        (npy(with_value(0)), "found exact zeros in frame 3 at joint 5 (elbow_left)"),
        (npy(walk() * (np.arange(25) != 1)[:, None] * (np.arange(25) != 2)[:, None]),
         "found exact zeros in frame 0 at joint 1"),
        (npy(np.where((np.arange(25) == 1)[:, None], np.nan, walk())),
         "found no frame in which the first person has all joints of the spine's middle"),
    ],
)  # fmt: skip
def test_a_flawed_file_ends_the_build_or_is_left_out(folder, capsys, content, message):
    path = folder / "bad.npy"
    path.write_bytes(content)
    with (folder / "labels.csv").open("a") as table:
        table.write("bad.npy,wave,1,train\n")
    assert run(folder) == 1
    captured = capsys.readouterr()
    assert f"{path}: " in captured.err and message in captured.err
    assert captured.err.count("\n") == 1 and "unpickled" not in captured.out
    assert not list(folder.parent.glob("data/own_skeletons/*/1*"))
    assert run(folder, "--on_bad_file=skip") == 0
    (report,) = folder.parent.rglob("report.json")
    assert message in " ".join(json.loads(report.read_text())["left_out"])


def test_an_archive_file_holds_one_sequence(folder, capsys):
    np.savez(folder / "sub" / "b.npz", walk(), walk())
    assert run(folder) == 1
    assert "b.npz: found 2 arrays" in capsys.readouterr().err


def test_what_is_left_out_takes_its_line_along(folder, capsys):
    (folder / "sub" / "b.npz").unlink()
    np.save(folder / "d.npy", walk())
    (folder / "e.npy").write_bytes(b"")
    with (folder / "labels.csv").open("a") as table:
        table.write("d.npy,fall,2,test\ne.npy,fall,7,train\nf.npy,wave,x,test\n")
    assert run(folder, "--on_bad_file=skip") == 0
    printed = capsys.readouterr().out
    for reason in (
        "line 3: found 'sub/b.npz', but", "line 7: found 'x' where",
        "no sequence of its label is left in the train split (d.npy)",
    ):  # fmt: skip
        assert reason in printed
    assert {split: list(some) for split, some in built(folder).items()} == {
        "train": ["a.npy"], "test": ["c.npy"]
    }  # fmt: skip


def test_performers_in_both_splits_are_noted(folder, capsys):
    (folder / "labels.csv").write_text(TABLE.replace("c.npy,wave,2", "c.npy,wave,1"))
    assert run(folder) == 0
    assert "note: performers in both splits: 1" in capsys.readouterr().out


def test_a_changed_file_changes_what_is_built(folder):
    first = built(folder)
    np.save(folder / "a.npy", walk(seed=9))
    shutil.rmtree(folder.parent / "data" / "own_skeletons")
    second = built(folder)
    assert (first["train"]["a.npy"]["skeleton"] != second["train"]["a.npy"]["skeleton"]).any()


@pytest.mark.parametrize("name", LAYOUTS)
def test_left_handed_axes_are_noticed(folder, capsys, name):
    standing = in_order_of(name, person())
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    (folder / "labels.csv").write_text(HEADER + "a.npy,x,1,train\nc.npy,x,2,test\n")
    for axes, noted in ((turn, False), (turn @ np.diag([1, 1, -1]), True)):
        np.save(folder / "a.npy", standing @ axes + 3)
        np.save(folder / "c.npy", standing @ axes + 4)
        shutil.rmtree(folder.parent / "data", ignore_errors=True)
        assert run(folder, config=name) == 0
        printed = capsys.readouterr().out
        assert ("note: 2 of 2 recordings: feet (or forearms) point backwards" in printed) == noted
        assert ("note: " in printed) == noted


def test_implausible_bodies_are_noted(folder, capsys):
    (folder / "labels.csv").write_text(HEADER + "a.npy,x,1,train\nc.npy,x,2,test\n")
    for name in ("a.npy", "c.npy"):
        np.save(folder / name, 10 * person())
    assert run(folder) == 0
    note = "note: 2 of 2 recordings: trunk 4.67 m where 0.25 to 0.8 m is usual; probably decimetres"
    assert note in capsys.readouterr().out
    (report,) = folder.parent.rglob("report.json")
    assert note[6:] in json.loads(report.read_text())["notes"][0]


TOML = """
joints = ["head", "hips", "l_shoulder", "r_shoulder"]
[kinect_v2]
spine_base = "hips"
spine_mid = ["hips", "l_shoulder", "r_shoulder"]
shoulder_left = "l_shoulder"
shoulder_right = "r_shoulder"
"""


@pytest.mark.parametrize("archived", [False, True])
def test_a_layout_of_ones_own_lies_beside_the_table(folder, tmp_path, archived):
    (folder / "layout.toml").write_text(TOML)
    (folder / "labels.csv").write_text(HEADER + "a.npy,x,1,train\nc.npy,x,2,test\n")
    for name, seed in (("a.npy", 0), ("c.npy", 1)):
        np.save(folder / name, walk(4, seed=seed))
    source = folder
    if archived:
        source = Path(shutil.make_archive(str(tmp_path / "own"), "zip", tmp_path, "own"))
    found = read_built(build.build("own_skeletons/custom", tmp_path / "built", source))
    skeleton = found["train"]["a.npy"]["skeleton"][:, 0]
    assert np.flatnonzero(skeleton.any(axis=(0, 2))).tolist() == [0, 4, 8]  # the spine is 0
    # Anything that the layout changes is parsed anew.
    shutil.rmtree(tmp_path / "built" / "own_skeletons")
    changed = TOML.replace("[kinect_v2]", '[kinect_v2]\nhead = "head"')
    (folder / "layout.toml").write_text(changed)
    if not archived:
        found = read_built(build.build("own_skeletons/custom", tmp_path / "built", source))
        assert found["train"]["a.npy"]["skeleton"][:, 0, 3].all()


def test_a_flawed_or_missing_layout_is_refused(folder, capsys):
    assert run(folder, config="custom") == 1
    assert "own has no layout.toml beside labels.csv: add one" in capsys.readouterr().err
    (folder / "layout.toml").write_text(TOML.replace('= "hips"', '= "hip"'))
    assert run(folder, config="custom") == 1
    error = capsys.readouterr().err
    assert "layout.toml is no joint layout: spine_base is made of 'hip', which" in error
    assert error.count("\n") == 1


def test_the_folder_is_needed_to_build_and_not_afterwards(folder, capsys):
    arguments = ["own_skeletons", f"--data_dir={folder.parent / 'data'}"]
    assert build.main(arguments) == 1
    assert "give --manual_dir. manual_dir is a folder" in capsys.readouterr().err
    assert build.main([*arguments, f"--manual_dir={folder / 'missing'}"]) == 1
    assert "missing does not exist" in capsys.readouterr().err
    assert run(folder) == 0
    assert build.main(arguments) == 0
    assert "already built" in capsys.readouterr().out


def test_a_byte_order_mark_blanks_and_other_cases_are_taken(folder):
    text = TABLE.replace("file,label", " file , label").replace("sub/b.npz", "sub/b.NPZ")
    (folder / "labels.csv").unlink()
    (folder / "Labels.CSV").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\n\n")
    (folder / "sub" / "b.npz").rename(folder / "sub" / "b.NPZ")
    (folder / "._a.npy").write_bytes(b"Mac OS X")
    assert built(folder)["train"].keys() == {"a.npy", "sub/b.NPZ"}
    (report,) = folder.parent.rglob("report.json")
    assert json.loads(report.read_text())["stray"] == [str(folder / "._a.npy")]


def test_unchanged_files_are_the_same_data_set_anywhere(folder, tmp_path, capsys):
    assert run(folder) == 0
    (folder / "unused.npy").write_bytes(b"")  # not in the table
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "mine")
    archive = tmp_path / "elsewhere" / "packed.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(folder.rglob("*.*")):
            out.write(path, path.relative_to(folder))
    for source in (folder, moved, archive):
        capsys.readouterr()
        flags = [f"--data_dir={tmp_path / 'data'}", f"--manual_dir={source}"]
        assert build.main(["own_skeletons/kinect_v2_25", *flags]) == 0
        assert "already built" in capsys.readouterr().out


def test_another_folder_or_a_changed_table_is_refused_with_what_differs(folder, capsys):
    assert run(folder) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("data/**/*")}
    with (folder / "labels.csv").open("a") as table:
        table.write("d.npy,wave,2,test\n")
    np.save(folder / "d.npy", walk(seed=4))
    np.save(folder / "a.npy", 0.1 * walk())  # of the same size
    (folder / "sub" / "b.npz").unlink()
    assert run(folder) == 1
    captured = capsys.readouterr()
    expected = "2 changed (a.npy, labels.csv), 1 new (d.npy), 1 missing (sub/b.npz); delete"
    assert expected in captured.err and captured.err.count("\n") == 1
    assert "own_skeletons/kinect_v2_25@gym" in captured.err and "already built" not in captured.out
    assert before == {path: path.stat().st_mtime_ns for path in folder.parent.rglob("data/**/*")}
    # Another table for the same files.
    (folder / "labels.csv").write_text(TABLE.replace("bow", "wave"))
    for name, seed, persons in (("a.npy", 0, 1), ("sub/b.npz", 1, 2)):
        array = walk(seed=seed, persons=persons)
        (np.save if name.endswith("npy") else np.savez)(folder / name, array)
    assert run(folder) == 1
    assert "1 changed (labels.csv); delete" in capsys.readouterr().err


def test_a_data_set_of_an_older_version_is_not_compared(folder, capsys):
    assert run(folder) == 0
    for name in ("inputs.json", "checksums.json"):
        next(folder.parent.rglob(name)).unlink()
    np.save(folder / "a.npy", walk(seed=9))
    assert run(folder) == 0
    assert "already built in" in (printed := capsys.readouterr().out)
    assert "by an older version, which did not note its raw files" in printed


def test_a_missing_folder_is_an_error_also_if_the_data_set_is_built(folder, capsys):
    assert run(folder) == 0
    assert run(folder / "missing") == 1
    assert "missing does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["kinect_v2_25@gym", "coco_17@Ward-3_b", "smpl_24@x_recorded"])
def test_data_sets_of_one_layout_have_names(folder, name, capsys):
    layout = name.partition("@")[0]
    joints = len(LAYOUTS[layout].joints)
    for file in ("a.npy", "c.npy"):
        np.save(folder / file, walk(joints))
    (folder / "labels.csv").write_text(HEADER + "a.npy,x,1,train\nc.npy,x,1,test\n")
    assert run(folder, config=layout) == 0
    np.save(folder / "a.npy", walk(joints, frames=5))
    assert run(folder, config=name) == 0
    data_dir = str(folder.parent / "data")
    for data, frames in ((layout, 8), (name, 5)):
        found = recordings.find(f"own_skeletons/{data}", data_dir)
        assert found.parent.name == data
        devices = Devices("shard_map")
        train = recordings.read(
            f"own_skeletons/{data}", data_dir, "train", 300, devices, resident=True
        )
        assert train.length.tolist() == [frames]
        assert train.data_name == f"own_skeletons/{data}"
    recorded = name.endswith("_recorded")
    assert (normalization_of(f"own_skeletons/{name}") is not normalize_sequence) == recorded
    assert build.main([f"own_skeletons/{name}", f"--data_dir={data_dir}"]) == 0
    assert "already built" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["gym", "kinect_v2_25@", "kinect_v2_25@a/b", "kinect_v2_25@a@b", "other@gym",
             "kinect_v2_25_recorded@gym", "kinect_v2_25@ä"]
)  # fmt: skip
def test_other_names_are_refused(folder, capsys, name):
    assert run(folder, config=name) == 1
    error = capsys.readouterr().err
    assert "has no config" in error and "such as kinect_v2_25@gym" in error
