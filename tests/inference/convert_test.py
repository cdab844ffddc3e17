"""PyTorch names, layouts and files, and exports. Golden steps prove the numbers."""

import argparse
import collections
import copyreg
import datetime
import decimal
import fractions
import io
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import types
import uuid
import zipfile

import jax
import numpy as np
import pytest

from pcm3_jax import convert
from pcm3_jax.config import default_config
from pcm3_jax.data.formats import pickles
from pcm3_jax.data.skeleton import flatten_frames
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model as library
from pcm3_jax.inference import model_file, torch_layout
from pcm3_jax.inference import torch_checkpoint as torch_file
from pcm3_jax.inference.weights import ModelWeights, Weights
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.methods.state import build_model, create_state
from tests import golden_vectors


def template(**method):
    """Shapes of a state of the golden runs' sizes."""
    config = default_config()
    config.model.update(hidden=16, projection=8, decoder_hidden=12, prompt_width=4)
    config.method.update(queue_size=40, **method)
    model, optimizer = build_model(config), build_optimizer(config.optimizer, 1)
    return jax.eval_shape(lambda: create_state(model, optimizer, config))


@pytest.fixture(scope="module")
def tensors():
    return golden_vectors.load_step("cutmix").init


@pytest.mark.parametrize("prompts", [True, False])
def test_a_state_has_the_shapes_of_ours(tensors, prompts):
    expected = template(domain_prompts=prompts, task_prompts=prompts)
    state = torch_layout.state_from_torch(tensors, expected)
    shapes = lambda s: jax.tree.map(lambda x: (x.shape, str(x.dtype)), s)  # noqa: E731
    assert shapes(state) == shapes(expected)


def test_every_tensor_is_used_once(tensors):
    """Each tensor filled with its own number: all numbers arrive, none twice."""
    names = [name for name in tensors if not name.endswith("num_batches_tracked")]
    numbered = {n: np.full(tensors[n].shape, i, np.float32) for i, n in enumerate(names)}
    state = torch_layout.state_from_torch(numbered, template())
    parts = (state.params, state.batch_stats, state.key_params, state.key_batch_stats)
    found = [
        value
        for leaf in jax.tree.leaves((parts, state.queue, state.queue_pointer))
        for value in np.unique(leaf)
    ]
    assert sorted(found) == list(range(len(names)))


def test_every_array_is_transposed_to_its_place(tensors):
    params = torch_layout.params_from_torch(tensors)
    layer, gru = params["encoder"]["gru"]["layer_1"], "encoder_q.encoder.gru"
    for direction, suffix in enumerate(("", "_reverse")):
        for ours, theirs in (
            (layer["input_kernel"][direction].T, "weight_ih_l1"),
            (layer["recurrent_kernel"][direction].T, "weight_hh_l1"),
            (layer["input_bias"][direction], "bias_ih_l1"),
            (layer["recurrent_bias"][direction], "bias_hh_l1"),
        ):
            np.testing.assert_array_equal(ours, tensors[f"{gru}.{theirs}{suffix}"])
    outer = params["projector"]["outer"]
    np.testing.assert_array_equal(outer["kernel"].T, tensors["encoder_q.fc.2.weight"])
    prompts = params["prompts"]
    np.testing.assert_array_equal(prompts["task_contrast"], tensors["cl_prompt"].ravel())
    np.testing.assert_array_equal(prompts["domain_inter"], tensors["mix_prompt"].ravel())


def test_the_key_encoder_has_its_own_parameters(tensors):
    keys = torch_layout.params_from_torch(tensors, "encoder_k")
    assert keys.keys() == {"encoder", "projector"}
    kernel = keys["projector"]["inner"]["kernel"]
    np.testing.assert_array_equal(kernel.T, tensors["encoder_k.fc.0.weight"])
    stats = torch_layout.batch_stats_from_torch(tensors, "encoder_k")
    assert stats.keys() == {"encoder"}
    variance = stats["encoder"]["input_norm"]["variance"]
    np.testing.assert_array_equal(variance, tensors["encoder_k.input_norm.running_var"])


def test_the_queue_is_transposed_and_the_pointer_kept(tensors):
    full = dict(tensors) | {"queue_ptr": np.array([7])}
    state = torch_layout.state_from_torch(full, template())
    np.testing.assert_array_equal(state.queue, tensors["queue"].T)
    assert state.queue.flags.c_contiguous
    assert state.queue_pointer == 7 and state.queue_pointer.dtype == np.int32


# Files.


@pytest.fixture
def checkpoint(tensors, tmp_path):
    """The golden tensors as `torch.save` would write them."""
    path = tmp_path / "model.pth.tar"
    torch_file.write(path, tensors, epoch=3)
    return path


@pytest.fixture(scope="module")
def poses():
    return np.random.default_rng(0).normal(size=(3, 64, 2, 25, 3)).astype(np.float32)


def features(path, poses):
    """Of resampled and normalised poses."""
    return library.load(path).embed(poses, normalize=False, resample=False)


OLD_HEAD = b"".join(
    pickle.dumps(part, 2)
    for part in (
        0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}
    )
)  # fmt: skip


def old_file(tensors):
    """The format of PyTorch before 1.6: pickles one after the other, then the storages."""
    keys = [str(key) for key in range(len(tensors))]
    content = (
        OLD_HEAD + torch_file._pickled(torch_file._described(tensors, 3)) + pickle.dumps(keys, 2)
    )
    for array in tensors.values():
        content += struct.pack("<q", array.size) + array.tobytes()
    return content


def zip_file(path, pickled, **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in members.items():
            archive.writestr(f"archive/data/{name}", content)


def numpy_features(tensors, poses):
    """The program's encoder in evaluation mode, written out for one frame after another."""
    mean, variance, scale, bias = (
        tensors[f"encoder_q.input_norm.{name}"]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    frames = np.asarray(flatten_frames(poses), np.float64)
    x = (frames - mean) / np.sqrt(variance + 1e-5) * scale + bias
    for layer in range(3):
        outputs = []
        for suffix in (f"_l{layer}", f"_l{layer}_reverse"):
            w_ih, w_hh, b_ih, b_hh = (
                np.asarray(tensors[f"encoder_q.encoder.gru.{name}{suffix}"], np.float64)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h, states = np.zeros((len(x), 16)), []
            for time in range(x.shape[1]):
                i_r, i_z, i_n = np.split(x[:, time] @ w_ih.T + b_ih, 3, axis=1)
                h_r, h_z, h_n = np.split(h @ w_hh.T + b_hh, 3, axis=1)
                r, z = 1 / (1 + np.exp(-i_r - h_r)), 1 / (1 + np.exp(-i_z - h_z))
                h = (1 - z) * np.tanh(i_n + r * h_n) + z * h
                states.append(h)
            outputs.append(np.stack(states, axis=1))
        x = np.concatenate(outputs, axis=2)
    return x[:, -1]


def test_a_checkpoint_survives_the_round_trip(tensors, checkpoint, poses, tmp_path, capsys):
    ours, back = tmp_path / "model.safetensors", tmp_path / "back.pth.tar"
    convert.run(["from_torch", str(checkpoint), str(ours)])
    convert.run(["to_torch", str(ours), str(back)])
    assert f"{ours}: 0.3 MB" in capsys.readouterr().out
    again = torch_file.read(back)
    assert again.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (again[name].shape, again[name].dtype) == (array.shape, array.dtype), name
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(again[name], array, err_msg=name)
    # Against the formulas in float64.
    np.testing.assert_allclose(features(ours, poses), numpy_features(tensors, poses), atol=1e-5)
    # No temporary file is left, and other users may read the files.
    assert {path.name for path in tmp_path.iterdir()} == {checkpoint.name, ours.name, back.name}
    assert ours.stat().st_mode & 0o044 == back.stat().st_mode & 0o044 != 0


def test_a_run_becomes_a_whole_checkpoint(finished_run, tensors, tmp_path):
    path = tmp_path / "run.pth.tar"
    convert.run(["to_torch", str(finished_run[0]), str(path)])
    state = torch_file.read(path)
    # One layer instead of three, and one instead of two in the decoder.
    assert state.keys() == {n for n in tensors if not n.split("_reverse")[0].endswith(("1", "2"))}
    assert state["queue"].shape == (8, 64) and state["queue_ptr"].item() == 24 * 16 % 64
    assert np.abs(state["encoder_k.fc.0.weight"] - state["encoder_q.fc.0.weight"]).max() > 0
    convert.run(["from_torch", str(path), str(tmp_path / "again.safetensors")])
    poses = np.random.default_rng(0).normal(size=(2, 16, 2, 25, 3))
    np.testing.assert_array_equal(
        features(finished_run[0], poses), features(tmp_path / "again.safetensors", poses)
    )


def test_missing_parts_get_initial_values(checkpoint, tmp_path):
    convert.run(["from_torch", str(checkpoint), str(tmp_path / "all.safetensors")])
    weights = model_file.load(tmp_path / "all.safetensors").only
    kept = {part: weights.tree[part] for part in ("params", "batch_stats")}
    del kept["params"]["prompts"]
    weights.config.method.update(domain_prompts=False, task_prompts=False)
    some = ModelWeights.of(Weights(weights.config, kept))
    model_file.save(tmp_path / "some.safetensors", some)
    state = torch_layout.tensors_to_torch(model_file.load(tmp_path / "some.safetensors"))
    shapes = {name: array.shape for name, array in torch_file.read(checkpoint).items()}
    assert {name: array.shape for name, array in state.items()} == shapes
    np.testing.assert_allclose(np.linalg.norm(state["queue"], axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(state["encoder_k.fc.0.bias"], state["encoder_q.fc.0.bias"])
    assert not state["cl_prompt"].any() and not state["mix_prompt"].any()


def test_every_form_of_checkpoint_gives_the_same_features(tensors, poses, tmp_path):
    expected = numpy_features(tensors, poses)
    encoder = {
        name.removeprefix("encoder_q."): array
        for name, array in tensors.items()
        if name.startswith("encoder_q.") and ".fc." not in name
    }
    forms = {
        "prefixed": {f"module.{name}": array for name, array in tensors.items()},
        "encoder": encoder,
        "deeper": {f"module.backbone.{name}": array for name, array in encoder.items()},
    }
    for name, arrays in forms.items():
        torch_file.write(tmp_path / f"{name}.pth", arrays, 3)
    (tmp_path / "old.pth").write_bytes(old_file(forms["prefixed"]))
    for name in (*forms, "old"):
        out = tmp_path / f"{name}.safetensors"
        convert.run(["from_torch", str(tmp_path / f"{name}.pth"), str(out)])
        np.testing.assert_allclose(features(out, poses), expected, atol=1e-5, err_msg=name)
    with pytest.raises(UserError, match="no decoder and no projector.*whole networks only"):
        convert.run(["to_torch", str(tmp_path / "encoder.safetensors"), str(tmp_path / "x.pth")])


@pytest.mark.parametrize("prefix", ["", "encoder_q.", "module.encoder_q."])
@pytest.mark.parametrize("head", ["fc", "linear"])
def test_a_linear_probe_brings_its_classifier(tensors, poses, tmp_path, prefix, head):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(9, 32)).astype("f4"), rng.normal(size=9).astype("f4")
    arrays = {
        name.replace("encoder_q.", prefix): array
        for name, array in tensors.items()
        if name.startswith("encoder_q.") and ".fc." not in name
    }
    arrays |= {f"{prefix}{head}.weight": weight, f"{prefix}{head}.bias": bias}
    torch_file.write(tmp_path / "probe.pth", arrays, 3)
    convert.run(["from_torch", str(tmp_path / "probe.pth"), str(tmp_path / "probe.safetensors")])
    model = library.load(tmp_path / "probe.safetensors")
    found = numpy_features(tensors, poses)
    best = (found @ weight.T + bias).argmax(1)
    labels = model.labels(model.embed(poses, normalize=False, resample=False), k=1)
    assert [label for ((label, _),) in labels] == [f"class {i} (from 0)" for i in best]


def test_the_exported_program_runs_without_this_package(checkpoint, poses, tmp_path):
    ours, program = tmp_path / "model.safetensors", tmp_path / "encoder.bin"
    convert.run(["from_torch", str(checkpoint), str(ours), "--stream=bone"])
    convert.run(["stablehlo", str(ours), str(program)])
    np.save(tmp_path / "poses.npy", poses)
    code = (
        "import sys; sys.modules['pcm3_jax'] = None; import numpy as np; from jax import export\n"
        "try:\n    import pcm3_jax\nexcept ImportError: pass\nelse: sys.exit(3)\n"
        "call = export.deserialize(bytearray(open('encoder.bin', 'rb').read())).call\n"
        "poses = np.load('poses.npy')\n"
        "np.save('one.npy', call(poses[:1])); np.save('all.npy', call(poses))"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)
    expected = features(ours, poses)
    np.testing.assert_allclose(np.load(tmp_path / "all.npy"), expected, atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "one.npy"), expected[:1], atol=1e-5)


# What programs save beside the tensors.


class TorchObject:
    """Pickles as a call of a class of PyTorch, which need not be installed."""

    def __init__(self, name, *arguments):
        self.call = torch_file.Name(f"torch.{name}"), arguments


class ExtrasPickler(torch_file._Pickler):
    def save_object(self, value):
        name, arguments = value.call
        self.save(name)
        self.save(arguments)
        self.write(pickle.REDUCE)

    dispatch = torch_file._Pickler.dispatch | {TorchObject: save_object}


EXTRAS = {
    "namespace": argparse.Namespace(lr=0.1, milestones=[350], path=pathlib.Path("/data/ntu")),
    "simple namespace": types.SimpleNamespace(epoch=3),
    "counter": collections.Counter([350, 400]),
    "default dictionaries": [collections.defaultdict(list, loss=[0.1, 0.2]),
                             collections.defaultdict(int, {1: 2}), collections.defaultdict(str)],
    "ordered dictionary": collections.OrderedDict(loss=0.1),
    "deque": collections.deque([0.1, 0.2], maxlen=20),
    "sets": [{1, 2}, frozenset("ab"), set(), {(0, 1)}],
    "builtins": [range(3), slice(1), 1 + 2j, b"bytes", bytearray(b"x"), 10**30, None, True, -1.5],
    "keys": {1: "a", (0, 1): "b", None: "c", 0.5: "d"},
    "dates": [datetime.datetime(2024, 1, 2), datetime.date(2024, 1, 2), datetime.timedelta(1),
              datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)],
    "numpy": [np.float64(71.5), np.int64(3), np.arange(6.0).reshape(2, 3), np.dtype("f4"),
              np.float32, np.array(["a", None], object)],
    "other numbers": [fractions.Fraction(1, 2), decimal.Decimal("0.1"), uuid.UUID(int=7), ...],
    "random states": [random.getstate(), np.random.RandomState(0).get_state()],
    "torch": [TorchObject("Size", (3, 4)), TorchObject("device", "cuda", 0),
              torch_file.Name("torch.float32"), torch_file.Name("torch.bfloat16")],
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("name", EXTRAS)
def test_harmless_objects_beside_the_tensors_are_ignored(tmp_path, name, protocol):
    tensor = torch_file.Tensor(torch_file.Storage("f4", "0", 4), 0, (4,), (1,))
    extra, stream = EXTRAS[name], io.BytesIO()
    value = {"before": extra, "state_dict": {"x": tensor, "extra": extra}, "after": [extra]}
    ExtrasPickler(stream, protocol).dump(value)
    zip_file(tmp_path / "x.pth", stream.getvalue(), **{"0": np.ones(4, "<f4").tobytes()})
    arrays = torch_file.read(tmp_path / "x.pth")
    assert arrays.keys() == {"x"}
    np.testing.assert_array_equal(arrays["x"], np.ones(4))
    # None of the real objects is made.
    read = torch_file._unpickled(io.BytesIO(stream.getvalue()), {})
    assert types_of(read) <= {
        dict, list, tuple, str, bytes, int, float, bool, type(None),
        pickles.StringKeyDict, pickles.Ignored, torch_file.Tensor, torch_file.Storage,
    }  # fmt: skip


def types_of(value):
    parts = tuple(value.values()) if isinstance(value, dict) else value
    parts = parts if isinstance(parts, (list, tuple)) else ()
    return {type(value)}.union(*map(types_of, parts))


# Damaged and malicious files.


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile_pickles(target):
    command = f"touch {target}"
    yield from (pickle.dumps(Call(os.system, command), protocol) for protocol in range(6))
    yield pickle.dumps({"state_dict": {"x": Call(eval, f"open({str(target)!r}, 'w')")}}, 2)
    yield pickle.dumps(collections.Counter(a=1), 2)
    yield f"(S'{command}'\nios\nsystem\n.".encode()
    # Through a known name, as an attribute of one, and as a class.
    yield b"\x80\x02ccollections\nOrderedDict\n(Vx\nVy\ntR."
    yield b"\x80\x04\x8c\x0btorch._utils\x8c\x08os.system\x93\x8c\x01x\x85R."
    yield b"\x80\x02ccollections\nOrderedDict\n)\x81}b."
    yield f"\x80\x02ctorch\nFloatStorage\n(V{command}\ntR.".encode("latin-1")
    # Attributes of known names, and functions that reach other attributes.
    yield b"\x80\x04\x8c\x08builtins\x8c\x0cdict.get.get\x93."
    yield b"\x80\x04\x8c\x0bcollections\x8c\x1eOrderedDict.__init__.__globals__\x93."
    yield b"\x80\x02c__builtin__\ngetattr\n."
    yield b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b."
    # Classes that bypass names: of an extension, and by instructions that make objects.
    yield b"\x80\x02\x82\xc8" + pickle.dumps((command,), 2)[2:-1] + b"R."
    yield f"(cos\nsystem\nS'{command}'\no.".encode()
    yield b"\x80\x02(cargparse\nNamespace\no."
    yield b"\x80\x04cargparse\nNamespace\n)}\x92."
    yield b"\x80\x05\x97."


@pytest.fixture
def extension():
    """The number 200 stands for `os.system` in every pickle that this process reads."""
    copyreg.add_extension("os", "system", 200)
    copyreg._extension_cache[200] = os.system
    yield
    copyreg.remove_extension("os", "system", 200)


@pytest.mark.parametrize("number", range(22))
@pytest.mark.parametrize("form", ["zip", "old"])
def test_nothing_in_a_pickle_is_executed(tmp_path, number, form, extension):
    target, path = tmp_path / "executed", tmp_path / "model.pth"
    pickled = list(hostile_pickles(target))[number]
    zip_file(path, pickled) if form == "zip" else path.write_bytes(OLD_HEAD + pickled)
    with pytest.raises(UserError, match="model.pth is refused: ") as error:
        convert.run(["from_torch", str(path), str(tmp_path / "out.safetensors")])
    assert "\n" not in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pth"]


ORDERED_DICT, FROZENSET = b"ccollections\nOrderedDict\n", b"c__builtin__\nfrozenset\n"
# The tuple of a tuple twice, of a tuple twice: 2**60 steps to hash.
TOWER = b")" + b"q\x00h\x00\x86" * 60
ITEMS = b"".join(b"X\x04\x00\x00\x00%04dN\x86" % number for number in range(3000))
BOMBS = {
    "hashed key": b"}" + TOWER + b"Ns.",
    "hashed keys": b"}(" + TOWER + b"Nu.",
    "hashed items": ORDERED_DICT + b"](" + TOWER + b"N\x86e\x85R.",
    "hashed members": b"\x8f(" + TOWER + b"\x90.",
    "hashed frozen members": b"(" + TOWER + b"\x91.",
    "hashed argument": FROZENSET + b"](" + TOWER + b"e\x85R.",
    "copied items": b"]q\x00(" + ITEMS + b"e](" + (ORDERED_DICT + b"h\x00\x85R") * 3000 + b"e\x86.",
    "memo index": b"Nr\xff\xff\xff\xff.",
    "memo index as text": b"Np999999999999\n.",
    "string": b"X\xff\xff\xff\xffshort.",
    "long string": b"\x8d" + b"\xff" * 7 + b"\x00short.",
    "array": b"\x96" + b"\xff" * 4 + b"\x00" * 4 + b"short.",
    "frame": b"\x95" + b"\xff" * 7 + b"\x00N.",
    "number": b"\x8b\xff\xff\xff\x7f\x01.",
    "number as text": b"L" + b"9" * 10**6 + b"L\n.",
    "range": b"c__builtin__\nrange\nL999999999999L\n\x85R.",
    "bytes": b"c__builtin__\nbytearray\nL999999999999L\n\x85R.",
    "lists in lists": b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "tuples in tuples": b")" + b"\x85" * 10**5 + b".",
    "dictionaries in dictionaries": b"}X\x01\x00\x00\x00x" * 10**5 + b"N" + b"s" * 10**5 + b".",
    "marks": b"(" * 10**5 + b".",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("form", ["zip", "old"])
def test_small_pickles_take_little_time_and_memory(tmp_path, name, form):
    path = tmp_path / "model.pth"
    pickled = b"\x80\x02" + BOMBS[name]
    zip_file(path, pickled) if form == "zip" else path.write_bytes(OLD_HEAD + pickled)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="model.pth is refused: ") as error:
            torch_file.read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert peak < 1e8


def test_tensors_that_share_one_storage_many_times_are_refused(tmp_path):
    """Converted, each would be a copy."""
    tensor = torch_file.Tensor(torch_file.Storage("f4", "0", 10**5), 0, (10**5,), (1,))
    path, content = tmp_path / "x.pth", bytes(4 * 10**5)
    pickled = torch_file._pickled({str(number): tensor for number in range(2)})
    zip_file(path, pickled, **{"0": content})
    assert torch_file.read(path).keys() == {"0", "1"}
    pickled = torch_file._pickled({str(number): tensor for number in range(20)})
    zip_file(path, pickled, **{"0": content})
    with pytest.raises(UserError, match="8 times as large as the file"):
        torch_file.read(path)


def test_a_pickle_that_is_too_large_is_refused(tmp_path, monkeypatch):
    """Its objects would take many times its size."""
    monkeypatch.setattr(torch_file, "_LARGEST_PICKLE", 1000)
    path, pickled = tmp_path / "x.pth", b"](" + b"}" * 1000 + b"e."
    for form in ("zip", "old"):
        zip_file(path, pickled) if form == "zip" else path.write_bytes(OLD_HEAD + pickled)
        with pytest.raises(UserError, match="its pickle is larger than 1000 bytes"):
            torch_file.read(path)


@pytest.mark.parametrize("old", [False, True])
def test_a_cut_checkpoint_is_said_to_be_cut(checkpoint, tensors, old):
    content = old_file(tensors) if old else checkpoint.read_bytes()
    for length in (40, 1000, len(content) // 2, len(content) - 1):
        checkpoint.write_bytes(content[:length])
        with pytest.raises(
            UserError, match="(truncated|cut).*; copy or download it again"
        ) as error:
            torch_file.read(checkpoint)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>\n<html>", r"begins with b'<!DOCTYPE html>\\n'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "begins with b'version https://'"),
        (pickle.dumps({"state_dict": {}}), "begins with"),
        (b"\x1f\x8b" + bytes(100), "begins with"),
    ],
)
def test_files_of_other_programs_are_said_to_be_none(tmp_path, content, sentence):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    end = "pass a file that torch.save wrote, unpacked, or download it again"
    with pytest.raises(UserError, match=rf"is not a PyTorch checkpoint \(.*{sentence}.*\); {end}"):
        torch_file.read(path)
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    with pytest.raises(UserError, match=f"archive without the data.pkl of a PyTorch.*; {end}"):
        torch_file.read(tmp_path / "x.npz")
    with pytest.raises(UserError, match="nowhere.pth cannot be read: No such file"):
        torch_file.read(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        torch_file.read(tmp_path)


def test_damaged_checkpoints_give_one_sentence(tmp_path, tensors):
    """Truncated files and files with changed bytes either load unchanged or are refused."""
    some = {name: tensors[name] for name in ("linear.1.weight", "queue_ptr", "cl_prompt")}
    path = tmp_path / "model.pth"
    torch_file.write(path, some, 3)
    rng = np.random.default_rng(0)
    refused = 0
    for content in (path.read_bytes(), old_file(some)):
        path.write_bytes(content)
        assert torch_file.read(path).keys() == some.keys()
        for trial in range(400):
            damaged = bytearray(content)
            if trial % 4 == 0:
                del damaged[rng.integers(len(content)) :]
            else:
                for _ in range(rng.integers(1, 4)):
                    damaged[rng.integers(len(content))] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                arrays = torch_file.read(path)
            except UserError as error:
                refused += 1
                assert str(path) in str(error) and "\n" not in str(error)
            else:
                assert sum(array.size for array in arrays.values()) < 1000
    assert refused > 300


def tensor_pickle(count=4, offset=0, shape=(4,), strides=(1,), key="0"):
    """A pickle of one float tensor with that layout."""
    storage = torch_file.Storage("f4", key, count)
    return torch_file._pickled({"x": torch_file.Tensor(storage, offset, shape, strides)})


@pytest.mark.parametrize(
    "layout, sentence",
    [
        ({"count": 5}, "has 16 bytes where 20 were declared"),
        ({"count": -4}, "damaged"),
        ({"offset": 1}, "reaches beyond its storage"),
        ({"offset": -1}, "damaged"),
        ({"shape": (2, 2)}, "damaged"),
        ({"strides": (2,)}, "reaches beyond its storage"),
        ({"strides": (-1,)}, "damaged"),
        ({"shape": (100_000, 100_000), "strides": (0, 0)}, "reaches beyond its storage"),
        ({"shape": (1,) * 70, "strides": (1,) * 70}, "damaged"),
        ({"shape": (2**64,), "strides": (1,)}, "damaged"),
        ({"key": "../../../etc/passwd"}, "lacks 'archive/data/../../../etc/passwd'"),
    ],
)
def test_layouts_beyond_the_storage_are_refused(tmp_path, layout, sentence):
    path = tmp_path / "x.pth"
    zip_file(path, tensor_pickle(**layout), **{"0": bytes(16)})
    with pytest.raises(UserError, match=sentence):
        torch_file.read(path)


def test_the_stride_of_an_axis_of_length_one_is_ignored(tmp_path):
    content = np.arange(4, dtype="<f4").tobytes()
    zip_file(tmp_path / "x.pth", tensor_pickle(shape=(1, 2), strides=(999, 2)), **{"0": content})
    np.testing.assert_array_equal(torch_file.read(tmp_path / "x.pth")["x"], [[0, 2]])


def test_compressed_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_pickle(10**6, shape=(10**6,)))
        archive.writestr("archive/data/0", bytes(4 * 10**6))
    with pytest.raises(UserError, match="larger than the file"):
        torch_file.read(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", tensor_pickle(), zipfile.ZIP_LZMA)
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/padding", bytes(1000))
    with pytest.raises(UserError, match="its parts are compressed"):
        torch_file.read(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda t: t.pop("encoder_q.encoder.gru.weight_ih_l0"), "lacks the tensor"),
        (lambda t: t.pop("encoder_q.encoder.gru.bias_hh_l1"), "lacks the tensor"),
        (lambda t: t.pop("encoder_q.input_norm.running_var"), "lacks the tensor"),
        (lambda t: t.update({"encoder_q.fc.0.bias": np.zeros(3, "f4")}), "fc|projector"),
        (lambda t: t.update({"linear.0.weight": np.zeros((3, 3, 3), "f4")}), "shape|instead"),
        (lambda t: t.update({"cl_prompt": np.zeros((1, 9999), "f4")}), "prompt"),
        (
            lambda t: t.update({"encoder_q.fc.0.bias": np.full(32, np.nan, "f4")}),
            "projector/inner/bias has a value that is not finite",
        ),
    ],
)
def test_other_networks_are_refused(tensors, tmp_path, change, sentence):
    arrays = dict(tensors)
    change(arrays)
    torch_file.write(tmp_path / "x.pth", arrays, 3)
    with pytest.raises(UserError, match=sentence) as error:
        convert.run(["from_torch", str(tmp_path / "x.pth"), str(tmp_path / "out.safetensors")])
    assert "\n" not in str(error.value) and "x.pth" in str(error.value)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda w: w.config.model.update(hidden=10**12), "config.model.hidden is 10{12}, but"),
        (lambda w: w.config.model.update(hidden=64), "does not fit"),
        (lambda w: w.config.model.update(layers=10**12), "config.model.layers is 10{12}, but"),
        (lambda w: w.config.model.update(layers=2), "number of layers"),
        (lambda w: w.config.views.update(frames=10**9), "config.views.frames is 10{9}, but"),
        (lambda w: w.config.model.update(dtype="void"), "config.model.dtype"),
        (lambda w: w.tree["params"].update(evil={"x": np.zeros(3, "f4")}), "evil/x' is unknown"),
        (lambda w: w.tree["params"].pop("encoder"), "no usable model"),
        (lambda w: w.tree.pop("batch_stats"), "no usable model"),
        (lambda w: w.tree.update(queue=np.zeros((8, 40), "f4")), "queue is float32"),
        (lambda w: w.tree.update(queue=np.zeros((40, 8), "f8")), "queue is float64"),
        (lambda w: w.tree.update({"../../x\n": np.zeros(1, "f4")}), "is unknown"),
    ],
)
def test_safetensors_files_that_contradict_themselves_are_refused(
    tensors, tmp_path, change, sentence
):
    weights = torch_layout.weights_from_torch(tensors, "joint", "golden").only
    change(weights)
    model_file.save(tmp_path / "x.safetensors", ModelWeights.of(weights))
    with pytest.raises(UserError, match=sentence) as error:
        library.load(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


def test_a_cut_safetensors_file_is_said_to_be_cut(checkpoint, tmp_path):
    path = tmp_path / "x.safetensors"
    convert.run(["from_torch", str(checkpoint), str(path)])
    content = path.read_bytes()
    for length in (9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="safetensors is truncated.*: copy or download it ag"):
            library.load(path)
    path.write_bytes(content[:4])
    with pytest.raises(UserError, match="x.safetensors is not a safetensors file"):
        library.load(path)


def test_nothing_half_written_is_left(checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "out.safetensors"
    out.write_text("before")

    def fail(arrays, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_file, "save_file", fail)
    with pytest.raises(UserError, match="out.safetensors cannot be written: No space left"):
        convert.run(["from_torch", str(checkpoint), str(out)])
    assert out.read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {checkpoint.name, out.name}
    with pytest.raises(UserError, match="nowhere/x cannot be written: No such file"):
        convert.run(["from_torch", str(checkpoint), str(tmp_path / "nowhere" / "x")])


# With PyTorch itself.


def torch_network(torch, tensors):
    """Modules that hold tensors of these names and shapes, as the program's do."""

    def build(names):
        module = torch.nn.Module()
        children = collections.defaultdict(dict)
        for name, array in names.items():
            head, _, rest = name.partition(".")
            if rest:
                children[head][rest] = array
            else:
                module.register_buffer(head, torch.empty(array.shape).to(kind(array)))
        for head, part in children.items():
            module.add_module(head, build(part))
        return module

    def kind(array):
        return torch.int64 if array.dtype == np.int64 else torch.float32

    return build(tensors)


def test_pytorch_loads_ours_strictly(tensors, checkpoint, finished_run, tmp_path):
    torch = pytest.importorskip("torch")
    convert.run(["from_torch", str(checkpoint), str(tmp_path / "model.safetensors")])
    convert.run(["to_torch", str(tmp_path / "model.safetensors"), str(tmp_path / "ours.pth.tar")])
    loaded = torch.load(tmp_path / "ours.pth.tar", weights_only=True)
    assert loaded["epoch"] == 451
    network = torch_network(torch, tensors)
    network.load_state_dict(loaded["state_dict"], strict=True)
    for name, value in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value.numpy(), tensors[name])
    convert.run(["to_torch", str(finished_run[0]), str(tmp_path / "run.pth.tar")])
    torch.load(tmp_path / "run.pth.tar", weights_only=True)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("form", ["plain", "half", "bfloat16", "parameters", "strided", "shared"])
def test_what_pytorch_saves_is_read(tensors, poses, tmp_path, old, form):
    torch = pytest.importorskip("torch")
    state = {f"module.{n}": torch.from_numpy(np.array(a)) for n, a in tensors.items()}
    change = {
        "plain": lambda x: x,
        "half": lambda x: x.half() if x.is_floating_point() else x,
        "bfloat16": lambda x: x.bfloat16() if x.is_floating_point() else x,
        "parameters": lambda x: torch.nn.Parameter(x) if x.is_floating_point() else x,
        "strided": lambda x: x.t().contiguous().t() if x.ndim == 2 else x,
        "shared": lambda x: torch.cat([x.flatten()] * 2)[x.numel() :].reshape(x.shape),
    }[form]
    momentum = {"momentum_buffer": torch.ones(3), "step": torch.tensor(7)}
    saved = {
        "epoch": 1,
        "state_dict": collections.OrderedDict((n, change(x)) for n, x in state.items()),
        "optimizer": {"state": {0: momentum}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    path = tmp_path / "model.pth.tar"
    torch.save(saved, path, _use_new_zipfile_serialization=not old)
    convert.run(["from_torch", str(path), str(tmp_path / "model.safetensors")])
    # bfloat16 keeps 8 bits and half 11, of weights below 1.
    tolerance = {"half": 1e-2, "bfloat16": 1e-1}.get(form, 1e-5)
    np.testing.assert_allclose(
        features(tmp_path / "model.safetensors", poses), numpy_features(tensors, poses),
        atol=tolerance,
    )  # fmt: skip
