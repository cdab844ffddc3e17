"""NTU RGB+D from the arrays of other programs: as from raw files, but for what the arrays lack."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from pcm3_jax.data import recordings as data_recordings
from pcm3_jax.data.normalization import (
    center_sequence,
    no_normalization,
    normalization_of,
    normalize_sequence,
)
from pcm3_jax.data.skeleton import missing_joints
from tests.data.formats import array_writers as writers
from tests.data.formats.raw_writers import skeleton_text
from tests.tfds_builders import irds_as_ntu
from tests.tfds_builders.built import read_built
from tfds_builders import build
from tfds_builders.ntu_rgbd import ntu_rgbd_dataset_builder as ntu

# Set-ups, cameras and performers of both splits of every protocol.
NAMES = [
    f"S{setup:03d}C{camera:03d}P{subject:03d}R001A{action:03d}"
    for setup, subjects, action in ((1, (1, 3), 7), (2, (2, 6), 60), (18, (45, 41), 61))
    for camera in (1, 2)
    for subject in subjects
]
PROTOCOLS = {config.name: config for config in ntu.Builder.BUILDER_CONFIGS if not config.form}


def split_of(protocol, name):
    return PROTOCOLS[protocol].split_of(ntu._recording(name))


def is_train(protocol):
    return lambda name: split_of(protocol, name) == "train"


def some_recordings(names=NAMES):
    """Two persons in every third; the first joint at 7 digits, as raw files have them."""
    found = {}
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        size = (5 + number % 3, 2, 25, 3)
        skeleton = (rng.normal(size=size) + [0, 0, 3]).astype(np.float32)
        skeleton[:, 1] *= number % 3 == 0
        # The first person moves most, so that raw files keep the order.
        skeleton[:, 1] *= 0.5
        found[name] = skeleton
    return found


def of_60(recordings):
    return {name: skeleton for name, skeleton in recordings.items() if name < "S018"}


def write(form, folder, protocol, recordings):
    """Writes the recordings as a form; returns {name: name in the built data set}."""
    train, same = is_train(protocol), {name: name for name in recordings}
    actions = PROTOCOLS[protocol].actions
    if form == "authors":
        writers.write_authors(folder / protocol.partition("_")[2], recordings, train)
    elif form == "ctrgcn":
        path = folder / ntu._CTRGCN_FILES[protocol]
        return writers.write_ctrgcn(path, recordings, train, actions)
    else:
        splits = {protocol.partition("_")[2]: train}
        value = writers.pyskl(recordings, splits)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"ntu{actions}_3danno.pkl").write_bytes(writers.pickled(value, 2))
    return same


# Half floats of up to 6 m have steps of 4 mm, and joints half a metre apart turn skeletons.
TOLERANCE = {"authors": 2e-5, "ctrgcn": 2e-5, "pyskl": 0.1}


@pytest.mark.parametrize("form", TOLERANCE)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_is_as_from_raw_files(tmp_path, form, protocol):
    recordings = some_recordings()
    if "60" in protocol:
        recordings = of_60(recordings)
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, skeleton in recordings.items():
        frames = [[body for body in frame if body.any()] for frame in skeleton]
        (raw / f"{name}.skeleton").write_bytes(skeleton_text(frames))
    names = write(form, tmp_path / form, protocol, recordings)
    theirs = build.build(f"ntu_rgbd/{protocol}", tmp_path / "data", raw)
    ours = build.build(f"ntu_rgbd/{protocol}@{form}", tmp_path / "data", tmp_path / form)
    assert ours.info.features["label"].names == theirs.info.features["label"].names
    assert [vars(b.report)["expected_splits"] for b in (ours, theirs)] == [
        {"train": PROTOCOLS[protocol].train, "test": PROTOCOLS[protocol].test}
    ] * 2
    assert ours.report.expected_classes == theirs.report.expected_classes
    built, expected = read_built(ours), read_built(theirs)
    for split, examples in expected.items():
        assert built[split].keys() == {names[name] for name in examples}
        for name, example in examples.items():
            other = built[split][names[name]]
            assert other["label"] == example["label"]
            assert other["num_frames"] == example["num_frames"]
            if form != "ctrgcn":
                assert all(other[key] == example[key] for key in ("subject", "camera", "setup"))
            np.testing.assert_allclose(
                other["skeleton"], example["skeleton"], atol=TOLERANCE[form], rtol=0
            )


def built_skeletons(tmp_path, config):
    examples = read_built(build.build(f"ntu_rgbd/{config}", tmp_path / "data", tmp_path / "given"))
    return {name: e["skeleton"] for some in examples.values() for name, e in some.items()}


def test_the_authors_arrays_stay_as_they_are(tmp_path):
    arrays = writers.write_authors(
        tmp_path / "given", of_60(some_recordings()), is_train("ntu60_xsub")
    )
    built = built_skeletons(tmp_path, "ntu60_xsub@authors")
    assert built.keys() == arrays.keys()
    for name, skeleton in built.items():
        np.testing.assert_array_equal(skeleton, arrays[name][: len(skeleton)])
        assert not missing_joints(skeleton).any()


def test_coordinates_of_ctrgcn(tmp_path):
    recordings = of_60(some_recordings())
    # A sequence whose first frame lacks the second person, and a frame of nobody.
    recordings[NAMES[0]][0, 1] = recordings[NAMES[3]][2] = 0
    names = writers.write_ctrgcn(
        tmp_path / "given" / "NTU60_CV.npz", recordings, is_train("ntu60_xview"), frames=9
    )
    for config, normalization in {
        "ntu60_xview@ctrgcn": normalize_sequence,
        "ntu60_xview@ctrgcn_centered": center_sequence,
    }.items():
        built = built_skeletons(tmp_path, config)
        for name, skeleton in recordings.items():
            expected = normalization(skeleton)
            np.testing.assert_allclose(built[names[name]], expected, atol=2e-6, rtol=0)
            assert not missing_joints(built[names[name]]).any()


def test_coordinates_of_pyskl(tmp_path):
    recordings = of_60(some_recordings())
    write("pyskl", tmp_path / "given", "ntu60_xsub", recordings)
    recordings = {
        name: skeleton.astype(np.float16).astype(np.float32)
        for name, skeleton in recordings.items()
    }
    for config, normalization in {
        "ntu60_xsub@pyskl": normalize_sequence,
        "ntu60_xsub@pyskl_centered": center_sequence,
        "ntu60_xsub@pyskl_recorded": no_normalization,
    }.items():
        built = built_skeletons(tmp_path, config)
        assert normalization_of(f"ntu_rgbd/{config}").__name__ in (
            normalization.__name__,
            "no_normalization",
        )
        for name, skeleton in recordings.items():
            np.testing.assert_array_equal(built[name], normalization(skeleton))


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ("ntu60_xsub@authors_centered", "only normalized ones"),
        ("ntu120_xset@authors_recorded", "only normalized ones"),
        ("ntu60_xsub@ctrgcn_recorded", "only normalized or centered ones"),
    ],
)
def test_coordinates_that_a_form_lacks_are_refused(tmp_path, capsys, config, kept):
    command = [f"ntu_rgbd/{config}", f"--data_dir={tmp_path}", f"--manual_dir={tmp_path}"]
    assert build.main(command) == 1
    error = capsys.readouterr().err
    assert f"do not have these coordinates, {kept}" in error and error.count("\n") == 1


def test_one_file_of_120_actions_serves_all_protocols(tmp_path, monkeypatch, capsys):
    write("pyskl", tmp_path / "given", "ntu120_xsub", some_recordings())
    build.build("ntu_rgbd/ntu120_xsub@pyskl", tmp_path / "data", tmp_path / "given")
    monkeypatch.setattr(ntu.ntu_arrays, "load", None)  # all is parsed already
    built = read_built(
        build.build("ntu_rgbd/ntu120_xset@pyskl", tmp_path / "data", tmp_path / "given")
    )
    assert built["train"].keys() == {name for name in NAMES if is_train("ntu120_xset")(name)}
    assert "another split" not in capsys.readouterr().out
    monkeypatch.undo()
    build.build("ntu_rgbd/ntu60_xsub@pyskl", tmp_path / "data", tmp_path / "given")
    assert "left out 4: not part of NTU RGB+D 60" in capsys.readouterr().out


def test_recordings_are_reported_as_from_raw_files(tmp_path, capsys):
    missing = "S001C002P005R002A008"
    recordings = of_60(some_recordings([*NAMES, missing]))
    # Files of the other protocol: their split is not the one of the data set.
    write("authors", tmp_path / "given", "ntu60_xview", recordings)
    builder = build.build("ntu_rgbd/ntu60_xsub@authors", tmp_path / "data", tmp_path / "given")
    out = capsys.readouterr().out
    assert "6 files seen" in out and "train 4 of 40,091" in out and "test 4 of 16,487" in out
    assert f"left out 1: listed by the authors as missing or incomplete ({missing})" in out
    assert "4 recordings are in another split of" in out
    report = json.loads((Path(builder.data_path) / "report.json").read_text())
    assert len(report["warnings"]) == 3


def test_bad_recordings_are_left_out_and_reported(tmp_path, capsys):
    recordings = of_60(some_recordings())
    recordings[NAMES[2]] *= 1000
    write("pyskl", tmp_path / "given", "ntu60_xsub", recordings)
    config, data = "ntu_rgbd/ntu60_xsub@pyskl", tmp_path / "data"
    command = [config, f"--data_dir={data}", f"--manual_dir={tmp_path / 'given'}", "--workers=1"]
    assert build.main(command) == 1
    error = capsys.readouterr().err
    assert f"annotation 2 ({NAMES[2]}): found a coordinate beyond 100" in error
    assert not list((data / "ntu_rgbd").glob("ntu60*/*"))
    assert build.main([*command, "--on_bad_file=skip"]) == 0
    assert "found a coordinate beyond 100" in capsys.readouterr().out
    found = data_recordings.find(config, str(data))
    splits = tfds.builder_from_directory(str(found)).info.splits
    assert sum(split.num_examples for split in splits.values()) == len(recordings) - 1


def test_files_are_found_in_folders(tmp_path, capsys):
    recordings = of_60(some_recordings())
    for protocol in ("ntu60_xsub", "ntu60_xview"):
        write("authors", tmp_path / "AGCN", protocol, recordings)
        write("ctrgcn", tmp_path / "ctrgcn", protocol, recordings)
    data = tmp_path / "data"
    for config in ("ntu60_xview@authors", "ntu60_xview@ctrgcn"):
        folder = tmp_path / ("AGCN" if "authors" in config else "ctrgcn")
        build.build(f"ntu_rgbd/{config}", data, folder)
        assert "another split" not in capsys.readouterr().out
    shutil.copytree(tmp_path / "ctrgcn", tmp_path / "AGCN" / "more")
    shutil.copytree(tmp_path / "ctrgcn", tmp_path / "AGCN" / "again")
    for config, message in {
        "ntu60_xsub@ctrgcn": "holds 2 files NTU60_CS.npz",
        "ntu120_xset@ctrgcn": "holds no file NTU120_CSet.npz",
        "ntu120_xset@pyskl": "holds no file ntu120_3danno.pkl or ntu120_3d.pkl; unpack archives",
    }.items():
        command = [f"ntu_rgbd/{config}", f"--data_dir={data}", f"--manual_dir={tmp_path / 'AGCN'}"]
        assert build.main(command) == 1
        assert message in capsys.readouterr().err


def test_intellirehabds_in_every_form_gives_the_same_arrays(tmp_path, recordings):
    found = irds_as_ntu.skeletons(recordings)
    ours = read_built(build.build("intellirehabds", tmp_path / "data", recordings))
    for form, tolerance in TOLERANCE.items():
        given = dict(found.values())
        names = write(form, tmp_path / form, "ntu60_xsub", given)
        config = f"ntu_rgbd/ntu60_xsub@{form}"
        theirs = read_built(build.build(config, tmp_path / "data", tmp_path / form))
        for split, examples in ours.items():
            assert len(theirs[split]) == len(examples)
            for name, example in examples.items():
                other = theirs[split][names[found[name][0]]]
                assert other["label"] == example["label"]
                np.testing.assert_allclose(other["skeleton"], example["skeleton"], atol=tolerance)
