"""The NumPy restatement against the PyTorch program's numbers."""

import dataclasses

import numpy as np
import pytest

from tests import golden_vectors, restatement

# The golden numbers are float32, the restatement is float64. What separates the two is float32's
# rounding over a few thousand operations, and the packed views' own rounding (2.4e-7 absolute).
LOSS_TOLERANCE = 1e-5  # relative
LOGIT_TOLERANCE = 2e-5  # absolute, of logits up to 1 / 0.07 = 14.3
COORDINATE_TOLERANCE = 2e-6  # absolute, of coordinates around 1


def steps() -> list:
    """Every step of every run, as pytest parameters."""
    return [
        pytest.param(step, id=f"{name}-{i}")
        for name in golden_vectors.RUNS
        for i, step in enumerate(golden_vectors.load_step(name).steps)
    ]


def mix(step: golden_vectors.GoldenStep) -> tuple[np.ndarray, float]:
    """The inter view and λ from the query view and the recorded draws."""
    if step.method == "mixup":
        return restatement.mixup(step.query, step.partner, step.lam)
    method = {"cutmix": restatement.cutmix, "resizemix": restatement.resizemix}[step.method]
    return method(step.query, step.partner, step.parts, step.ct, step.start_block)


@pytest.mark.parametrize("name", golden_vectors.RUNS)
def test_one_step_matches_the_golden_losses_and_logits(name: str) -> None:
    run = golden_vectors.load_step(name)
    step = run.steps[0]
    mixed, lam = mix(step)
    losses, logits, made = restatement.step_forward(
        run.init,
        step.query,
        step.key,
        step.target,
        step.mask,
        mixed,
        step.partner,
        lam,
        step.prompt_offsets,
    )
    assert losses.keys() == step.losses.keys()
    for key, value in step.losses.items():
        assert losses[key] == pytest.approx(value, rel=LOSS_TOLERANCE), key
    assert logits.keys() == step.logits.keys()
    for key, value in step.logits.items():
        np.testing.assert_allclose(logits[key], value, rtol=0, atol=LOGIT_TOLERANCE, err_msg=key)
    np.testing.assert_allclose(
        step.reconstruction.of(made["reconstruction"]),
        step.reconstruction.values,
        rtol=0,
        atol=COORDINATE_TOLERANCE,
    )
    # The first step's keys are still the first rows of the queue after the third.
    keys = made["keys"]
    np.testing.assert_allclose(run.after["queue"].T[: len(keys)], keys, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(made["queue"][len(keys) :], run.init["queue"].T[len(keys) :])


@pytest.mark.parametrize("step", steps())
def test_mix_matches_the_golden_mix(step: golden_vectors.GoldenStep) -> None:
    mixed, lam = mix(step)
    assert lam == pytest.approx(step.lam, abs=1e-7)
    # At most the packed query's rounding and one float32 rounding.
    np.testing.assert_allclose(step.mixed.of(mixed), step.mixed.values, rtol=0, atol=6e-7)
    shift = (step.partner[0]) % len(step.partner)
    assert 1 <= shift <= len(step.partner) - 2
    expected = (np.arange(len(step.partner)) + shift) % len(step.partner)
    np.testing.assert_array_equal(step.partner, expected)


def test_golden_mixes_cover_every_kind_of_region() -> None:
    every = [step for name in golden_vectors.RUNS for step in golden_vectors.load_step(name).steps]
    assert {step.method for step in every} == {"cutmix", "resizemix", "mixup"}
    # A ResizeMix whose source would be longer than the sequence, and one whose is not.
    lengths = {2 * 4 * step.ct > 64 for step in every if step.method == "resizemix"}
    assert lengths == {True, False}


@pytest.mark.parametrize("step", steps())
def test_mask_hides_three_parts_of_the_body_in_each_clip(step: golden_vectors.GoldenStep) -> None:
    chosen = []
    for clip in range(8):
        frame = step.mask[8 * clip]
        hidden = [i for i in range(5) if not frame[restatement.part_joints([i])].any()]
        assert len(hidden) == 3
        chosen.append(hidden)
    np.testing.assert_array_equal(restatement.topology_mask(chosen), step.mask)


def test_crop_resize_matches_the_golden_crops() -> None:
    train, evaluation = golden_vectors.load_crops()
    assert len(train) == 16 and len(evaluation) == 4
    for crop in train:
        view = restatement.crop_resize(crop.sequence, crop.start, crop.length)
        np.testing.assert_allclose(view, crop.view, rtol=0, atol=1e-6)
    for crop in evaluation:
        start, length = restatement.central_crop(len(crop.sequence))
        view = restatement.crop_resize(crop.sequence, start, length)
        np.testing.assert_allclose(view, crop.view, rtol=0, atol=1e-6)


def test_streams_match_the_golden_streams() -> None:
    streams = golden_vectors.load_streams()
    motion = restatement.motion_stream(streams["joint"])
    bone = restatement.bone_stream(streams["joint"])
    np.testing.assert_allclose(motion, streams["motion"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(bone, streams["bone"], rtol=0, atol=1e-6)


def test_spatial_changes_on_small_cases() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 2, 25, 3))
    matrix = rng.uniform(-1, 1, (3, 3))
    expected = np.einsum("ij,...j->...i", matrix, x)
    np.testing.assert_allclose(restatement.shear(x, matrix), expected, rtol=0, atol=1e-12)
    jittered = restatement.joint_jitter(x, [0, 7], matrix)
    np.testing.assert_array_equal(jittered[..., 1:7, :], x[..., 1:7, :])
    np.testing.assert_allclose(jittered[..., 7, :], expected[..., 7, :], rtol=0, atol=1e-12)
    assert not restatement.joint_jitter(x, [0, 7], None)[..., [0, 7], :].any()


def test_queue_wraps_around() -> None:
    queue, pointer = np.zeros((5, 1)), 3
    queue, pointer = restatement.queue_push(queue, pointer, np.array([[1.0], [2.0], [3.0]]))
    np.testing.assert_array_equal(queue[:, 0], [3, 0, 0, 1, 2])
    assert pointer == 1


def test_masked_mse_counts_only_masked_coordinates_of_the_first_person() -> None:
    mask = np.ones((4, 3))
    mask[1, 2] = 0.0
    prediction, target = np.zeros((2, 2, 4, 2, 3, 3))
    prediction[:, 1, 1, 2] = 100.0
    prediction[0, 1, 0, 2] = (3.0, 0.0, 0.0)
    assert restatement.masked_mse(prediction, target, mask) == pytest.approx(9.0 / 6.0)


def test_an_unknown_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="no golden run 'mixdown'; there are cutmix"):
        golden_vectors.load_step("mixdown")


@dataclasses.dataclass(frozen=True)
class TorchCase:
    """A PyTorch GRU in float64, its weights by the restatement's names, and an input."""

    torch: object
    gru: object
    layers: list[dict[str, np.ndarray]]
    x: np.ndarray


def torch_case(bidirectional: bool) -> TorchCase:
    """A two-layer GRU, 3 sequences of 7 frames."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    gru = torch.nn.GRU(6, 5, 2, batch_first=True, bidirectional=bidirectional).double()
    state = {f"gru.{name}": p.detach().numpy() for name, p in gru.named_parameters()}
    x = np.random.default_rng(0).normal(size=(3, 7, 6))
    return TorchCase(torch, gru, restatement.gru_layers(state, "gru", 2), x)


def test_unidirectional_gru_matches_pytorch() -> None:
    case = torch_case(bidirectional=False)
    with case.torch.no_grad():
        expected, _ = case.gru(case.torch.from_numpy(case.x))
    outputs = restatement.gru_unidirectional(case.x, case.layers)
    np.testing.assert_allclose(outputs, expected.numpy(), rtol=0, atol=1e-12)


def test_bidirectional_gru_matches_pytorch() -> None:
    case = torch_case(bidirectional=True)
    with case.torch.no_grad():
        expected, last = case.gru(case.torch.from_numpy(case.x))
    outputs, feature = restatement.bigru_bidirectional(case.x, case.layers)
    np.testing.assert_allclose(outputs, expected.numpy(), rtol=0, atol=1e-12)
    # PyTorch's final states: (layers × directions, N, H), the last layer's at the end.
    both = np.concatenate([last[-2].numpy(), last[-1].numpy()], -1)
    np.testing.assert_allclose(feature, both, rtol=0, atol=1e-12)


def test_causal_gru_matches_pytorchs_bidirectional_gru_fed_frame_by_frame() -> None:
    case = torch_case(bidirectional=True)
    h, expected = None, []
    with case.torch.no_grad():
        for t in range(case.x.shape[1]):
            output, h = case.gru(case.torch.from_numpy(case.x[:, t : t + 1]), h)
            expected.append(output.numpy())
    outputs = restatement.bigru_causal(case.x, case.layers)
    np.testing.assert_allclose(outputs, np.concatenate(expected, 1), rtol=0, atol=1e-12)


def test_batch_norm_matches_pytorch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, scale, bias = rng.normal(size=(3, 7, 4)), rng.normal(size=4), rng.normal(size=4)
    norm = torch.nn.BatchNorm1d(4, momentum=1.0).double()
    with torch.no_grad():
        norm.weight.copy_(torch.from_numpy(scale))
        norm.bias.copy_(torch.from_numpy(bias))
        expected = norm(torch.from_numpy(x.reshape(-1, 4))).numpy().reshape(x.shape)
    y, mean, variance = restatement.batch_norm(x, scale, bias)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mean, norm.running_mean.numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(variance, norm.running_var.numpy(), rtol=0, atol=1e-12)
