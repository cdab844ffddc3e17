"""`pcm3_jax.load`, and the model's methods with valid and invalid arrays."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

import pcm3_jax
from pcm3_jax import convert
from pcm3_jax.data.joint_layouts import LAYOUTS, to_kinect_v2
from pcm3_jax.data.normalization import SPINE, normalize_sequence
from pcm3_jax.data.skeleton import unflatten_frames
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model as library
from pcm3_jax.inference import torch_layout
from pcm3_jax.inference.online import OnlineNormalization, build_step
from pcm3_jax.inference.weights import ModelWeights
from pcm3_jax.main import run
from pcm3_jax.runtime.parallel import Devices
from pcm3_jax.tasks import common
from tests import golden_vectors
from tests.running import checkpoint_steps
from tests.tfds_builders.built import read_built
from tfds_builders import build


@pytest.fixture(scope="module")
def weights():
    """The golden network: 3 layers of 16, decoder and prompts."""
    tensors = golden_vectors.load_step("cutmix").init
    return torch_layout.weights_from_torch(tensors, "joint", "golden").only


@pytest.fixture(scope="module")
def model(weights):
    return library.Model(ModelWeights.of(weights))


def encoder_of(model):
    (encoder,) = model.encoders.values()
    return encoder


def inputs(model, skeletons, mask=None):
    """The batches that the only encoder sees: (views, visible, rows)."""
    ((encoder, sequences),) = model._prepared(skeletons, mask, True)
    return encoder.views.central(sequences)


def changed(weights, **settings):
    config = weights.config.copy()
    for key, value in settings.items():
        section, name = key.split("__")
        setattr(getattr(config, section), name, value)
    return library.Model(ModelWeights.of(dataclasses.replace(weights, config=config)))


def walk(frames, persons=2, seed=0, joints=25):
    """People who move smoothly through the room, (frames, persons, joints, 3) metres."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=(persons, joints, 3))
    steps = 0.02 * rng.normal(size=(frames, persons, joints, 3)).cumsum(axis=0)
    return (start + steps + [0, 0, 3]).astype(np.float32)


def test_importing_the_package_imports_neither_jax_nor_numpy():
    check = "import sys, pcm3_jax; sys.exit(bool({'jax', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
    assert pcm3_jax.load is library.load and {"Model", "load"} <= set(dir(pcm3_jax))
    with pytest.raises(AttributeError, match="lode"):
        _ = pcm3_jax.lode


def test_features_are_those_of_evaluation(finished_run, run_config):
    run_config.encoder = str(finished_run[0])
    devices = Devices(run_config.mapping)
    embedder, variables = common.encoder(run_config, devices)
    _, split = common.read_splits(run_config, devices)
    expected = embedder.central(variables, split)
    frames = np.asarray(split.frames).reshape(-1, 2, 25, 3)
    ends = zip(split.start, split.start + split.length, strict=True)
    sequences = [frames[start:end] for start, end in ends]
    model = pcm3_jax.load(finished_run[0])
    features = model.embed(sequences, normalize=False)
    assert features.dtype == np.float32 and features.shape == (32, model.features)
    np.testing.assert_allclose(features, expected, atol=1e-6)


def test_a_run_a_checkpoint_and_an_export_are_one_model(finished_run, tmp_path):
    workdir = finished_run[0]
    steps = checkpoint_steps(workdir)
    convert.run(["export", str(workdir), str(tmp_path / "model.safetensors")])
    paths = (workdir, str(workdir / "checkpoints" / str(steps[-1])), tmp_path / "model.safetensors")
    features = [pcm3_jax.load(path).embed(walk(30)) for path in paths]
    np.testing.assert_array_equal(features[0], features[1])
    np.testing.assert_array_equal(features[0], features[2])
    earlier = pcm3_jax.load(workdir / "checkpoints" / str(steps[0])).embed(walk(30))
    assert np.abs(earlier - features[0]).max() > 1e-4


@pytest.mark.parametrize("pooling", [("last",), ("last", "mean", "max")])
def test_a_linear_evaluation_brings_its_classifier(whitened_model, run_config, tmp_path, pooling):
    run_config.update(task="linear_eval", encoder=str(whitened_model))
    run_config.eval.pooling = pooling
    # Its views are those of its own training, not the encoder's.
    run_config.data.max_frames = 40
    run_config.views.eval_crop_ratio = 0.8
    results = run(run_config, tmp_path / "probe")
    model = pcm3_jax.load(tmp_path / "probe")
    _, split = common.read_splits(run_config, Devices(run_config.mapping))
    frames = np.asarray(split.frames).reshape(-1, 2, 25, 3)
    sequences = [frames[s : s + n] for s, n in zip(split.start, split.length, strict=True)]
    labels = model.classify(sequences, normalize=False)
    assert model.classes == tuple(split.classes)
    assert model.config.data == run_config.data
    right = [split.classes[true] in [name for name, _ in found] for true, found in
             zip(split.label, labels, strict=True)]  # fmt: skip
    assert np.mean(right) == pytest.approx(results["top5"])
    convert.run(["export", str(tmp_path / "probe"), str(tmp_path / "probe.safetensors")])
    again = pcm3_jax.load(tmp_path / "probe.safetensors").classify(sequences, normalize=False)
    assert again == labels


def test_labels_come_by_probability(weights):
    rng = np.random.default_rng(0)
    classifier = {
        "kernel": rng.normal(size=(32, 3)).astype(np.float32), "bias": np.zeros(3, np.float32),
    }  # fmt: skip
    heads = {"classifier": classifier}
    model = library.Model(ModelWeights.of(weights, heads=heads, classes=("a", "b", "c")))
    (labels,) = model.classify(walk(20), k=5)
    shares = [share for _, share in labels]
    assert {name for name, _ in labels} == {"a", "b", "c"}
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    assert model.classify(walk(20), k=1) == [labels[:1]]
    with pytest.raises(UserError, match="k is 0"):
        model.classify(walk(20), k=0)


def test_lists_and_arrays_and_batches_give_the_same_features(model):
    sequences = [walk(frames, persons=1 + frames % 2, seed=frames) for frames in (1, 7, 64, 90, 65)]
    together = model.embed(sequences)
    for sequence, feature in zip(sequences, together, strict=True):
        np.testing.assert_allclose(model.embed(sequence)[0], feature, atol=1e-6)
    batch = np.stack([walk(20, seed=seed) for seed in range(3)])
    np.testing.assert_allclose(model.embed(batch), model.embed(list(batch)), atol=1e-6)
    np.testing.assert_allclose(
        model.embed(batch),
        model.embed([normalize_sequence(one) for one in batch], normalize=False),
        atol=1e-6,
    )
    # More than the largest batch.
    many = model.embed([batch[0]] * 70)
    np.testing.assert_allclose(many, np.repeat(many[:1], 70, axis=0), atol=1e-6)


def test_only_the_first_max_frames_are_used_as_in_evaluation(model):
    long = walk(100_000)
    assert np.isfinite(model.embed(long)).all()
    normalised = normalize_sequence(long)[:300]
    np.testing.assert_allclose(
        model.embed(long), model.embed(normalised, normalize=False), atol=1e-6
    )


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_online_features_agree_with_embed_on_every_prefix(weights, stream):
    build_step.cache_clear()  # Other tests have equal networks with other parts.
    model = changed(weights, views__stream=stream)
    rng = np.random.default_rng(1)
    frames = normalize_sequence(walk(40))
    missing = rng.random((40, 2, 25)) < 0.2
    online = model.online(window=0, normalize=False)
    for time in range(40):
        feature = online.push(frames[time], missing[time])
        prefix = slice(time + 1)
        whole = model.embed(frames[prefix], missing[prefix], normalize=False, resample=False)
        np.testing.assert_allclose(feature, whole[0], atol=1e-5)
    assert online.frames == 40
    # The same work for every frame: one program, whose input does not grow.
    assert encoder_of(model).step._cache_size() == 1
    online.reset()
    first = model.embed(frames[:1], normalize=False, resample=False)[0]
    np.testing.assert_allclose(online.push(frames[0]), first, atol=1e-5)
    assert np.isfinite(online.push(np.zeros((1, 25, 3)))).all()


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_joints_that_are_zero_are_missing_online_too(weights, stream):
    model = changed(weights, views__stream=stream)
    frames = normalize_sequence(walk(12))
    lost = np.zeros((12, 2, 25), bool)
    lost[5:7, 0, 7] = True
    zeros = np.where(lost[..., None], 0, frames)
    online, told = (model.online(window=0, normalize=False) for _ in range(2))
    for time in range(12):
        np.testing.assert_array_equal(online.push(zeros[time]), told.push(frames[time], lost[time]))
    whole = model.embed(zeros, normalize=False, resample=False)
    expected = model.embed(frames, lost, normalize=False, resample=False)
    np.testing.assert_array_equal(whole, expected)


def test_online_frames_are_normalised_as_the_data_set_was(model):
    frames = walk(8)
    online, expected = model.online(window=0), model.online(window=0, normalize=False)
    for _ in range(2):
        # Nobody is there yet.
        assert online.push(np.zeros((2, 25, 3))) is None and online.frames == 1
        for raw, normalised in zip(frames, normalize_sequence(frames), strict=True):
            np.testing.assert_allclose(online.push(raw), expected.push(normalised), atol=1e-5)
        online.reset()
        expected.reset()


def test_two_online_encoders_are_independent(model):
    first, second = (model.online(window=0, normalize=False) for _ in range(2))
    frames = normalize_sequence(walk(6))
    alone = [first.push(frame) for frame in frames]
    for frame, expected in zip(frames, alone, strict=True):
        np.testing.assert_array_equal(second.push(frame), expected)
        first.push(-frame)


def test_a_bidirectional_model_encodes_whole_sequences_only(weights):
    model = changed(weights, model__recurrence="bidirectional")
    with pytest.raises(UserError, match="bidirectional"):
        model.online(window=0, normalize=False)
    sequences = [normalize_sequence(walk(frames)) for frames in (5, 20)]
    features = model.embed(sequences, normalize=False, resample=False)
    network, variables = encoder_of(model).network, encoder_of(model).variables
    for sequence, feature in zip(sequences, features, strict=True):
        expected = network.apply(variables, sequence[None], method=type(network).embed)
        np.testing.assert_allclose(feature, expected[0], atol=1e-5)


def test_online_normalisation_is_that_of_whole_sequences():
    frames = walk(12)
    online = OnlineNormalization(normalize_sequence)
    assert online(np.zeros((2, 25, 3))) is None
    found = np.stack([online(frame) for frame in frames])
    np.testing.assert_allclose(found, normalize_sequence(frames), atol=1e-6)
    # A person who left is not filled in; without a spine, its last position is the centre.
    lost = frames[3].copy()
    lost[1], lost[0, SPINE] = 0, 0
    found = online(lost)
    assert not found[1].any() and not found[0, SPINE].any()
    moved = frames[3].copy()
    moved[0, SPINE] = frames[11, 0, SPINE]
    expected = normalize_sequence(np.stack([frames[0], moved]))[1, 0]
    np.testing.assert_allclose(np.delete(found[0], SPINE, 0), np.delete(expected, SPINE, 0),
                               atol=1e-6)  # fmt: skip


def test_missing_joints_are_zero_for_the_network_and_between_frames(model):
    frames, missing = walk(30), np.zeros((30, 2, 25), bool)
    missing[10:20, 0, 5], missing[:, 1, 7] = True, True
    holed = frames.copy()
    holed[missing] = np.nan
    ((views, seen, rows),) = inputs(model, holed, missing)
    views, seen = np.asarray(views)[0], np.asarray(seen)[0]
    assert rows == 1 and (views[~seen] == 0).all()
    assert not seen[:, 1, 7].any() and 0 < seen[:, 0, 5].sum() < 64
    ((whole, _, _),) = inputs(model, frames)
    np.testing.assert_allclose(views[seen], np.asarray(whole)[0][seen], atol=1e-6)
    # Coordinates of masked joints are ignored.
    np.testing.assert_array_equal(model.embed(holed, missing), model.embed(frames, missing))


@pytest.mark.parametrize("stream, count", [("joint", 1), ("bone", 4), ("motion", 1)])
def test_what_is_computed_from_a_missing_joint_is_missing(weights, stream, count):
    """The shoulder's centre, joint 20, is parent of four other bones, and of itself."""
    model = changed(weights, views__stream=stream)
    ((views, seen, _),) = inputs(model, walk(30), np.arange(25) == 20)
    assert (np.asarray(views)[~np.asarray(seen)] == 0).all()
    assert (~np.asarray(seen)[0, 0]).sum(axis=-1).tolist() == [count + (stream == "bone")] * 2


def test_normalisation_interpolates_missing_anchor_joints(model):
    """Spine, hip and shoulders of a person walking steadily, missing for a while."""
    frames = np.repeat(walk(1), 30, axis=0) + 0.1 * np.arange(30)[:, None, None, None]
    missing = np.zeros((30, 2, 25), bool)
    missing[5:12, 0] = True
    missing[20:25, 0, [0, 1, 4, 8]] = True
    ((_, (found,)),) = model._prepared(frames, missing, True)
    ((_, (whole,)),) = model._prepared(frames, None, True)
    np.testing.assert_allclose(found.poses[~missing], whole.poses[~missing], atol=1e-5)
    assert not found.poses[missing].any()


def test_a_mask_follows_a_person_who_enters_late(model):
    frames, missing = walk(20), np.zeros((20, 2, 25), bool)
    frames[:6, 1] = 0
    missing[10, 1, 3] = True
    ((_, (found,)),) = model._prepared(frames, missing, True)
    # Normalisation moves the person to the start.
    assert np.argwhere(~found.visible).tolist() == [[4, 1, 3], [18, 1, 3]]
    assert not found.poses[~found.visible].any()


def test_reconstruction_fills_masked_joints_only(weights):
    """With a decoder of constant output."""
    tree = jax.tree.map(np.array, weights.tree)
    decoder = tree["params"]["decoder"]["reconstruct"]
    decoder["kernel"][:], decoder["bias"][:] = 0, np.arange(150)
    model = library.Model(ModelWeights.of(dataclasses.replace(weights, tree=tree)))
    hidden = np.isin(np.arange(25), (0, 1, 2, 3, 20))[None, :] & np.array([[True], [False]])
    found = model.reconstruct(walk(30), hidden)
    assert found.skeletons.shape == (1, 64, 2, 25, 3)
    np.testing.assert_array_equal(found.mask[0], np.broadcast_to(hidden, (64, 2, 25)))
    answer = np.broadcast_to(unflatten_frames(np.arange(150.0)), (1, 64, 2, 25, 3))
    np.testing.assert_array_equal(found.skeletons[found.mask], answer[found.mask])
    ((whole, _, _),) = inputs(model, walk(30))
    np.testing.assert_allclose(
        found.skeletons[~found.mask], np.asarray(whole)[~found.mask], atol=1e-6
    )


def test_reconstruction_depends_on_what_is_visible(model):
    hidden = np.arange(25) < 4
    one, other = (model.reconstruct(walk(30, seed=seed), hidden) for seed in (0, 1))
    assert np.abs(one.skeletons - other.skeletons)[one.mask].max() > 1e-4
    lost = walk(30)
    lost[..., 2, :] = np.nan
    assert np.isfinite(model.reconstruct(lost, hidden).skeletons).all()


def test_an_encoder_alone_can_only_embed(weights):
    tree = {part: {"encoder": weights.tree[part]["encoder"]} for part in ("params", "batch_stats")}
    model = library.Model(ModelWeights.of(dataclasses.replace(weights, tree=tree)))
    assert model.embed(walk(5)).shape == (1, 32)
    with pytest.raises(UserError, match="no decoder"):
        model.reconstruct(walk(5), np.zeros(25, bool))
    with pytest.raises(UserError, match="no classifier"):
        model.classify(walk(5))


def with_value(value):
    array = walk(5).astype(np.float64)
    array[3, 0, 2, 1] = value
    return array


@pytest.mark.parametrize(
    "skeletons, sentence",
    [
        (np.zeros((0, 5, 2, 25, 3)), "no sequence"),
        ([], "no sequence"),
        (np.zeros((0, 2, 25, 3)), "has no frames"),
        ([walk(5), np.zeros((0, 2, 25, 3))], "Sequence 1 is empty"),
        (np.zeros((5, 2, 25, 3)), "nobody"),
        (walk(5)[0, 0], r"shape \(25, 3\)"),
        (walk(5)[..., :2], r"shape \(5, 2, 25, 2\)"),
        (np.zeros((5, 0, 25, 3)), r"shape \(5, 0, 25, 3\)"),
        (np.float32(1), "shape"),
        (with_value(np.nan), "frame 3 that is not finite"),
        (with_value(-np.inf), "frame 3 that is not finite"),
        (with_value(1e200), "frame 3"),
        (with_value(1500), "frame 3 beyond 100; skeletons are in metres"),
        (walk(5).astype(complex), "complex128"),
        (walk(5).astype(str), "type <U"),
        (walk(5).astype(object), "type object"),
        (walk(5) > 0, "type bool"),
        ([[1, [2]]], "is not an array"),
        ("skeletons", "type <U9"),
        (None, "type object"),
        ({"a": 1}, "type object"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(model, skeletons, sentence):
    for normalize in (True, False):
        with pytest.raises(UserError, match=sentence) as error:
            model.embed(skeletons, normalize=normalize)
        assert str(error.value).count("\n") == 0 and str(error.value).endswith(".")


@pytest.mark.parametrize(
    "mask, sentence",
    [
        (np.zeros(25), "float64; it must be bool"),
        (np.zeros(24, bool), r"shape \(24,\), which does not broadcast"),
        (np.ones(25, bool), "nobody"),
        (np.arange(25) == SPINE, "lacks the first person's spine"),
    ],
)
def test_masks_that_cannot_be_used_are_refused(model, mask, sentence):
    with pytest.raises(UserError, match=sentence):
        model.embed(walk(5), mask)
    with pytest.raises(UserError, match=sentence):
        model.embed([walk(5)], mask)


def test_a_list_needs_as_many_masks(model):
    with pytest.raises(UserError, match="1 masks for 2 sequences"):
        model.embed([walk(5)] * 2, [np.zeros(25, bool)])


def test_too_long_sequences_are_refused_without_resampling(model):
    with pytest.raises(UserError, match="100,000 frames.*online"):
        model.embed(np.ones((100_000, 1, 25, 3), np.int8), normalize=False, resample=False)


@pytest.mark.parametrize(
    "frame, sentence",
    [
        (np.zeros(75), "shape"),
        (np.zeros((0, 25, 3)), r"must be \(persons, 25, 3\) or"),
        (np.full((1, 25, 3), np.nan), "not finite"),
        (np.zeros((1, 25, 3), bool), "type bool"),
    ],
)
def test_frames_that_cannot_be_used_are_refused_and_forgotten(model, frame, sentence):
    online, frames = model.online(window=0, normalize=False), normalize_sequence(walk(2))
    online.push(frames[0])
    with pytest.raises(UserError, match=f"Frame 1.*{sentence}"):
        online.push(frame)
    expected = model.embed(frames, normalize=False, resample=False)[0]
    np.testing.assert_allclose(online.push(frames[1]), expected, atol=1e-5)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "not a safetensors file"),
        (b"PK\x03\x04 something", "from_torch"),
        (b"\xff" * 64, "not a safetensors file"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "of another format"),
    ],
)
def test_files_that_are_no_models_are_refused(tmp_path, content, sentence):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        pcm3_jax.load(path)


def test_places_without_a_model_are_refused(tmp_path, run_config):
    with pytest.raises(UserError, match="There is no"):
        pcm3_jax.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="There is no run"):
        pcm3_jax.load(tmp_path)
    for task in ("pretrain", "retrieval", "linear_eval"):
        run_config.task = task
        (tmp_path / "config.json").write_text(run_config.to_json())
        with pytest.raises(UserError, match=f"of task '{task}', has not saved a model"):
            pcm3_jax.load(tmp_path)


@pytest.mark.parametrize("text", ['{"model": 3}', '{"model": {"hidden": "x"}}', "[1]", '"x"'])
def test_a_configuration_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json (cannot be used: |is damaged)") as error:
        pcm3_jax.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_layouts_equal_kinect_v2_with_a_mask(model, name):
    layout = LAYOUTS[name]
    frames = walk(30, joints=len(layout.joints))
    frames[4:9, 1, 5] = np.nan
    mapped = to_kinect_v2(frames, layout)
    missing = np.isnan(mapped).any(axis=-1)
    expected = model.embed(mapped, missing)
    np.testing.assert_array_equal(model.embed(frames, layout=name), expected)
    # A mask of the layout's own joints does as well as NaN.
    holes = np.isnan(frames).any(axis=-1)
    found = model.embed([np.nan_to_num(frames, nan=7.0)], [holes], layout=name)
    np.testing.assert_array_equal(found, expected)


def test_a_layout_that_does_not_fit_is_refused(model):
    with pytest.raises(UserError, match=r"Sequence 0: found an array of shape \(5, 2, 25, 3\)"):
        model.embed(walk(5), layout="smpl_24")
    with pytest.raises(UserError, match="no joint layout 'smpl'"):
        model.embed(walk(5), layout="smpl")


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_files_and_the_data_set_built_from_them_have_equal_features(weights, tmp_path, stream):
    frames = walk(40, joints=17)
    frames[10:15, 0, 9] = np.nan
    frames[20:, 1, 3] = np.nan
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}.npy", frames)
    table = "file,label,performer,split\ntrain.npy,wave,1,train\ntest.npy,wave,2,test\n"
    (tmp_path / "labels.csv").write_text(table)
    built = read_built(build.build("own_skeletons/coco_17", tmp_path / "data", tmp_path))
    skeleton = built["test"]["test.npy"]["skeleton"]
    model = changed(weights, views__stream=stream)
    # Compiled once; in the data set only zeros mark a missing joint.
    np.testing.assert_allclose(
        model.embed(skeleton, normalize=False), model.embed(frames, layout="coco_17"), atol=1e-6
    )
    assert np.abs(model.embed(np.nan_to_num(frames, nan=1.0), layout="coco_17")
                  - model.embed(frames, layout="coco_17")).max() > 1e-4  # fmt: skip
