"""Files of several encoders: joined by `convert export`, in float16, read as one model."""

import json
import shutil

import jax
import numpy as np
import pytest
from jax import export
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import pcm3_jax
from pcm3_jax import convert
from pcm3_jax.data.normalization import normalize_sequence
from pcm3_jax.data.skeleton import STREAMS
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file, shipped_models, torch_layout
from pcm3_jax.inference.shipped_models import Shipped
from pcm3_jax.inference.weights import ModelWeights, check, join
from pcm3_jax.tasks.common import encoder_variables
from tests import golden_vectors
from tests.inference.model_test import walk


def of_stream(stream, **settings):
    """The golden network, as of one stream."""
    tensors = golden_vectors.load_step("cutmix").init
    model = torch_layout.weights_from_torch(tensors, stream, "golden")
    model.only.config.views.update(settings)
    return model


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """{stream: file of its encoder}."""
    folder = tmp_path_factory.mktemp("parts")
    files = {stream: folder / f"{stream}.safetensors" for stream in STREAMS}
    for stream, path in files.items():
        model_file.save(path, of_stream(stream))
    return files


@pytest.fixture(scope="module")
def joined(parts, tmp_path_factory):
    path = tmp_path_factory.mktemp("joined") / "base.safetensors"
    convert.run(["export", *map(str, parts.values()), str(path)])
    return path


def content(path):
    """The metadata and arrays of a file."""
    with safe_open(path, framework="numpy") as file:
        return file.metadata(), load_file(path)


def unit(features):
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def test_features_are_those_of_each_encoder_at_unit_length(parts, joined):
    model, sequences = pcm3_jax.load(joined), [walk(frames) for frames in (10, 30)]
    assert list(model.encoders) == list(parts) == ["joint", "bone", "motion"]
    assert model.features == 96
    singles = [pcm3_jax.load(path) for path in parts.values()]
    for resample in (True, False):
        features = model.embed(sequences, resample=resample)
        expected = [unit(single.embed(sequences, resample=resample)) for single in singles]
        assert features.dtype == np.float32
        # Parameters are rounded to 11 bits.
        np.testing.assert_allclose(features, np.concatenate(expected, axis=1), atol=5e-3)


def test_only_parameters_of_encoders_are_stored_in_float16(joined, tmp_path):
    metadata, arrays = content(joined)
    kinds = {(*name.split("/")[1:3], array.dtype.name) for name, array in arrays.items()}
    assert kinds == {("params", "encoder", "float16"), ("batch_stats", "encoder", "float32")}
    # Nothing is lost by another save.
    pcm3_jax.load(joined).save(tmp_path / "again.safetensors")
    again, same = content(tmp_path / "again.safetensors")
    assert again == metadata
    jax.tree.map(np.testing.assert_array_equal, same, arrays)


def test_what_is_saved_is_what_was_joined():
    model = join([of_stream("joint"), of_stream("bone")])
    assert all(
        np.array_equal(x, x.astype(np.float16))
        for weights in model.encoders.values()
        for x in jax.tree.leaves(weights.tree["params"])
    )


def test_joined_models_join_again_and_streams_may_repeat(joined, parts, tmp_path):
    out = tmp_path / "four.safetensors"
    convert.run(["export", str(joined), str(parts["motion"]), str(out)])
    assert list(pcm3_jax.load(out).encoders) == ["joint", "bone", "motion", "motion_2"]


def test_online_features_are_those_of_every_prefix(joined):
    model, frames = pcm3_jax.load(joined), walk(12)
    online = model.online(window=0)
    assert online.push(np.zeros((1, 25, 3))) is None
    normalised = normalize_sequence(frames)
    for time, frame in enumerate(frames):
        whole = model.embed(normalised[: time + 1], normalize=False, resample=False)
        np.testing.assert_allclose(online.push(frame), whole[0], atol=1e-5)
    assert online.frames == 13


def test_one_program_for_all_encoders(joined, tmp_path):
    convert.run(["stablehlo", str(joined), str(tmp_path / "encoder.bin")])
    call = export.deserialize(bytearray((tmp_path / "encoder.bin").read_bytes())).call
    poses = np.stack([normalize_sequence(walk(64, seed=seed)) for seed in range(2)])
    expected = pcm3_jax.load(joined).embed(poses, normalize=False, resample=False)
    np.testing.assert_allclose(call(poses), expected, atol=1e-5)


def test_encoders_of_different_inputs_share_no_program(parts, tmp_path):
    model_file.save(tmp_path / "long.safetensors", of_stream("bone", frames=80))
    convert.run(["export", str(parts["joint"]), str(tmp_path / "long.safetensors"),
                 str(tmp_path / "both.safetensors")])  # fmt: skip
    with pytest.raises(UserError, match="differ in config.views.frames"):
        convert.run(["stablehlo", str(tmp_path / "both.safetensors"), str(tmp_path / "x.bin")])
    # Each has its own views.
    assert pcm3_jax.load(tmp_path / "both.safetensors").embed(walk(20)).shape == (1, 64)


def test_an_evaluation_gets_the_encoder_of_its_stream(joined, run_config):
    run_config.model.update(hidden=16, layers=3)
    run_config.views.update(frames=64, stream="bone")
    run_config.encoder = str(joined)
    found = encoder_variables(run_config)
    expected = model_file.load(joined).encoders["bone"].tree
    jax.tree.map(
        np.testing.assert_array_equal, found["params"], {"encoder": expected["params"]["encoder"]}
    )


def test_what_needs_one_encoder_says_so(joined, parts, tmp_path):
    with pytest.raises(UserError, match=r"3 encoders \(joint, bone, motion\), but one is needed"):
        convert.run(["to_torch", str(joined), str(tmp_path / "x.pth.tar")])
    with pytest.raises(UserError, match="stablehlo takes one MODEL; only export joins several"):
        convert.run(["stablehlo", *map(str, parts.values()), str(tmp_path / "x.bin")])
    with pytest.raises(UserError, match="several encoders, and so no decoder"):
        pcm3_jax.load(joined).reconstruct(walk(5), np.arange(25) < 4)
    convert.run(["export", str(parts["joint"]), str(parts["bone"]), str(tmp_path / "x")])
    with pytest.raises(UserError, match="encoders for joint, bone, but none for .*'motion'"):
        model_file.load(tmp_path / "x", stream="motion")


def test_provenance_tells_data_and_steps(finished_run, parts, tmp_path):
    out = tmp_path / "joined.safetensors"
    convert.run(["export", str(finished_run[0]), str(parts["bone"]), str(out)])
    started = json.loads((finished_run[0] / "provenance.json").read_text())[-1]
    assert pcm3_jax.load(out).provenance == {
        "joint": {
            "data": "synthetic_skeletons/n64x32", "steps": 24,
            "version": started["version"], "commit": started["commit"],
        }
    }  # fmt: skip


def change(path, out, *, metadata=None, arrays=None):
    """Writes a file with changed metadata or arrays, without a checksum, as older versions did."""
    old, tensors = content(path)
    del old["checksum"]
    save_file(tensors | (arrays or {}), out, old | (metadata or {}))


def test_every_changed_byte_is_noticed(joined, tmp_path):
    content = joined.read_bytes()
    path = tmp_path / "changed.safetensors"
    for place in np.random.default_rng(0).integers(len(content), size=40):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UserError, match="damaged|safetensors file|unknown|fit"):
            pcm3_jax.load(path)


KERNEL = "bone/params/encoder/gru/layer_0/input_kernel"


@pytest.mark.parametrize(
    "metadata, arrays, sentence",
    [
        ({"encoders": "{"}, {}, "is damaged"),
        ({"encoders": "[]"}, {}, "is damaged"),
        ({"encoders": "{}"}, {}, "is damaged|unknown"),
        ({"encoders": '{"joint": {}, "evil": {}}'}, {}, "is damaged.*bone"),
        ({"provenance": "3"}, {}, "is damaged"),
        ({"threshold": '"x"'}, {}, "is damaged"),
        ({"threshold": "NaN"}, {}, "threshold is nan"),
        ({"window": "-1"}, {}, "window is -1"),
        ({"window": "[]"}, {}, "is damaged"),
        ({}, {KERNEL: np.zeros(3, np.float16)}, "encoder bone, does not fit .*kernel is float32"),
        ({}, {KERNEL: np.zeros(3, np.int8)}, "encoder bone, does not fit .*kernel is int8"),
        ({}, {"evil/x": np.zeros(3, np.float32)}, "evil' is unknown"),
        ({}, {"classifier/kernel": np.zeros((96, 2), np.float32)}, "classifier/bias' is missing"),
        ({}, {"classifier": np.zeros((96, 2), np.float32)}, "does not fit"),
    ],
)
def test_damaged_files_are_refused(joined, tmp_path, metadata, arrays, sentence):
    path = tmp_path / "x.safetensors"
    change(joined, path, metadata=metadata, arrays=arrays)
    with pytest.raises(UserError, match=sentence) as error:
        pcm3_jax.load(path)
    assert "\n" not in str(error.value) and "x.safetensors" in str(error.value)


def test_a_parameter_beyond_float16_is_refused():
    model = of_stream("joint")
    model.only.tree["params"]["encoder"]["input_norm"]["scale"][0] = 1e6
    with pytest.raises(UserError, match="The joined model.*scale has a value that is not finite"):
        join([model, of_stream("bone")])


@pytest.fixture
def shipped(joined, tmp_path, monkeypatch):
    """A folder of shipped models with small stand-ins for base and irds."""
    monkeypatch.setattr(shipped_models, "FOLDER", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    model = model_file.load(joined)
    classifier = {"kernel": np.eye(96, 2, dtype=np.float32), "bias": np.zeros(2, np.float32)}
    model_file.save(
        tmp_path / "shipped" / "base.safetensors",
        ModelWeights(model.encoders, {"classifier": classifier}, ("a", "b"), 0.5, half=True),
    )
    return tmp_path / "shipped"


def test_models_are_loaded_by_name(shipped, joined, parts):
    assert list(pcm3_jax.available()) == ["base", "base-motion", "irds"]
    poses = walk(20)
    base, motion, irds = (pcm3_jax.load(name) for name in pcm3_jax.available())
    np.testing.assert_array_equal(base.embed(poses), pcm3_jax.load(joined).embed(poses))
    assert not base.classes and base.threshold == 0
    expected = pcm3_jax.load(parts["motion"]).embed(poses)
    np.testing.assert_allclose(motion.embed(poses), expected, rtol=0.1, atol=0.01)
    assert list(motion.encoders) == ["motion"] and motion.features == 32
    assert irds.classes == ("a", "b") and irds.threshold == 0.5
    assert {name for name, _ in irds.classify(poses)[0]} == {"a", "b"}


def test_a_name_goes_before_a_path(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_file.save(tmp_path / "base", of_stream("joint"))
    assert len(pcm3_jax.load("base").encoders) == 3
    assert len(pcm3_jax.load("./base").encoders) == 1
    assert len(pcm3_jax.load(tmp_path / "base").encoders) == 1


def test_an_unknown_name_lists_the_known(shipped):
    with pytest.raises(UserError, match=r"no basic: .*the models base, base-motion, irds\.$"):
        pcm3_jax.load("basic")


@pytest.mark.parametrize("name", ["base", "base-motion", "irds"])
def test_a_damaged_or_lost_installation_is_one_sentence(shipped, name):
    path = shipped / "base.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{name!r} of this installation .*install pcm3") as error:
        pcm3_jax.load(name)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(UserError, match=f"{name!r} of this installation .*There is no"):
        pcm3_jax.load(name)
    assert pcm3_jax.available() == {}


def test_layouts_other_than_those_of_training_are_noted():
    assert shipped_models.layout_note("base", None) is None
    assert shipped_models.layout_note("base", "kinect_v2_25") is None
    assert shipped_models.layout_note("runs/own", "coco_17") is None
    assert "not on those of azure_kinect_32" in shipped_models.layout_note(
        "base-motion", "azure_kinect_32"
    )


SHIPPED = [
    pytest.param(name, model, id=name)
    for name, model in shipped_models.MODELS.items()
    if (shipped_models.FOLDER / model.file).exists()
]


@pytest.mark.parametrize("name, model", SHIPPED)
def test_shipped_models(name: str, model: Shipped):
    loaded = pcm3_jax.load(name)
    streams = [model.stream] if model.stream else list(STREAMS)
    assert list(loaded.encoders) == streams
    assert bool(loaded.classes) == model.heads
    assert np.isfinite(loaded.embed(walk(30, persons=1))).all()
    assert np.isfinite(loaded.online(window=0).push(walk(1)[0])).all()
    for stream in streams:
        assert loaded.provenance[stream].keys() >= {"data", "steps", "version", "commit"}
    # All models of the repository.
    assert sum(path.stat().st_size for path in shipped_models.FOLDER.iterdir()) < 12e6


def test_a_model_has_an_encoder():
    with pytest.raises(UserError, match="has no encoder"):
        check(ModelWeights({}), "It")


def test_a_checkpoint_that_a_run_deletes_meanwhile_gives_way_to_the_next(
    finished_run, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    steps = sorted(run.glob("checkpoints/*"), key=lambda path: int(path.name))
    of_run = model_file._of_run

    def while_deleting(config, latest, *rest):
        if latest == steps[-1]:
            shutil.rmtree(latest)
        return of_run(config, latest, *rest)

    monkeypatch.setattr(model_file, "_of_run", while_deleting)
    made = model_file.load(run).provenance
    assert next(iter(made.values()))["steps"] == int(steps[-2].name)


def test_an_evaluation_that_names_itself_as_its_encoder_is_refused(tmp_path, run_config):
    run_config.task, run_config.encoder = "linear_eval", str(tmp_path)
    (tmp_path / "config.json").write_text(run_config.to_json())
    arrays = {"kernel": np.zeros((16, 2)), "bias": np.zeros(2), "classes": np.array(["a", "b"])}
    np.savez(tmp_path / "classifier.npz", **arrays)
    with pytest.raises(UserError, match="names itself as its encoder"):
        pcm3_jax.load(tmp_path)
