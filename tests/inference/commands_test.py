"""`pcm3_jax.embed` and `pcm3_jax.predict`: formats, output, live frames, one sentence for flaws."""

import csv
import io
import os
import runpy
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from pcm3_jax.data.normalization import normalize_sequence, select_bodies
from pcm3_jax.errors import UserError
from pcm3_jax.inference import embed, model_file, predict, skeleton_files, torch_layout
from pcm3_jax.inference import model as library
from pcm3_jax.inference.weights import ModelWeights
from pcm3_jax.runtime import commands
from tests import golden_vectors
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
    assert list(csv.reader(io.StringIO(text, newline="")))[1][0] == name
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


def test_live_predictions_follow_the_frames(model, model_path, capsys, monkeypatch):
    frames = moves(6, persons=2)
    lines = [" ".join(map(str, frame.ravel())) for frame in frames]
    lines[2] = lines[2].replace(" ", ",")
    text = " ".join(["0"] * 75) + "\n\n" + "\r\n".join(lines)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    predict.run(["-", f"--model={model_path}"])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "frame 1: nobody seen yet"
    for number, line in enumerate(rest, 1):
        features = model.embed(frames[:number], resample=False)
        ((label, share), *_) = model.labels(features)[0]
        assert line.startswith(f"frame {number + 1}: {label} {100 * share:.1f} %, ")
    assert len(rest) == 6


def test_a_joint_that_is_nan_is_missing():
    words = ["1"] * 75
    words[4] = "nan"
    ((_, frame),) = predict.read_frames(io.BytesIO(" ".join(words).encode()))
    np.testing.assert_array_equal(frame[0, 1], 0)
    np.testing.assert_array_equal(np.delete(frame[0], 1, axis=0), 1)


def test_normalised_frames_without_the_flag_get_a_hint(model_path, capsys, monkeypatch):
    pose = np.zeros((25, 3))
    pose[5] = 0.3
    text = " ".join(map(str, pose.ravel()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    predict.run(["-", f"--model={model_path}"])
    assert "nobody seen yet: the spine's middle is missing or zero (if normalised, use --norm" in (
        capsys.readouterr().out
    )


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
        [sys.executable, "-m", "pcm3_jax.predict", "-", f"--model={model_path}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    for number, frame in enumerate(moves(3), 1):
        process.stdin.write(" ".join(map(str, frame.ravel())) + "\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(f"frame {number}: ")
    out, err = process.communicate("1 2 3\n", timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err == "error: Standard input, line 4: found 3 numbers where a frame has 75 or 150.\n"


@pytest.mark.parametrize(
    "line, sentence",
    [
        (b"1 " * 74, "found 74 numbers"),
        (b"1 " * 76, "found 76 numbers"),
        (b"inf " * 75, "not within 100 metres"),
        (b"1e9 " * 75, "not within 100 metres"),
        (b"one " * 75, "something other than numbers"),
        (b"\xff\x00" * 100, "found 1 numbers"),
        (b"1" * 10**6, "found 1 numbers"),
        (b"1" * 10**5 + b" 1" * 74, "found 1 numbers"),
        (b"0" * 1000 + b"1 " + b"0" * 70000 + b" 1" * 74, "found 2 numbers"),
    ],
)
def test_lines_that_are_no_frames_are_refused(line, sentence):
    good = " ".join(["1"] * 75).encode() + b"\n"
    frames = predict.read_frames(io.BytesIO(good + line + b"\n" + good))
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
        ("x.npy", array_bytes(np.zeros((2, 25, 3))), r"x.npy has shape \(2, 25, 3\)"),
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
        ("x.txt", GOOD_LINE * 3 + b"1,2,3\n", "x.txt, line 4: 3 numbers instead of 75; repair"),
        ("x.txt", GOOD_LINE + GOOD_LINE.replace(b"1.0", b"inf", 1), "x.txt, line 2"),
        ("x.txt", b"1 2 3\n", "x.txt, line 1: found 3 values where a frame has 150"),
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
        (["good.npy", "--out=out.txt"], "--out=out.txt must end in .npz or .csv"),
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


@pytest.mark.parametrize("command", ["convert", "embed", "fit", "predict"])
def test_help_shows_how(command, monkeypatch, capsys):
    """Runs the modules as `python -m` does."""
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    # Another test of this process may have imported it.
    monkeypatch.delitem(sys.modules, f"pcm3_jax.{command}", raising=False)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"pcm3_jax.{command}", run_name="__main__")
    assert stop.value.code == 0
    assert f"usage: python -m pcm3_jax.{command} " in capsys.readouterr().out


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
        (["azure.npy"], r"azure.npy has shape \(20, 1, 32, 3\)"),
    ],
)
def test_layouts_that_do_not_fit(model_path, azure, command, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        command.run([*arguments, f"--model={model_path}"])


def test_standard_input_has_one_layout(model_path):
    with pytest.raises(UserError, match="--layout is for files"):
        predict.run(["-", f"--model={model_path}", "--layout=coco_17"])
