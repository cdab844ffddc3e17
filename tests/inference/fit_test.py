"""`pcm3_jax.fit`, `Model.fit` and `Model.search`: from a table of labels to predictions."""

import io
import sys

import numpy as np
import pytest

import pcm3_jax
from pcm3_jax import convert, fit, predict
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file, torch_layout
from tests import golden_vectors
from tests.inference.model_test import walk
from tfds_builders.synthetic_skeletons import generator

LABELS = ("bow", "jump", "wave")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """Two encoders of the golden network."""
    folder = tmp_path_factory.mktemp("model")
    tensors = golden_vectors.load_step("cutmix").init
    for stream in ("joint", "bone"):
        weights = torch_layout.weights_from_torch(tensors, stream, "golden")
        model_file.save(folder / stream, weights)
    convert.run(["export", str(folder / "joint"), str(folder / "bone"), str(folder / "both")])
    return str(folder / "both")


@pytest.fixture(scope="module")
def model(model_path):
    return pcm3_jax.load(model_path)


def recording(action, take, joints=25):
    """Recordings of an action are alike."""
    noise = 0.02 * np.random.default_rng(take).normal(size=(24, 1, joints, 3))
    return (walk(24, persons=1, seed=action, joints=joints) + noise).astype(np.float32)


def write_table(folder, rows, joints=25):
    lines = ["file,label,performer,split"]
    for number, (action, take, label) in enumerate(rows):
        np.save(folder / f"{number}.npy", recording(action, take, joints))
        lines.append(f"{number}.npy,{label},{take},{'train' if take % 2 else 'test'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five takes of three actions, in a table; the working directory is elsewhere."""
    (tmp_path / "own").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_table(tmp_path / "own", [(a, take, LABELS[a]) for a in range(3) for take in range(1, 6)])
    return tmp_path / "own"


def test_from_a_table_to_predictions(model_path, folder, monkeypatch, capsys):
    fit.run([str(folder / "labels.csv"), f"--model={model_path}", "--out=mine.safetensors"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "15 recordings of 3 labels by 5 performers; all are used, whatever their split"
    )
    assert lines[1].startswith("held-out performers: 100.0 % of 15 recordings recognised (chance: ")
    assert lines[2:7] == [
        "confusion matrix (rows: the label; columns: the label recognised):",
        "           1  2  3",
        "  1  bow   5  .  .",
        "  2  jump  .  5  .",
        "  3  wave  .  .  5",
    ]
    assert lines[7].startswith(
        "mine.safetensors: 3 labels, 0.1 MB; online, the last 24 frames count, and below "
    )
    assert len(lines) == 8

    predict.run([str(folder / "7.npy"), "--model=mine.safetensors", "--k=1"])
    assert "7.npy: jump " in capsys.readouterr().out
    mine = pcm3_jax.load("mine.safetensors")
    assert mine.classes == LABELS and 0 < mine.threshold < 1
    assert mine.provenance["classifier"]["held_out_accuracy"] == 1

    def text(frames):
        return "\n".join(" ".join(map(str, frame.ravel())) for frame in frames)

    nobody = np.concatenate([recording(2, 9), 0.01 * walk(40, persons=1, seed=9)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text(nobody).encode())))
    predict.run(["-", "--model=mine.safetensors", "--k=1", "--every=1"])
    shown = capsys.readouterr().out.splitlines()
    online = mine.online(every=1)
    for number, (frame, line) in enumerate(zip(nobody, shown, strict=True), 1):
        ((label, share),) = mine.labels(online.push(frame)[None], 1)[0]
        held = "nothing" if online.label is None else online.label
        assert line == f"frame {number}: {held} ({label} {100 * share:.1f} %)"


def test_online_recognisers_see_the_last_frames_as_embed_does(model):
    recordings = [recording(a, take)[: 6 + take] for a in range(2) for take in range(5)]
    mine = model.fit(recordings, ["bow"] * 5 + ["jump"] * 5)
    frames = walk(12, persons=2, seed=5)
    lost = np.zeros((12, 2, 25), bool)
    lost[4, 0, 7] = True
    online = mine.online(every=1)  # of 10 frames, which nine in ten recordings do not exceed
    assert online.push(np.zeros((1, 25, 3))) is None
    for time in range(12):
        feature = online.push(frames[time], lost[time])
        if time >= 9:
            last = slice(time - 9, time + 1)
            np.testing.assert_allclose(feature, mine.embed(frames[last], lost[last])[0], atol=1e-6)
    assert online.frames == 13
    online.reset()
    first = mine.embed(frames[:1])[0]
    np.testing.assert_allclose(online.push(frames[0]), first, atol=1e-6)
    # Without a classifier all frames since the start.
    plain = model.online(every=1)
    for time, frame in enumerate(frames):
        expected = model.embed(frames[: time + 1])[0]
        np.testing.assert_allclose(plain.push(frame), expected, atol=1e-6)
        assert plain.label is None and plain.labels == []
    with pytest.raises(UserError, match="Frame 1 .*shape"):
        online.push(np.zeros(75))


def test_a_model_is_fitted_in_python_as_on_the_command_line(model, model_path, folder):
    fit.run([str(folder / "labels.csv"), f"--model={model_path}", "--out=mine.safetensors"])
    skeletons = [np.load(folder / f"{i}.npy") for i in range(15)]
    labels, performers = np.repeat(LABELS, 5), list(range(1, 6)) * 3
    recogniser = model.fit(skeletons, labels, performers)
    saved = pcm3_jax.load("mine.safetensors")
    assert recogniser.provenance == saved.provenance and not model.classes
    assert recogniser.classify(skeletons[0]) == saved.classify(skeletons[0])
    assert recogniser.classify(skeletons[0])[0][0][0] == "bow"
    # A second fit replaces the classifier; the encoders are kept.
    again = recogniser.fit(skeletons, ["x", *labels[1:]])
    assert again.classes == (*LABELS, "x")


def test_other_layouts_and_many_labels(model_path, tmp_path, capsys):
    rows = [(a, take, f"action {a:02}") for a in range(13) for take in (1, 2)]
    rows += [(13, 1, "once"), (14, 1, "twice"), (14, 1, "twice")]
    rows[3] = (0, 2, "action 01")
    write_table(tmp_path, rows, joints=17)
    out = tmp_path / "mine.safetensors"
    fit.run([str(tmp_path / "labels.csv"), f"--model={model_path}", f"--out={out}",
             "--layout=coco_17"])  # fmt: skip
    text, notes = capsys.readouterr()
    assert "note: " in notes and "; the joints are probably in " in notes
    assert "most frequent confusions:\n  'action 01' recognised as 'action 00': 1 of 2" in text
    assert (
        "too few examples to validate: 'once' (1 recording), 'twice' (2 recordings of one "
        "performer)" in text
    )


def test_a_wrong_label_is_pointed_out(model_path, tmp_path, capsys):
    rows = [(a, take, LABELS[a]) for a in range(3) for take in range(1, 9)]
    rows[4] = (0, 5, "wave")
    write_table(tmp_path, rows)
    out = tmp_path / "mine.safetensors"
    fit.run([str(tmp_path / "labels.csv"), f"--model={model_path}", f"--out={out}"])
    text = capsys.readouterr().out
    assert "may be mislabelled (nearest recording of another label):\n" in text
    assert "  4.npy: labelled 'wave', but like 'bow' (" in text


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda rows: rows[:1], r"labels.csv: found no line after the first"),
        (lambda rows: rows[:6], "All recordings have the label 'bow'"),
        (lambda rows: [*rows[:2], rows[6], rows[11]], "one recording of each label"),
        (lambda rows: [*rows, "gone.npy,bow,1,train"], "gone.npy cannot be read: No such file"),
        (lambda rows: [*rows, "0.npy,bow,1,train"], "labels.csv, line 17: found '0.npy' a second"),
        (lambda rows: [*rows, "x.npy,bow,1"], "labels.csv, line 17: found 3 values"),
        (lambda rows: [*rows, "many.npy,bow,1,train"], "many.npy holds 2 sequences, but line 17"),
        (lambda rows: ["file,label", *rows[1:]], "labels.csv, line 1: found "),
    ],
)
def test_tables_that_cannot_be_fitted(model_path, folder, change, sentence):
    np.save(folder / "many.npy", np.stack([recording(0, 1)] * 2))
    table = folder / "labels.csv"
    table.write_text("\n".join(change(table.read_text().splitlines())))
    with pytest.raises(UserError, match=sentence) as error:
        fit.run([str(table), f"--model={model_path}", "--out=mine.safetensors"])
    assert "\n" not in str(error.value) and "on_bad_file" not in str(error.value)


def test_a_missing_table_and_a_folder_that_cannot_be_written(model_path, folder):
    with pytest.raises(UserError, match="none.csv cannot be read: No such file"):
        fit.run(["none.csv"])
    with pytest.raises(UserError, match="no/mine cannot be written"):
        fit.run([str(folder / "labels.csv"), f"--model={model_path}", "--out=no/mine"])


def test_search_finds_the_nearest_recordings(model):
    gallery = [recording(a, take) for a in range(3) for take in range(4)]
    query = [recording(1, 7), recording(2, 7)]
    found = model.search(query, gallery, k=4)
    assert found.indices.shape == found.similarities.shape == (2, 4)
    assert [set(row) for row in found.indices.tolist()] == [{4, 5, 6, 7}, {8, 9, 10, 11}]
    assert (np.diff(found.similarities) <= 0).all() and found.similarities.max() <= 1 + 1e-6
    features = model.embed(gallery)
    same = model.search(model.embed(query), features, k=4)
    np.testing.assert_array_equal(found.indices, same.indices)
    cosine = features[4] @ features[5] / np.linalg.norm(features[4]) / np.linalg.norm(features[5])
    itself = model.search(features[4:5], features, k=100)
    assert itself.indices.shape == (1, 12) and itself.indices[0, 0] == 4
    place = itself.indices[0].tolist().index(5)
    assert itself.similarities[0, place] == pytest.approx(cosine, abs=1e-5)
    with pytest.raises(UserError, match="k is 0"):
        model.search(features, features, k=0)
    with pytest.raises(UserError, match="no sequence"):
        model.search(features, [])


def test_a_built_data_set_is_fitted(model_path, data_dir, tmp_path, capsys):
    out = tmp_path / "fitted.safetensors"
    name = "synthetic_skeletons/n64x32"
    flags = [f"--model={model_path}", f"--data_dir={data_dir}", f"--out={out}"]
    fit.run([f"{name}:train", *flags])
    assert "64 recordings of 18 labels" in capsys.readouterr().out
    assert set(pcm3_jax.load(out).classes) == set(generator.LABELS)
    with pytest.raises(UserError, match=r"There is no data set 'absent'"):
        fit.run(["absent:train", *flags])
