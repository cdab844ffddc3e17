"""`pcm3_jax.show`: a page of recordings, from files and data sets, without and with a model."""

import base64
import resource
import subprocess
import sys

import numpy as np
import pytest

from pcm3_jax import show
from pcm3_jax.data import recordings
from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS, LAYOUTS
from pcm3_jax.data.normalization import normalize_sequence
from pcm3_jax.data.skeleton import missing_joints
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model as library
from pcm3_jax.inference import model_file, torch_layout
from pcm3_jax.inference.weights import ModelWeights
from pcm3_jax.runtime.parallel import Devices
from tests import golden_vectors
from tests.report.report_test import HOSTILE, data_of
from tfds_builders import build
from tfds_builders.synthetic_skeletons import generator

CLASSES = ("bow", "jump", "wave")


@pytest.fixture(scope="module")
def clips():
    """Generated recordings in Kinect's axes, (T, 2, 25, 3) metres."""
    return [clip.skeleton for clip in generator.generate("test", 0, 6)]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """The golden network with a classifier of three classes."""
    tensors = golden_vectors.load_step("cutmix").init
    encoder = torch_layout.weights_from_torch(tensors, "joint", "golden").only
    kernel = 3 * np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    heads = {"classifier": {"kernel": kernel, "bias": np.zeros(3, np.float32)}}
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    weights = ModelWeights.of(encoder, heads=heads, classes=CLASSES, threshold=0.5, window=20)
    model_file.save(path, weights)
    return path


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Runs the command in a folder; returns what its page shows."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        show.run(list(map(str, arguments)))
        return data_of((tmp_path / "show.html").read_text())

    return run


def poses_of(found, number):
    """The stored skeletons of a page, NaN where a joint is missing."""
    sequence = found["sequences"][number]
    raw = np.frombuffer(base64.b64decode(sequence["data"]), "<i2")
    poses = np.where(raw == -32768, np.nan, raw * sequence["scale"])
    return poses.reshape(sequence["frames"], sequence["persons"], 25, 3)


def seen(poses):
    """Poses with NaN for lost joints."""
    return np.where(missing_joints(poses)[..., None], np.nan, poses)


def test_a_recording_as_stored_and_normalised(shown, clips, tmp_path, capsys):
    clip = clips[0][:, :1]
    np.save(tmp_path / "one.npy", clip)
    found = shown("one.npy")
    assert capsys.readouterr().out.startswith("show.html: 1 recording, 0.")
    (one,) = found["recordings"]
    assert (one["title"], one["name"], one["frames"], one["persons"]) == (
        "one.npy", "one.npy", len(clip), 1
    )  # fmt: skip
    stored, normalised = one["panels"]
    assert stored["text"] == "as stored, y upwards"
    np.testing.assert_allclose(poses_of(found, stored["sequence"]), seen(clip), atol=1e-3)
    expected = seen(normalize_sequence(clip))
    np.testing.assert_allclose(poses_of(found, normalised["sequence"]), expected, atol=1e-3)
    assert [found["sequences"][p["sequence"]]["up"] for p in one["panels"]] == [1, 2]
    assert found["skeleton"]["names"] == list(KINECT_V2_JOINTS)
    measures = dict(one["measures"])
    trunk = np.linalg.norm(clip[:, 0, [4, 8]].mean(1) - clip[:, 0, [12, 16]].mean(1), axis=-1)
    assert float(measures["trunk"]) == pytest.approx(np.median(trunk), abs=0.006)
    assert one["warnings"] == [] and one["labels"] is None and one["neighbours"] == []


@pytest.mark.parametrize(
    ("axes", "text"), [([0, 2, 1], "−z"), ([0, 1, 2], "−y")], ids=["z down", "y down"]
)
def test_other_axes_are_drawn_upright(shown, clips, tmp_path, axes, text):
    # Rotations of Kinect's axes: y, up, becomes the negative second or third one.
    clip = clips[0][..., axes] * ([1, 1, -1] if text == "−z" else [-1, -1, 1])
    np.save(tmp_path / "one.npy", clip)
    found = shown("one.npy")
    stored = found["recordings"][0]["panels"][0]
    assert stored["text"] == f"as stored, {text} upwards"
    drawn = poses_of(found, stored["sequence"])
    np.testing.assert_allclose(drawn[:, :1], seen(clips[0][:, :1]), atol=1e-3)


def test_implausible_bodies_are_warned_of(shown, clips, tmp_path, capsys):
    np.save(tmp_path / "one.npy", 10 * clips[0][:, :1])
    (one,) = shown("one.npy")["recordings"]
    (warning,) = one["warnings"]
    assert "decimetres" in warning
    assert f"note: one.npy: {warning}\n" == capsys.readouterr().err


def test_joints_that_a_layout_lacks_are_missing(shown, clips, tmp_path):
    layout = LAYOUTS["kinect_v1_20"]
    sources = [KINECT_V2_JOINTS.index(name) for name, own in layout.sources.items() if own]
    order = [layout.joints.index(layout.sources[KINECT_V2_JOINTS[i]][0]) for i in sources]
    clip = seen(clips[0][:, :1])[:, 0, sources][:, np.argsort(order)]
    head = KINECT_V2_JOINTS.index("head")
    clip[5:9, layout.joints.index("head")] = np.nan
    np.save(tmp_path / "one.npy", clip)
    found = shown("one.npy", "--layout=kinect_v1_20")
    for panel in found["recordings"][0]["panels"]:
        missing = np.isnan(poses_of(found, panel["sequence"]))[:, 0, :, 0]
        assert missing.all(0).nonzero()[0].tolist() == list(layout.missing)
        assert missing[5:9, head].all() and not missing[:, head].all()


def test_what_a_model_says(shown, clips, model_path, tmp_path):
    for number, clip in enumerate(clips):
        np.save(tmp_path / f"{number}.npy", clip)
    found = shown(*(f"{n}.npy" for n in range(6)), f"--model={model_path}")
    model = library.load(model_path)
    features = model.embed(clips)
    cosines = model.search(features, features, 6).similarities
    for number, one in enumerate(found["recordings"]):
        (labels,) = model.labels(features[number : number + 1])
        assert one["whole"]["of"] == "the whole recording"
        for (name, share), (label, expected) in zip(one["whole"]["labels"], labels, strict=True):
            assert name == label and share == pytest.approx(expected, abs=1e-3)
        # Itself is left out.
        near = one["neighbours"]
        assert sorted([one["name"], *(other["name"] for other in near)]) == [
            f"{n}.npy" for n in range(6)
        ]
        assert [other["cosine"] for other in near] == pytest.approx(cosines[number, 1:], abs=1e-3)
    # Labels over time are those of windows of the recording.
    labels, clip = one["labels"], clips[5]
    middle = len(labels["at"]) // 2
    centre = labels["at"][middle]
    (expected,) = model.classify(clip[centre - 10 : centre + 10])
    values = {line["label"]: line["values"][middle] for line in labels["series"]}
    assert values == pytest.approx(dict(expected), abs=1e-3)
    band = labels["band"]
    assert band[0]["start"] == 0 and band[-1]["stop"] == len(clip) - 1
    assert all(a["stop"] == b["start"] for a, b in zip(band, band[1:], strict=False))
    assert all((part["label"] is None) == (part["share"] < 0.5) for part in band)


def test_a_single_recording_has_no_neighbours(shown, clips, model_path, tmp_path):
    np.save(tmp_path / "one.npy", clips[0])
    found = shown("one.npy", f"--model={model_path}")
    assert found["recordings"][0]["neighbours"] == [] and "no other recording" in found["lead"]


def test_a_data_set_shows_different_labels_and_counts_the_rest(shown, data_dir, model_path):
    name = "synthetic_skeletons/n64x32"
    found = shown(name, f"--data_dir={data_dir}", f"--model={model_path}")
    assert found["heading"] == "24 of 32 recordings"
    assert found["lead"].startswith("The other 8 are not shown. ")
    test, train = (
        recordings.read(name, data_dir, split, 300, Devices("pmap"), resident=False)
        for split in ("test", "train")
    )
    labels = {one["label"] for one in found["recordings"]}
    assert labels == {test.classes[label] for label in test.label}
    assert [p["title"] for p in found["recordings"][0]["panels"]] == ["Normalised"]
    near = {other["name"] for one in found["recordings"] for other in one["neighbours"]}
    assert near & set(train.name) and near <= {*train.name, *test.name}
    assert shown(f"{name}:train", f"--data_dir={data_dir}")["heading"] == "24 of 64 recordings"


def test_a_whole_video_is_shown(shown, tmp_path):
    build.build("synthetic_skeletons/n2x2_untrimmed", tmp_path / "data")
    one, _ = shown("synthetic_skeletons/n2x2_untrimmed")["recordings"]
    assert one["label"] is None and one["frames"] > 300


def test_a_gif_moves(shown, clips, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    np.save(tmp_path / "one.npy", clips[0])
    shown("one.npy", "--gif=one.gif")
    assert "one.gif: one.npy\n" in capsys.readouterr().out
    with image.open(tmp_path / "one.gif") as found:
        assert found.size == (640, 360) and found.n_frames == round(len(clips[0]) / 30 * 20)
        frames = []
        for number in (0, found.n_frames // 2):
            found.seek(number)
            frames.append(np.asarray(found.convert("L")))
    # Both views are drawn, and move.
    for view in (np.s_[:, :320], np.s_[:, 320:]):
        assert (frames[0][view] < 128).any() and (frames[0][view] != frames[1][view]).any()


def test_a_gif_has_the_labels_of_its_frames():
    pytest.importorskip("PIL.Image", reason="needs pillow")
    from pcm3_jax.report import gif

    band = [{"start": 0, "stop": 3.5, "label": None}, {"start": 3.5, "stop": 9, "label": "wave"}]
    assert [gif._label(band, time) for time in (0, 3, 4, 9, 10)] == ["", "", "wave", "wave", ""]


def test_hostile_names_stay_data(shown, clips, tmp_path):
    name = HOSTILE.replace("/", "")
    np.savez(tmp_path / "some.npz", **{name: clips[0]})
    found = shown("some.npz")
    assert found["recordings"][0]["title"] == f"some.npz:{name}"
    text = (tmp_path / "show.html").read_text()
    assert text.count("<script") == text.count("</script>") == 2 and "<img" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one.npy", "--gif=one.png"], "--gif=one.png must end in .gif"),
        (["one.npy", "--out=."], "--out=. is a folder"),
        (["one.npy", "--out=no/page.html"], "no/page.html cannot be written"),
        (["gone.npy"], "gone.npy cannot be read"),
        (["gone"], "There is no data set 'gone' in data: build it"),
        (["gone:train"], "There is no data set 'gone' in data: build it"),
    ],
)
def test_mistakes_are_one_sentence(shown, clips, tmp_path, arguments, message):
    np.save(tmp_path / "one.npy", clips[0])
    with pytest.raises(UserError, match=message):
        shown(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["one.npy"]


def test_one_file_takes_seconds_from_a_cold_start(clips, tmp_path):
    np.save(tmp_path / "one.npy", clips[0])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pcm3_jax.show", "one.npy", "--model=irds"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
