"""NTU RGB+D's arrays in the forms of other programs: read as by NumPy and pickle, or refused."""

import io
import pickle
import random
import zipfile

import numpy as np
import pytest

from pcm3_jax.data.formats import ntu_arrays, numpy_pickles
from pcm3_jax.data.formats.numpy_pickles import read_pickle
from pcm3_jax.data.formats.stored_arrays import StoredArray, in_npy, in_npz
from pcm3_jax.errors import UserError
from tests.data.formats import array_writers as writers
from tests.data.formats import plain_arrays as plain
from tests.data.formats.mutants import binary_mutant

NAMES = ("S001C001P001R001A001", "S001C002P003R001A060", "S002C003P002R002A008")


def is_train(name):
    return name[9:12] in ("001", "002")


def some_recordings():
    """Three short ones; in the second another person is there for some time."""
    recordings = {}
    for number, name in enumerate(NAMES):
        rng = np.random.default_rng(number)
        skeleton = rng.normal(size=(3 + number, 2, 25, 3)).astype(np.float32) + [0, 0, 3]
        skeleton[:, 1] *= number == 1
        skeleton[:1, 1] = 0
        recordings[name] = skeleton.astype(np.float32)
    return recordings


def written(form, folder, protocol=4, numpy=2):
    """Writes the recordings in a form; returns the files."""
    recordings = some_recordings()
    if form == "authors":
        writers.write_authors(folder, recordings, is_train, frames=6)
    elif form == "ctrgcn":
        writers.write_ctrgcn(folder / "NTU60_CS.npz", recordings, is_train, frames=6)
    else:
        value = writers.pyskl(recordings, {"xsub": is_train})
        (folder / "ntu60_3danno.pkl").write_bytes(writers.pickled(value, protocol, numpy))
    return sorted(folder.iterdir())


def refuse(flaw):
    raise flaw


ROWS = {
    "authors": lambda folder: ntu_arrays.authors_rows(folder / "train_data_joint.npy", refuse),
    "ctrgcn": lambda folder: ntu_arrays.ctrgcn_rows(folder / "NTU60_CS.npz", 60, refuse),
    "pyskl": lambda folder: ntu_arrays.pyskl_rows(folder / "ntu60_3danno.pkl", "xsub", refuse),
}
PLAIN = {
    "authors": plain.plain_authors,
    "ctrgcn": lambda folder: plain.plain_ctrgcn(folder / "NTU60_CS.npz"),
    "pyskl": lambda folder: plain.plain_pyskl(folder / "ntu60_3danno.pkl"),
}


def read(form, folder):
    """[(name, label, skeleton)] of all recordings; raises UserError if one is refused."""
    return [(row.name, row.label, ntu_arrays.load(row)) for row in ROWS[form](folder)]


def assert_same(actual, expected):
    assert [recording[:2] for recording in actual] == [recording[:2] for recording in expected]
    for (_, _, ours), (_, _, theirs) in zip(actual, expected, strict=True):
        assert ours.dtype == np.float32 and ours.shape == theirs.shape
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("form", ROWS)
def test_a_form_is_read_as_by_numpy_and_pickle(tmp_path, form):
    written(form, tmp_path)
    actual = read(form, tmp_path)
    assert len(actual) == len(NAMES)
    assert_same(actual, PLAIN[form](tmp_path))
    splits = {row.name: row.split for row in ROWS[form](tmp_path)}
    assert sorted(splits.values()) == ["test", "train", "train"]


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
@pytest.mark.parametrize("numpy", [1, 2])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_any_protocol_and_numpy_are_read(tmp_path, protocol, numpy):
    (path,) = written("pyskl", tmp_path, protocol, numpy)
    assert (b"numpy._core" in path.read_bytes()) == (numpy == 2)
    assert_same(read("pyskl", tmp_path), plain.plain_pyskl(path))
    # Also by Python's own, so the writer writes what others read.
    assert len(pickle.loads(path.read_bytes())["annotations"]) == len(NAMES)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(600, dtype="<f2").reshape(2, 3, 4, 25),
        np.asfortranarray(np.arange(600, dtype=">f8").reshape(20, 30)),
        np.arange(6, dtype=np.int64),  # short enough to be read at once
        np.zeros((0, 3), np.float32),
        np.arange(900, dtype=np.uint8)[::-1],
        np.array(3.0),
        np.arange(600.0).reshape(2, 3, 100).transpose(2, 0, 1),
    ],
    ids=["half", "fortran", "short", "empty", "reversed", "scalar", "transposed"],
)
def test_arrays_in_pickles(tmp_path, array, protocol):
    path = tmp_path / "a.pkl"
    value = {"before": [array, np.int64(7)], "again": array, "after": ("x" * 10, None, True)}
    path.write_bytes(pickle.dumps(value, protocol))
    found = read_pickle(path)
    assert found["before"][1] == 7 and found["after"] == value["after"]
    for stored in (found["before"][0], found["again"]):
        assert isinstance(stored, StoredArray)
        np.testing.assert_array_equal(stored.load(), array, strict=True)


def test_python_2_wrote_names_as_bytes(tmp_path):
    path = tmp_path / "a.pkl"
    name = b"S001C001P001R001A001.skeleton"
    path.write_bytes(b"\x80\x02]U" + bytes([len(name)]) + name + b"a]K\x00a\x86.")
    assert read_pickle(path) == ([name.decode()], [0])


class Executed:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "call",
    [
        (eval, ("open('executed', 'w')",)),
        (np.load, ("executed",)),
        (np.dtype, ("O", False, True)),
        (np.ndarray, ((2,),)),
        (getattr, ("x", "upper")),
    ],
    ids=["eval", "load", "objects", "array", "getattr"],
)
def test_nothing_is_executed(tmp_path, monkeypatch, call, protocol):
    monkeypatch.chdir(tmp_path)
    (path,) = written("pyskl", tmp_path)
    path.write_bytes(pickle.dumps({"annotations": [Executed(*call)]}, protocol))
    with pytest.raises(UserError, match="cannot be used") as caught:
        read("pyskl", tmp_path)
    assert str(caught.value).count("\n") == 0
    assert not (tmp_path / "executed").exists()


def test_memory_does_not_grow_with_the_arrays(tmp_path, monkeypatch):
    """Only what is not in arrays is read, and its size is limited."""
    monkeypatch.setattr(numpy_pickles, "_LARGEST", 4000)
    (path,) = written("pyskl", tmp_path)
    value = pickle.loads(path.read_bytes())
    value["more"] = np.zeros((1000, 1000))
    path.write_bytes(pickle.dumps(value))
    assert len(read("pyskl", tmp_path)) == len(NAMES)
    value["more"] = ["x" * 200 + str(i) for i in range(20)]
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match="more than 4000 bytes besides arrays"):
        read("pyskl", tmp_path)


def changed(folder, **changes):
    """Rewrites the pickle of pyskl with changes of its second annotation."""
    path = folder / "ntu60_3danno.pkl"
    value = pickle.loads(path.read_bytes())
    annotation = value["annotations"][1]
    annotation |= changes
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_dir": "walk"}, r"annotation 1 \(walk\): the name is not SsssCcccPppp"),
        ({"frame_dir": None}, "annotation 1: found no name with a label"),
        ({"label": 60}, "found label 60 where its name says 59, counting from 0"),
        ({"label": "60"}, "found no name with a label"),
        ({"total_frames": 5}, r"shape \(2, 4, 25, 3\) and total_frames 5 where"),
        ({"keypoint": None}, "found no array under the key keypoint"),
        ({"keypoint": np.zeros((1, 4, 17, 3))}, "found an array of shape .* where .1 or 2"),
        ({"keypoint": np.zeros((3, 4, 25, 3))}, "found an array of shape .* where .1 or 2"),
        ({"keypoint": np.zeros((1, 4, 25, 3))}, "found no body"),
        ({"keypoint": np.full((1, 4, 25, 3), 300.0)}, "found a coordinate beyond 100"),
        ({"keypoint": np.full((1, 4, 25, 3), np.nan)}, "found a coordinate beyond 100"),
        ({"keypoint": np.ones((1, 4, 25, 3), bool)}, "found elements of type |b1"),
    ],
)
def test_a_flaw_of_pyskl_is_named(tmp_path, changes, message):
    written("pyskl", tmp_path)
    changed(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        read("pyskl", tmp_path)


def test_flaws_of_ctrgcn_are_named(tmp_path):
    (path,) = written("ctrgcn", tmp_path)
    with np.load(path) as found:
        good = dict(found)

    def refused(save=np.savez, **changes):
        save(path, **(good | changes))
        with pytest.raises(UserError) as caught:
            read("ctrgcn", tmp_path)
        return str(caught.value)

    x, y = good["x_train"], good["y_train"]
    assert "x_train is compressed, so it cannot be read in parts" in refused(np.savez_compressed)
    # Joint, xyz, person in place of person, joint, xyz.
    turned = x.reshape(*x.shape[:2], 2, 75).swapaxes(2, 3).reshape(x.shape)
    assert "the 150 values are person, joint, xyz" in refused(x_train=turned)
    assert "shape (2, 6, 75) where x_train (recordings, frames, 150)" in refused(
        x_train=x[..., :75]
    )
    assert "found an array of shape (2,) where y_train (2, 60)" in refused(y_train=y.argmax(1))
    assert "found 0 actions in y_train where one" in refused(y_train=0 * y)
    assert "found no body" in refused(x_train=0 * x)
    assert "in Fortran's order" in refused(x_train=np.asfortranarray(x))
    np.savez(path, x_train=x)
    with pytest.raises(UserError, match="no item named 'y_train.npy'"):
        read("ctrgcn", tmp_path)


def test_flaws_of_the_authors_form_are_named(tmp_path):
    written("authors", tmp_path)
    data, lengths, labels = (
        tmp_path / f"train_{kind}" for kind in ("data_joint.npy", "num_frame.npy", "label.pkl")
    )
    good, names = np.load(data), pickle.loads(labels.read_bytes())

    def refused(**changes):
        np.save(data, changes.get("data", good))
        np.save(lengths, changes.get("lengths", [3, 3]))
        labels.write_bytes(pickle.dumps(changes.get("names", names)))
        with pytest.raises(UserError) as caught:
            read("authors", tmp_path)
        return str(caught.value)

    assert "where (recordings, 3, frames, 25, 2)" in refused(data=good.swapaxes(1, 4))
    assert "spine (joint 1) away from the origin" in refused(data=good + 1)
    assert "shape (1,) where one number for each" in refused(lengths=[3])
    assert "found 0 frames" in refused(lengths=[0, 3])
    assert "found no pair" in refused(names={})
    assert "found 1 labels of 2 names" in refused(names=(names[0], [0]))
    assert "found label 1 where its name says 0" in refused(names=(names[0], [1, 7]))
    data.unlink()
    with pytest.raises(UserError, match="lacks train_data_joint.npy; add it"):
        read("authors", tmp_path)


def test_counts_of_labels_may_be_arrays(tmp_path):
    written("authors", tmp_path)
    for path in tmp_path.glob("*_label.pkl"):
        names, labels = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps((names, np.array(labels))))
    assert [label for _, label, _ in read("authors", tmp_path)] == [0, 7, 59]


@pytest.mark.parametrize("function", [in_npy, lambda path: in_npz(path, ["x"]), read_pickle])
def test_a_file_of_another_kind_is_refused(tmp_path, function):
    for content in (b"", b"text\n", b"\x93NUMPY", b"PK\x03\x04", b"\x80\x04"):
        path = tmp_path / "a"
        path.write_bytes(content)
        with pytest.raises(ValueError):
            function(path)


def test_damage_in_an_archive_is_found(tmp_path):
    (path,) = written("ctrgcn", tmp_path)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="Bad CRC-32"):
        read("ctrgcn", tmp_path)


def damaged(rng, path, content):
    """A mutant; of an archive usually a new one of a mutant, with right checksums."""
    if path.suffix != ".npz" or rng.random() < 0.3:
        return binary_mutant(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    members[name] = binary_mutant(rng, members[name])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutants_are_read_as_by_numpy_and_pickle_or_refused(tmp_path, monkeypatch, form, count):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(f"{form} {count}")
    equal = refused = 0
    for number in range(count):
        if number % 100 == 0:
            for path in tmp_path.iterdir():
                path.unlink()
            protocol, numpy = rng.choice((2, 3, 4, 5)), rng.choice((1, 2))
            files = {path: path.read_bytes() for path in written(form, tmp_path, protocol, numpy)}
        path = rng.choice(list(files))
        path.write_bytes(damaged(rng, path, files[path]))
        try:
            actual = read(form, tmp_path)
        except UserError as error:
            assert str(error).count("\n") == 0 and str(error).isprintable()
            refused += 1
        else:
            assert_same(actual, PLAIN[form](tmp_path))
            equal += 1
        path.write_bytes(files[path])
    assert equal > count // 20 and refused > count // 20
    assert sorted(tmp_path.iterdir()) == sorted(files)
