"""Models that detect or forecast: what `predict` prints, people who are absent, damaged files."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from pcm3_jax import convert, predict
from pcm3_jax.data.normalization import normalize_sequence
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model as library
from pcm3_jax.inference import model_file, torch_layout
from pcm3_jax.inference.weights import HEADS
from tests import golden_vectors

SETTINGS = {
    "detector": {"frames": 4, "stride": 2, "smoothing": 1, "threshold": 0.5},
    "forecaster": {"observed": 6, "future": 3, "hidden": 5},
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The golden network with random heads: {head: file}."""
    tensors = golden_vectors.load_step("cutmix").init
    model = torch_layout.weights_from_torch(tensors, "joint", "golden")
    found, rng = {}, np.random.default_rng(0)
    for head, values in SETTINGS.items():
        settings = HEADS[head].settings.from_dict(values)
        shapes = HEADS[head].shapes(model.only.config, settings, 2)
        arrays = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)
        found[head] = tmp_path_factory.mktemp("model") / f"{head}.safetensors"
        changes = {"heads": {head: arrays}, "head_settings": {head: settings}}
        classes = ("wave", "\x1b[1m") if head == "detector" else ()
        model_file.save(found[head], dataclasses.replace(model, classes=classes, **changes))
    return found


def moves(frames, persons=1, seed=0):
    rng = np.random.default_rng(seed)
    walk = 0.3 * rng.normal(size=(frames, persons, 25, 3)).cumsum(axis=0)
    return (rng.normal(size=(persons, 25, 3)) + walk + [0, 0, 3]).astype(np.float32)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("some.npz", one=moves(40), two=moves(30, persons=2, seed=1))
    np.save("short.npy", moves(5))
    return {"some.npz:one": moves(40), "some.npz:two": moves(30, persons=2, seed=1)}


def test_a_line_for_every_interval(paths, files, capsys):
    model = library.load(paths["detector"])
    found = model.detect(list(files.values()))
    assert sum(map(len, found)) > 1
    predict.run(["some.npz", f"--model={paths['detector']}"])
    expected = []
    for name, intervals in zip(files, found, strict=True):
        for label, start, stop, score in intervals:
            label = label if label == "wave" else ascii(label)[1:-1]
            expected.append(f"{name}: frames {start}–{stop - 1}: {label} {100 * score:.1f} %")
        if not intervals:
            expected.append(f"{name}: no action found")
    assert capsys.readouterr().out.splitlines() == expected


def test_forecasts_are_written(paths, files, capsys):
    model = library.load(paths["forecaster"])
    arguments = ["some.npz", f"--model={paths['forecaster']}"]
    predict.run(arguments)
    assert capsys.readouterr().out.splitlines() == [f"{name}: 3 frames predicted" for name in files]
    predict.run([*arguments, "--out=out.npz"])
    with np.load("out.npz") as found:
        assert found["names"].tolist() == list(files)
        expected = model.forecast(list(files.values()))
        np.testing.assert_allclose(found["poses"], expected, rtol=0, atol=1e-5)


def test_only_people_in_the_last_frame_are_predicted(paths):
    model = library.load(paths["forecaster"])
    alone = model.forecast(moves(20))
    assert alone[:, :, 0].any(axis=(-2, -1)).all() and not alone[:, :, 1].any()
    np.testing.assert_allclose(
        model.forecast(normalize_sequence(moves(20)), normalize=False), alone, rtol=0, atol=1e-6
    )
    masked = model.forecast(moves(20), np.arange(25) == 7)
    assert np.isfinite(masked).all() and np.abs(masked - alone).max() > 1e-3


@pytest.mark.parametrize(
    "head, arguments, sentence",
    [
        ("detector", ["short.npy"], "^short.npy has 5 frames, fewer than the 8 of this detector"),
        ("forecaster", ["short.npy"], "^short.npy has 5 frames, fewer than the 6 that"),
        ("detector", ["some.npz", "--out=x.txt"], "x.txt must end in .csv, .jsonl or .npz"),
        ("forecaster", ["some.npz", "--out=no/x.npz"], "no/x.npz cannot be written"),
        ("detector", ["-"], "This model has no classifier"),
    ],
)
def test_mistakes_are_one_sentence(paths, files, head, arguments, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        predict.run([*arguments, f"--model={paths[head]}"])
    assert str(error.value).count("\n") == 0 and str(error.value).endswith(".")


@pytest.mark.parametrize(
    "head, metadata, sentence",
    [
        ("detector", {"detector": '{"frames": 0}'}, "config.frames is 0"),
        ("detector", {"detector": '{"frames": "x"}'}, "config.frames is 'x'"),
        ("detector", {"detector": "{"}, "is damaged"),
        ("detector", {"detector": None}, "'detector/bias' is unknown"),
        ("detector", {"classes": '["wave"]'}, "detector/bias is float32"),
        ("detector", {"forecaster": "{}"}, "forecaster/.* is missing"),
        ("forecaster", {"forecaster": '{"hidden": 6}'}, "forecaster/.* is float32"),
    ],
)
def test_damaged_heads_are_refused(paths, tmp_path, head, metadata, sentence):
    with safe_open(paths[head], framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # As an older version wrote it, without a checksum.
        changed = file.metadata() | {"checksum": None} | metadata
    path = tmp_path / "damaged.safetensors"
    save_file(arrays, path, {key: value for key, value in changed.items() if value is not None})
    with pytest.raises(UserError, match=sentence) as error:
        library.load(path)
    assert str(error.value).count("\n") == 0


def test_intervals_and_poses_are_written_as_tables(paths, files, tmp_path, capsys):
    for head, columns in (
        ("detector", "name,start,stop,label,score"),
        ("forecaster", "name,frames"),
    ):
        arguments = ["some.npz", f"--model={paths[head]}", "--json"]
        predict.run([*arguments, "--out=out.csv"])
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        header, *rows = Path("out.csv").read_text().splitlines()
        assert header == columns
        if head == "detector":
            assert len(rows) == sum(len(result["intervals"]) for result in found)
        else:
            assert rows == [f"{result['name']},{result['frames']}" for result in found]


def test_a_full_disk_is_one_sentence(paths, tmp_path, filled):
    with filled(), pytest.raises(UserError, match=r"out.safetensors cannot be written"):
        convert.run(["export", str(paths["detector"]), str(tmp_path / "out.safetensors")])
    assert not (tmp_path / "out.safetensors").exists()


def test_a_pretraining_run_is_not_its_earlier_export(finished_run, paths):
    """Which may lie in its workdir."""
    export = finished_run[0] / model_file.MODEL_FILE
    try:
        export.write_bytes(paths["detector"].read_bytes())
        assert library.load(finished_run[0]).heads == ()
    finally:
        export.unlink()
