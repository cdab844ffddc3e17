"""`pcm3_jax.embed` and `pcm3_jax.predict`: formats, output, live frames, one sentence for flaws."""

import csv
import dataclasses
import io
import json
import os
import runpy
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from pcm3_jax import embed, predict
from pcm3_jax.data.joint_layouts import LAYOUTS
from pcm3_jax.data.normalization import normalize_sequence, select_bodies
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model as library
from pcm3_jax.inference import model_file, skeleton_files, torch_layout
from pcm3_jax.inference.predict import read_frames
from pcm3_jax.inference.weights import ModelWeights
from pcm3_jax.runtime import commands
from tests import golden_vectors
from tests.data.body import person
from tests.data.formats.raw_writers import array_bytes, claimed, skeleton_text, video_text

CLASSES = ("wave", "jump", "sit, down")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """The golden network with a classifier of three classes."""
    tensors = golden_vectors.load_step("cutmix").init
    encoder = torch_layout.weights_from_torch(tensors, "joint", "golden").only
    kernel = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    classifier = {"kernel": kernel, "bias": np.zeros(3, np.float32)}
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    heads = {"classifier": classifier}
    model_file.save(path, ModelWeights.of(encoder, heads=heads, classes=CLASSES))
    return path


@pytest.fixture(scope="module")
def model(model_path):
    return library.load(model_path)


def moves(frames, persons=1, seed=0):
    rng = np.random.default_rng(seed)
    walk = 0.05 * rng.normal(size=(frames, persons, 25, 3)).cumsum(axis=0)
    return (rng.normal(size=(persons, 25, 3)) + walk + [0, 0, 3]).astype(np.float32)


def irds_text(skeleton):
    return "\n".join(",".join(f"{x:.6f}" for x in frame.ravel()) for frame in skeleton).encode()


@pytest.fixture
def raw(tmp_path):
    """One sequence in every format, and the encoder's expected input: {name: (T, M, 25, 3)}."""
    one, two = moves(20), moves(30, persons=2, seed=1)
    (tmp_path / "any name.skeleton").write_bytes(skeleton_text([list(frame) for frame in two]))
    (tmp_path / "video.txt").write_bytes(video_text(two))
    (tmp_path / "recording.txt").write_bytes(irds_text(one))
    np.save(tmp_path / "one.npy", one)
    np.savez(tmp_path / "some.npz", batch=np.stack([two, -two]), single=one)
    return {
        "any name.skeleton": select_bodies(two), "video.txt": two, "recording.txt": one,
        "one.npy": one, "some.npz:batch[0]": two, "some.npz:batch[1]": -two,
        "some.npz:single": one,
    }  # fmt: skip


def test_every_format_is_embedded(model, model_path, raw, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = ["any name.skeleton", "video.txt", "recording.txt", "one.npy", "some.npz"]
    embed.run([*names, f"--model={model_path}", "--out=out.npz"])
    assert capsys.readouterr().out == "out.npz: 7 sequences, 32 features\n"
    with np.load("out.npz") as found:
        features = found["features"]
        assert features.dtype == np.float32 and found["names"].tolist() == list(raw)
    # Text files hold six or seven digits.
    np.testing.assert_allclose(features, model.embed(list(raw.values())), atol=1e-4)
    embed.run([*names, f"--model={model_path}", "--out=out.csv"])
    embed.run([*names, f"--model={model_path}"])
    message, _, standard_output = capsys.readouterr().out.partition("\n")
    assert (
        message.startswith("out.csv: 7") and standard_output == (tmp_path / "out.csv").read_text()
    )
    header, *rows = csv.reader(io.StringIO(standard_output))
    assert header == ["name", *(f"feature_{i}" for i in range(32))]
    assert [row[0] for row in rows] == list(raw)
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), features)
    assert not list(tmp_path.glob(".partial*"))


def test_files_may_be_normalised_already(model, model_path, tmp_path):
    normalised = normalize_sequence(moves(20))
    np.save(tmp_path / "x.npy", normalised)
    out = tmp_path / "out.npz"
    embed.run([str(tmp_path / "x.npy"), f"--model={model_path}", f"--out={out}", "--normalized"])
    expected = model.embed(normalised, normalize=False)
    np.testing.assert_allclose(np.load(out)["features"], expected, atol=1e-6)


def test_only_the_first_300_frames_of_a_skeleton_file_are_read(tmp_path):
    (tmp_path / "x.skeleton").write_bytes(skeleton_text(list(moves(301))))
    (recording,) = skeleton_files.read(str(tmp_path / "x.skeleton"))
    assert recording.skeletons.shape == (300, 2, 25, 3)


@pytest.mark.parametrize("name", ["a,b\n\"c'.npy", "\x1b[31m.npy", "=1+1.npy", "\udc80.npy"])
def test_hostile_file_names_are_quoted_or_escaped(model_path, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    np.save(name, moves(5))
    for out in ("out.csv", "out.npz"):
        embed.run([name, f"--model={model_path}", f"--out={out}"])
    text = (tmp_path / "out.csv").read_bytes().decode("utf-8", "surrogateescape")
    quoted = f"'{name}" if name.startswith("=") else name  # no formula of a spreadsheet
    assert list(csv.reader(io.StringIO(text, newline="")))[1][0] == quoted
    assert np.load("out.npz")["names"].tolist() == [name]
    capsys.readouterr()
    predict.run([name, f"--model={model_path}"])
    embed.run([name, f"--model={model_path}"])
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_predictions_are_printed_for_each_file(
    model, model_path, raw, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    predict.run(["one.npy", "some.npz", f"--model={model_path}", "--k=2"])
    lines = capsys.readouterr().out.splitlines()
    names = list(raw)[3:]
    for line, name in zip(lines, names, strict=True):
        (expected,) = model.classify(raw[name], k=2)
        shown = ", ".join(f"{label} {100 * share:.1f} %" for label, share in expected)
        assert line == f"{name}: {shown}"


def feed(monkeypatch, frames):
    """Puts frames (T, M, J, 3) on the standard input, the third with commas, after a blank line."""
    lines = [" ".join(map(str, frame.ravel())) for frame in frames]
    lines[2] = lines[2].replace(" ", ", ")
    text = "\n" + "\r\n".join(lines)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_live_predictions_are_those_of_the_last_seconds(model, model_path, capsys, monkeypatch):
    frames = np.concatenate([np.zeros((4, 2, 25, 3)), moves(12, persons=2)])
    feed(monkeypatch, frames)
    predict.run(["-", f"--model={model_path}", "--every=4", "--window=0.5", "--rate=20", "--k=1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "frame 1: nobody seen"
    before = None
    for number, line in zip((5, 9, 13), lines[1:], strict=True):
        # A label is shown once it is the same twice.
        (((label, share),),) = model.classify(frames[max(0, number - 10) : number], k=1)
        assert line.endswith(f"({label} {100 * share:.1f} %)")
        if label == before:
            assert line.startswith(f"frame {number}: {label} (")
        before = label
    assert lines[1].startswith("frame 5: nothing (")


def test_live_predictions_as_json(model, model_path, capsys, monkeypatch):
    frames = np.repeat(moves(1), 9, axis=0)
    feed(monkeypatch, frames)
    predict.run(["-", f"--model={model_path}", "--json"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    (labels,) = model.classify(frames[:6])
    assert (first["frame"], first["label"]) == (1, None)
    assert (second["frame"], second["label"]) == (6, labels[0][0])
    for (label, share), (expected, probability) in zip(second["labels"], labels, strict=True):
        assert label == expected and abs(share - probability) < 1e-5


def test_live_frames_of_other_layouts(model, model_path, capsys, monkeypatch):
    frames = moves(6)[:, :, :17]
    frames[2:4, 0, 9] = np.nan
    feed(monkeypatch, frames)
    arguments = ["-", f"--model={model_path}", "--layout=coco_17", "--json"]
    predict.run(arguments)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    (labels,) = model.classify(frames, layout="coco_17")
    np.testing.assert_allclose([p for _, p in last["labels"]], [p for _, p in labels], atol=1e-5)
    feed(monkeypatch, moves(3))
    with pytest.raises(UserError, match="75 numbers where a frame of 17 joints has 51"):
        predict.run(arguments)


def test_a_joint_that_is_nan_is_missing():
    words = ["1"] * 75
    words[4] = "nan"
    line = " ".join(words).encode()
    ((_, frame),) = read_frames(io.BytesIO(line))
    np.testing.assert_array_equal(frame[0, 1], 0)
    np.testing.assert_array_equal(np.delete(frame[0], 1, axis=0), 1)
    ((_, frame),) = read_frames(io.BytesIO(line), joints=5)
    assert frame.shape == (5, 5, 3)
    np.testing.assert_array_equal(np.isnan(frame).nonzero()[:2], [[0] * 3, [1] * 3])


def test_frames_that_cannot_be_centred_are_named(model_path, capsys, monkeypatch):
    pose = np.ones((1, 1, 25, 3))
    pose[0, 0, 1] = 0
    feed(monkeypatch, np.repeat(pose, 3, axis=0))
    predict.run(["-", f"--model={model_path}"])
    assert capsys.readouterr().out == ("frame 1: nobody seen, as the spine's middle is missing\n")


def test_sigterm_leaves_nothing_half_written(tmp_path):
    program = """
import sys, time
from pathlib import Path
from pcm3_jax.runtime import commands
from pcm3_jax.runtime.files import replaced

def run(argv):
    with replaced(Path(argv[0])) as partial:
        partial.write_text("half")
        print("written", flush=True)
        time.sleep(60)

commands.main(run)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "out.html")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        process.terminate()
        assert process.wait(timeout=60) == 143
    assert list(tmp_path.iterdir()) == []


def test_a_live_line_comes_before_the_next_frame_is_sent(model_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "pcm3_jax.predict", "-", f"--model={model_path}", "--every=1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    for number, frame in enumerate(moves(3), 1):
        process.stdin.write(" ".join(map(str, frame.ravel())) + "\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(f"frame {number}: ")
    out, err = process.communicate("1 2 3\n", timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err == (
        "error: Standard input, line 4: found 3 numbers where a frame of 25 joints has 75 for each "
        "person; other joints need --layout.\n"
    )


@pytest.mark.parametrize(
    "line, sentence",
    [
        (b"1 " * 74, "found 74 numbers"),
        (b"1 " * 76, "found 76 numbers"),
        (b"inf " * 75, "found 'inf' where a number"),
        (b"1e9 " * 75, "not within 100 metres"),
        (b"one " * 75, "found 'one' where a number"),
        (b"1_0 " * 75, "found '1_0' where a number"),
        (b"\xff\x00" * 100, "found 1 numbers"),
        (b"1" * 10**6, "found 1 numbers"),
        (b"1" * 10**5 + b" 1" * 74, "found 1 numbers"),
        (b"0" * 1000 + b"1 " + b"0" * 70000 + b" 1" * 74, "found 2 numbers"),
    ],
)
def test_lines_that_are_no_frames_are_refused(line, sentence):
    good = " ".join(["1"] * 75).encode() + b"\n"
    frames = read_frames(io.BytesIO(good + line + b"\n" + good))
    assert next(frames)[1].shape == (1, 25, 3)
    with pytest.raises(UserError, match=f"line 2: .*{sentence}"):
        next(frames)


def with_nan():
    array = moves(5)
    array[2, 0, 3, 0] = np.nan
    return array


def zip_of(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


GOOD_LINE = irds_text(np.ones((1, 25, 3))) + b"\n"


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("x.npy", b"", "x.npy holds no usable arrays"),
        ("x.npy", b"\x93NUMPY garbage", "x.npy holds no usable arrays"),
        ("x.npy", array_bytes(np.array([print], object), allow_pickle=True), "Python objects"),
        ("x.npy", array_bytes(np.zeros((2, 3))), r"x.npy has shape \(2, 3\)"),
        ("x.npy", array_bytes(np.zeros((2, 17, 3))), "17 joints are those of coco_17 or h36m_17 "),
        ("x.npy", array_bytes(np.zeros((0, 2, 25, 3))), "x.npy is empty"),
        ("x.npy", array_bytes(np.zeros((0, 5, 2, 25, 3))), "x.npy holds no sequence"),
        ("x.npy", array_bytes(np.zeros((5, 2, 25, 3), complex)), "type complex128"),
        ("x.npy", array_bytes(np.full((5, 2, 25, 3), "x")), "type <U1"),
        ("x.npy", array_bytes(with_nan()), "x.npy has a coordinate in frame 2 that is not finite"),
        ("x.npy", claimed("(9999999999999,)"), "x.npy holds no usable arrays"),
        ("x.npz", b"PK\x03\x04", "x.npz holds no usable arrays"),
        ("x.npz", array_bytes(moves(5), np.savez)[:900], "x.npz holds no usable arrays"),
        ("x.npz", array_bytes(with_nan(), np.savez), "x.npz:arr_0 has a coordinate in frame 2"),
        ("x.npz", zip_of("x.npy", bytes(100)), "members that are not arrays"),
        ("x.npz", zip_of("../../x", b"text"), "members that are not arrays"),
        ("x.npz", zip_of("x.npy", claimed("(2**40,)")), "x.npz holds no usable arrays"),
        ("x.npz", zip_of("x.npy", claimed("(9999999999999,)")), "x.npz holds no usable arrays"),
        ("x.npz", zip_of("x.npy", bytes(10)) + b"end", "x.npz"),
        ("x.txt", b"", "x.txt: found an empty file"),
        ("x.txt", GOOD_LINE * 3 + b"1,2,3\n", "x.txt, line 4: found 3 values where a frame has 75"),
        ("x.txt", GOOD_LINE + GOOD_LINE.replace(b"1.0", b"inf", 1), "x.txt, line 2"),
        ("x.txt", b"1 2 3\n", "x.txt, line 1: found 3 values where a frame has 75 or 150"),
        ("x.skeleton", b"2\n1\n", "x.skeleton, line 2: found the end of the file"),
        ("x.skeleton", b"99999999\n", "x.skeleton, line 1: found the end"),
        ("x.pkl", b"", "x.pkl has an unknown format; supported are .skeleton"),
        ("x", b"", "x has an unknown format"),
    ],
)  # fmt: skip
def test_flawed_files_are_refused(model_path, tmp_path, monkeypatch, name, content, sentence):
    """The whole command fails with a message that says what to do, and leaves no file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    np.save("good.npy", moves(5))
    with pytest.raises(UserError, match=sentence) as error:
        embed.run(["good.npy", name, f"--model={model_path}", "--out=out.npz"])
    assert "\n" not in str(error.value) and "on_bad_file" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"good.npy", name}


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["missing.npy"], "missing.npy cannot be read: No such file"),
        (["folder.npy"], "folder.npy cannot be read: Is a directory"),
        (["good.npy", "--out=out.txt"], "--out=out.txt must end in .npz, .csv or .jsonl"),
        (["good.npy", "--out=missing/out.npz"], "missing/out.npz cannot be written: No such"),
        (["good.npy", f"--out={'x' * 300}.npz"], "cannot be written: File name too long"),
        (["good.npy", "--model=missing"], "There is no missing"),
        (["good.npy", "--evil"], "unrecognized arguments: --evil; --help"),
        ([], "the following arguments are required: FILE"),
    ],
)
def test_mistakes_on_the_command_line(model_path, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    np.save("good.npy", moves(5))
    (tmp_path / "folder.npy").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=sentence):
        embed.run([f"--model={model_path}", *arguments])
    assert sorted(tmp_path.iterdir()) == before


def test_predict_wants_a_classifier_before_any_frame(model_path, tmp_path):
    path = tmp_path / "encoder.safetensors"
    model_file.save(path, ModelWeights.of(model_file.load(model_path).only))
    with pytest.raises(UserError, match="no classifier"):
        predict.run(["-", f"--model={path}"])
    with pytest.raises(UserError, match="cannot be read along with files"):
        predict.run(["-", "x.npy", f"--model={model_path}"])


def test_a_user_error_is_one_line_and_exit_code_1(monkeypatch):
    def fail(arguments):
        raise UserError("What, where, what to do.")

    with pytest.raises(SystemExit) as stop:
        commands.main(fail)
    assert stop.value.code == "error: What, where, what to do."


@pytest.mark.parametrize("command", ["convert", "embed", "fit", "predict", "show", "summary"])
def test_help_shows_how(command, monkeypatch, capsys):
    """Runs the modules as `python -m` does."""
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    # Another test of this process may have imported it.
    monkeypatch.delitem(sys.modules, f"pcm3_jax.{command}", raising=False)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"pcm3_jax.{command}", run_name="__main__")
    assert stop.value.code == 0
    assert f"usage: pcm3 {command} " in capsys.readouterr().out


@pytest.fixture
def azure(tmp_path, monkeypatch):
    """A file of Azure Kinect's joints with a lost wrist, and the encoder's expected input."""
    monkeypatch.chdir(tmp_path)
    array = np.random.default_rng(0).normal(size=(20, 1, 32, 3)).astype(np.float32)
    array[5:8, 0, 7] = np.nan
    np.save("azure.npy", array)
    np.savez("two.npz", batch=np.stack([array, array]), flat=array[:, 0])
    return array


def test_files_of_other_layouts(model, model_path, azure, capsys):
    embed.run(["azure.npy", "two.npz", f"--model={model_path}", "--layout=azure_kinect_32",
               "--out=out.npz"])  # fmt: skip
    expected = model.embed(azure, layout="azure_kinect_32")
    with np.load("out.npz") as found:
        assert len(found["names"]) == 4
        np.testing.assert_allclose(found["features"], expected.repeat(4, axis=0), atol=1e-6)
    predict.run(["azure.npy", f"--model={model_path}", "--layout=azure_kinect_32"])
    label, share = model.classify(azure, layout="azure_kinect_32")[0][0]
    assert f"azure.npy: {label} {100 * share:.1f} %" in capsys.readouterr().out


@pytest.mark.parametrize("command", [embed, predict])
@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["azure.npy", "--layout=azure"], "no joint layout 'azure'; use one of kinect_v2_25"),
        (["azure.npy", "--layout=smpl_24"], r"azure.npy: found an array of shape \(20, 1, 32, 3\)"),
        (["azure.npy"], r"azure.npy has shape \(20, 1, 32, 3\).*32 joints are those of azure_kin"),
        (["azure.npy", "--layout=none.toml"], "none.toml cannot be read: No such file"),
    ],
)
def test_layouts_that_do_not_fit(model_path, azure, command, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        command.run([*arguments, f"--model={model_path}"])


def test_a_folder_and_an_archive_are_read_like_their_files(
    model, model_path, raw, tmp_path, capsys
):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("any name.skeleton", "one.npy", "some.npz"):
            archive.write(tmp_path / name, f"sub/{name}")
    found = skeleton_files.read(str(tmp_path / "all.zip"))
    names = [recording.name.removeprefix(f"{tmp_path}/all.zip/sub/") for recording in found]
    assert names == [n for n in raw if "txt" not in n]
    for recording, name in zip(found, names, strict=True):
        np.testing.assert_allclose(
            model.embed(recording.skeletons), model.embed(raw[name]), atol=1e-4
        )
    (tmp_path / "all.zip").unlink()
    assert len(skeleton_files.read(str(tmp_path))) == 7
    embed.run([str(tmp_path), f"--model={model_path}", f"--out={tmp_path}/out.jsonl"])
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == 7 and len(lines[0]["features"]) == 32
    (only,) = [line for line in lines if line["name"].endswith("one.npy")]
    np.testing.assert_allclose(only["features"], model.embed(raw["one.npy"])[0], atol=1e-4)


def test_predictions_are_written_as_tables(model, model_path, raw, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["one.npy", "video.txt", f"--model={model_path}", "--k=2"]
    for out in ("out.csv", "out.jsonl", "out.npz"):
        predict.run([*arguments, f"--out={out}"])
    capsys.readouterr()
    predict.run([*arguments, "--json"])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ]
    assert [found["name"] for found in printed] == ["one.npy", "video.txt"]
    rows = [[found["name"], *pair] for found in printed for pair in found["labels"]]
    header, *table = csv.reader(io.StringIO((tmp_path / "out.csv").read_text()))
    assert header == ["name", "label", "probability"]
    assert [[name, label, float(share)] for name, label, share in table] == rows
    with np.load("out.npz") as arrays:
        assert arrays["label"].tolist() == [row[1] for row in rows]
        np.testing.assert_allclose(arrays["probability"], [row[2] for row in rows], rtol=1e-6)


def test_bystanders_are_left_out_with_a_note(model_path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights = dataclasses.replace(model_file.load(model_path), persons=1)
    model_file.save(tmp_path / "one_person.safetensors", weights)
    model = library.load("one_person.safetensors")
    alone = moves(20)
    still = np.broadcast_to(alone[:1] + [1.0, 0, 0], alone.shape).astype(np.float32)
    for name, persons in (("first", [alone, still]), ("second", [still, alone])):
        np.save(f"{name}.npy", np.concatenate(persons, axis=1))
    predict.run(["first.npy", "second.npy", "--model=one_person.safetensors", "--k=1"])
    ((expected,),) = model.classify(alone, k=1)
    output = capsys.readouterr()
    for line in output.out.splitlines():
        assert line.endswith(f": {expected[0]} {100 * expected[1]:.1f} %")
    assert (
        output.err.count("1 of 1 recordings show more persons than the model was trained on") == 2
    )
    assert library.load(model_path).persons == 2
    predict.run(["first.npy", f"--model={model_path}", "--k=1", "--persons=1"])
    assert capsys.readouterr().out.endswith(f": {expected[0]} {100 * expected[1]:.1f} %\n")
    with pytest.raises(UserError, match="persons is 3; it must be 1 or 2"):
        predict.run(["first.npy", f"--model={model_path}", "--persons=3"])


def test_the_only_person_there_is_the_first_one(model, tmp_path):
    alone = moves(20)
    second = np.concatenate([np.zeros_like(alone), alone], axis=1)
    np.testing.assert_allclose(model.embed(second), model.embed(alone), atol=1e-6)
    (tmp_path / "video.txt").write_bytes(video_text(second))
    (recording,) = skeleton_files.read(str(tmp_path / "video.txt"))
    np.testing.assert_allclose(model.embed(recording.skeletons), model.embed(alone), atol=1e-4)
    # Third persons are kept if they move most.
    crowd = np.concatenate([alone[:1].repeat(20, axis=0) + i for i in (1, 2)] + [second], axis=1)
    found = model.embed(crowd)
    kept = np.concatenate([alone, crowd[:, 1:2]], axis=1)
    other = np.concatenate([alone, crowd[:, :1]], axis=1)
    assert min(np.abs(found - model.embed(x)).max() for x in (kept, other)) < 1e-5


def test_built_data_are_embedded_as_they_are_normalised(model_path, data_dir, tmp_path, capsys):
    out = tmp_path / "out.npz"
    embed.run([
        "synthetic_skeletons/n64x32:test", f"--model={model_path}", f"--out={out}",
        f"--data_dir={data_dir}",
    ])  # fmt: skip
    assert len(np.load(out)["names"]) > 1


def test_a_layout_of_ones_own_is_a_file(model, model_path, azure, tmp_path, capsys):
    joints = LAYOUTS["azure_kinect_32"].joints
    toml = (
        f"joints = {list(joints)}\n[kinect_v2]\nspine_base = 'pelvis'\nspine_mid = 'spine_navel'\n"
    )
    toml += "shoulder_left = 'shoulder_left'\nshoulder_right = 'shoulder_right'"
    (tmp_path / "mine.toml").write_text(toml)
    embed.run(["azure.npy", f"--model={model_path}", "--layout=mine.toml"])
    (line,) = list(csv.reader(io.StringIO(capsys.readouterr().out)))[1:]
    (expected,) = model.embed(azure, layout="mine.toml")
    np.testing.assert_allclose(np.array(line[1:], float), expected, atol=1e-6)
    missing = np.ones(25, bool)
    missing[[0, 1, 4, 8]] = False
    body = azure[:, :, [0, 1] + [0] * 2 + [joints.index("shoulder_left")] + [0] * 3
                 + [joints.index("shoulder_right")] + [0] * 16]  # fmt: skip
    np.testing.assert_allclose(model.embed(body, missing)[0], expected, atol=1e-6)


def test_implausible_bodies_are_noted_once(model_path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, factor in (("a", 10), ("b", 10), ("c", 1)):
        np.save(name, factor * person())
    embed.run(["a.npy", "b.npy", "c.npy", f"--model={model_path}"])
    assert capsys.readouterr().err == (
        "note: 2 of 3 recordings: trunk 4.67 m where 0.25 to 0.8 m is usual; probably decimetres, "
        "divide by 10\n"
    )
    embed.run(["c.npy", f"--model={model_path}"])
    assert not capsys.readouterr().err
