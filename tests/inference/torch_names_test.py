"""Which of a checkpoint's tensors become the model, whatever wraps them, and what is left out."""

import numpy as np
import pytest

from pcm3_jax import predict
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file, torch_layout
from tests import golden_vectors

FIRST = "encoder.gru.weight_ih_l0"


@pytest.fixture(scope="module")
def tensors():
    return golden_vectors.load_step("cutmix").init


@pytest.fixture(scope="module")
def encoder(tensors):
    """The query encoder alone, without its projector; names without a prefix."""
    return {
        name.removeprefix("encoder_q."): array
        for name, array in tensors.items()
        if name.startswith("encoder_q.") and ".fc." not in name
    }


def marked(tensors, mark):
    """The same network with the first layer's weights all equal to ``mark``."""
    return {
        name: np.full_like(array, mark) if name.endswith(FIRST) else array
        for name, array in tensors.items()
    }


def mark_of(model):
    (mark,) = np.unique(model.only.tree["params"]["encoder"]["gru"]["layer_0"]["input_kernel"][0])
    return mark


def named(tensors, prefix):
    return {f"{prefix}{name}": array for name, array in tensors.items()}


def convert(tensors, stream="joint"):
    return torch_layout.weights_from_torch(tensors, stream, "x.pth")


PREFIXES = (
    "module. model. _orig_mod. module._orig_mod. _orig_mod.module. model._orig_mod.module. net."
)


@pytest.mark.parametrize("prefix", PREFIXES.split())
def test_a_wrapped_network_is_converted_whole(tensors, prefix, capsys):
    expected, found = convert(tensors).only, convert(named(tensors, prefix)).only
    assert found.config == expected.config
    assert {*found.tree} == {
        "params", "batch_stats", "key_params", "key_batch_stats", "queue", "queue_pointer"
    }  # fmt: skip
    assert {*found.tree["params"]} == {"encoder", "projector", "decoder", "prompts"}
    np.testing.assert_array_equal(
        found.tree["key_params"]["projector"]["inner"]["kernel"].T, tensors["encoder_k.fc.0.weight"]
    )
    assert capsys.readouterr().err == ""


def test_wrappers_inside_the_network_are_ignored(tensors):
    inside = {
        name.replace("encoder_q.", "encoder_q._orig_mod.").replace("linear.", "linear.module."): x
        for name, x in tensors.items()
    }
    assert {*convert(inside).only.tree["params"]} == {"encoder", "projector", "decoder", "prompts"}


def three_streams(tensors, unnamed="joint"):
    """As programs of three streams save them: each encoder with its key encoder and queue."""
    network = {
        name: array for name, array in tensors.items() if name.startswith(("encoder_", "queue"))
    }
    found = {}
    for mark, stream in enumerate(("joint", "motion", "bone")):
        for name, array in marked(network, mark).items():
            part, dot, rest = name.partition(".")
            suffix = "" if stream == unnamed or name == "queue_ptr" else f"_{stream}"
            found[f"{part}{suffix}{dot}{rest}"] = array + mark if part == "queue" else array
    return found


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
@pytest.mark.parametrize("unnamed", ["joint", None])
@pytest.mark.parametrize("mark, stream", [(0, "joint"), (1, "motion"), (2, "bone")])
def test_each_stream_gets_its_own_encoder(tensors, prefix, unnamed, mark, stream, capsys):
    model = convert(named(three_streams(tensors, unnamed), prefix), stream)
    assert model.only.config.views.stream == stream
    assert mark_of(model) == mark
    np.testing.assert_array_equal(model.only.tree["queue"], tensors["queue"].T + mark)
    assert "key_params" in model.only.tree
    told = capsys.readouterr().err
    for other in {"joint", "motion", "bone"} - {stream}:
        suffix = "" if other == unnamed else f"_{other}"
        for part in (f"encoder_q{suffix} (3", f"encoder_k{suffix} (3", f"queue{suffix}"):
            assert part in told
    assert "queue_ptr" not in told


def test_streams_may_be_the_outer_names(tensors):
    networks = {
        stream: named(marked(tensors, mark), f"{stream}.module.")
        for mark, stream in enumerate(("joint", "motion"))
    }
    model = convert(networks["joint"] | networks["motion"], "motion")
    assert mark_of(model) == 1 and "decoder" in model.only.tree["params"]


def test_a_stream_that_is_not_there_is_refused(tensors):
    streams = {k: v for k, v in three_streams(tensors).items() if "bone" not in k}
    sentence = "x.pth holds encoders of the streams joint, motion, but none of bone: pass --stream"
    with pytest.raises(UserError, match=sentence):
        convert(streams, "bone")
    motion = {k: v for k, v in three_streams(tensors).items() if "motion" in k}
    with pytest.raises(UserError, match="of the stream motion, but none of joint: pass --stream=m"):
        convert(motion)


@pytest.mark.parametrize("name", ["encoder_k", "key_encoder", "ema.encoder", "teacher"])
def test_an_averaged_encoder_is_never_taken_for_the_query_s(encoder, name):
    averaged = named(marked(encoder, 1), f"module.{name}.")
    query = named(marked(encoder, 2), "module.backbone.")
    assert mark_of(convert(averaged | query)) == 2
    with pytest.raises(UserError, match="x.pth lacks the tensor 'encoder_q.encoder.gru.weight_ih"):
        convert(averaged)


def test_one_of_several_encoders_is_not_guessed(encoder):
    several = named(encoder, "first.") | named(encoder, "second.")
    with pytest.raises(UserError, match=r"several encoders \('first', 'second'\)"):
        convert(several)
    assert mark_of(convert(several | named(marked(encoder, 3), "encoder_q."))) == 3


def test_two_networks_in_one_are_refused(tensors):
    with pytest.raises(UserError, match="both 'module.cl_prompt' and 'cl_prompt'"):
        convert(named(tensors, "module.") | tensors)


def test_what_is_left_out_is_listed_by_module(tensors, capsys):
    more = {"criterion.weight": np.zeros(3), "encoder_q.extra.a": np.zeros(3), "n_averaged": 0}
    more["encoder_q.extra.b"] = np.zeros(3)
    convert(named(tensors, "module.") | more)
    told = capsys.readouterr().err
    assert told == "note: x.pth: left out criterion, encoder_q.extra (2 tensors), n_averaged.\n"
    convert(tensors | {f"{i}\n.weight": np.zeros(3) for i in range(1000)})
    told = capsys.readouterr().err
    assert told.startswith("note: x.pth: left out 0\\n, 1\\n, ") and len(told) < 1000
    assert told.endswith(", 988 more.\n")
    without_queue = {name: array for name, array in tensors.items() if name != "queue"}
    convert(without_queue)
    assert capsys.readouterr().err == "note: x.pth: left out queue_ptr, encoder_k (32 tensors).\n"


@pytest.mark.parametrize("bias", [True, False])
def test_classes_of_a_probe_are_numbered_from_zero(encoder, tmp_path, capsys, bias):
    rng = np.random.default_rng(0)
    weight, offset = rng.normal(size=(4, 32)), np.full(4, 0.5, np.float32)
    probe = named(encoder, "module.backbone.") | {"module.fc.weight": np.float32(weight)}
    model = convert(probe | ({"module.fc.bias": offset} if bias else {}))
    np.testing.assert_array_equal(model.heads["classifier"]["kernel"], np.float32(weight.T))
    np.testing.assert_array_equal(model.heads["classifier"]["bias"], offset if bias else 0 * offset)
    told = capsys.readouterr().err
    assert "4 classes have no names; their numbers count from 0" in told and "left out" not in told
    model_file.save(tmp_path / "probe.safetensors", model)
    np.save(tmp_path / "wave.npy", rng.normal(size=(20, 1, 25, 3)))
    predict.run([str(tmp_path / "wave.npy"), f"--model={tmp_path / 'probe.safetensors'}"])
    assert "class 0 (from 0)" in capsys.readouterr().out


def test_the_projection_of_a_pretraining_is_no_classifier(tensors, encoder, capsys):
    both = named(encoder, "encoder_q.") | named(encoder, "encoder_k.")
    layers = {f"encoder_{x}.fc.weight": np.ones((8, 32), np.float32) for x in "qk"}
    assert convert(both | layers).heads == {}
    assert "encoder_q.fc" in capsys.readouterr().err
