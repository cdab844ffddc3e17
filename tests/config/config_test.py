"""Defaults and error messages of the configuration; every setting is read somewhere."""

import importlib
import runpy
import sys
from pathlib import Path

import pytest

import pcm3_jax
from pcm3_jax.config import Config, command_line, config_class, default_config, validate
from pcm3_jax.errors import UserError
from tests.config import reads
from tfds_builders import build

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("**/*.py"))


def changed(key: str, value) -> Config:
    config = default_config()
    config.update_from_flattened_dict({key: value})
    return config


def test_defaults_are_valid_and_equal_the_paper():
    config = default_config()
    validate(config)
    assert config.model.to_dict() == {
        "hidden": 1024, "layers": 3, "recurrence": "causal", "projection": 128,
        "decoder_hidden": 512, "decoder_layers": 2, "prompt_width": 128, "dtype": "float32",
        "precision": "highest", "remat": False,
    }  # fmt: skip
    method = config.method
    assert (method.queue_size, method.key_momentum, method.temperature) == (16384, 0.999, 0.07)
    assert (method.teacher_temperature, method.student_temperature) == (0.05, 0.1)
    assert (method.mask_weight, method.kl_weight) == (40.0, 1.0)
    assert method.positives == ("intra", "mask", "predict", "inter")
    assert method.prompt_placement == "before_norm"
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay) == (
        0.02, 0.9, 1e-4,
    )  # fmt: skip
    assert (optimizer.epochs, optimizer.batch_size, optimizer.decay_epochs) == (451, 128, (351,))
    views = config.views
    assert (views.frames, views.crop_ratio, views.min_crop_frames) == (64, (0.1, 1.0), 64)
    assert (views.jitter_joints, views.mask_ratio, views.mask_clip_frames) == (15, 0.6, 8)
    assert (views.mix_parts, views.mix_blocks, views.mix_block_frames) == ((2, 3), (7, 11), 4)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    config = importlib.import_module(module).get_config()
    validate(config)
    # A recipe changes settings, but adds none.
    assert type(config) is config_class()


@pytest.mark.parametrize("form", ["--config={}", "-config={}", "{}"])
def test_recipes_of_the_package_work_in_any_folder(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argument = form.format("configs/pretrain.py:ntu60_xsub-bone")
    path = Path(pcm3_jax.__file__).with_name("configs") / "pretrain.py"
    assert path.read_text() == (ROOT / "configs" / "pretrain.py").read_text()
    assert command_line.installed(argument) == form.format(f"{path}:ntu60_xsub-bone")
    for other in ("configs/absent.py", "pretrain.py", "--config.data.dir=configs/demo.py"):
        assert command_line.installed(form.format(other)) == form.format(other)
    # The folder's own file comes first.
    Path("configs").mkdir()
    Path("configs/pretrain.py").touch()
    assert command_line.installed(argument) == argument


def test_recipes_are_found():
    assert CONFIGS


PAPER = runpy.run_path("configs/pretrain.py")


@pytest.mark.parametrize("stream", ["", "-joint", "-bone", "-motion"])
@pytest.mark.parametrize("benchmark", [*PAPER["BENCHMARKS"], "ntu60_xsub@pyskl"])
def test_the_papers_recipes_name_data_sets_that_can_be_built(benchmark, stream):
    config = PAPER["get_config"](benchmark + stream)
    validate(config)
    assert config.views.stream == (stream.removeprefix("-") or "joint")
    assert config.method.domain_prompts == (stream in ("", "-joint"))
    builder, _, name = config.data.name.partition("/")
    assert build.load_builder(builder).config_named(name).name == name
    with pytest.raises(UserError, match="there is no recipe"):
        PAPER["get_config"](f"{benchmark}-depth")


def test_a_table_of_real_recordings_is_named_by_its_number():
    get_config = runpy.run_path("configs/irds.py")["get_config"]
    assert (get_config("6").task, get_config("6").tables.number) == ("table", 6)
    with pytest.raises(UserError, match="there is no table 'X'"):
        get_config("X")


READY = runpy.run_path("configs/ready.py")


@pytest.mark.parametrize("corpus", ["", "-irds"])
@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_the_recipes_of_shipped_encoders_name_data_that_can_be_built(stream, corpus):
    config = READY["get_config"](stream + corpus)
    validate(config)
    assert config.views.stream == stream
    assert (READY["IRDS"] in config.data.extra) == bool(corpus)
    for data in (config.data.name, *config.data.extra):
        builder, _, name = data.partition("/")
        assert build.load_builder(builder).config_named(name).name == name
    with pytest.raises(UserError, match="there is no recipe"):
        READY["get_config"]("depth")


OWN = runpy.run_path("configs/own.py")


@pytest.mark.parametrize("sequences", [3, 7, 20, 100, 580, 40_000])
def test_the_recipe_for_own_recordings_suits_their_number(sequences):
    config = OWN["get_config"]("nothing")
    OWN["scale"](config, sequences)
    validate(config)
    optimizer, queue_size = config.optimizer, config.method.queue_size
    config.method.name = "cmd"
    validate(config)
    steps = optimizer.epochs * (sequences // optimizer.batch_size)
    assert steps >= 1000 and optimizer.epochs >= 10
    assert optimizer.decay_epochs[0] < optimizer.epochs
    assert optimizer.batch_size <= min(32, sequences)
    assert 0.375 * sequences < queue_size < sequences


def test_own_recordings_as_many_as_those_of_irds_get_its_recipe():
    config, irds = OWN["get_config"]("nothing"), OWN["IRDS"]["get_config"]()
    OWN["scale"](config, 1434)
    for settings in (config, irds):
        settings.data.name, settings.model.hidden = "", 96
        settings.eval.update(layers=(), pooling=("last",))
        settings.eval.every_epochs, settings.checkpoint.every_epochs = 0, 1
    assert config == irds


@pytest.mark.parametrize("flag", ["--config.data.dir={}", "--config.data.dir {}"])
def test_own_recordings_are_counted_where_the_command_line_says(
    monkeypatch, data_dir, tmp_path, capsys, flag
):
    monkeypatch.chdir(tmp_path)
    name = "synthetic_skeletons/n64x32"
    monkeypatch.setattr(sys, "argv", ["main", *flag.format(data_dir).split()])
    config = OWN["get_config"](name)
    assert (config.data.name, config.data.dir) == (name, "data")
    assert (config.optimizer.batch_size, config.optimizer.epochs) == (8, 143)
    assert config.method.queue_size == 32
    assert capsys.readouterr().out.startswith("for 64 training sequences: optimizer.batch_size=8 ")
    monkeypatch.setattr(sys, "argv", ["main"])
    assert OWN["get_config"](name).optimizer.epochs == 26
    assert capsys.readouterr().out.startswith(f"{name} is not in data, so the recipe is that of")


COUNTS = (
    "model.hidden", "model.layers", "model.projection", "model.decoder_hidden",
    "model.decoder_layers", "method.queue_size", "optimizer.epochs", "linear.epochs",
    "linear.batch_size", "eval.batch_size", "log_every_steps", "checkpoint.every_epochs",
    "checkpoint.keep", "data.read_threads", "views.min_crop_frames", "views.mask_clip_frames",
    "views.mix_block_frames",
)  # fmt: skip
NOT_NEGATIVE = (
    "eval.every_epochs", "linear.cached_crops", "method.kl_weight", "method.mask_weight",
    "optimizer.weight_decay", "optimizer.momentum",
)  # fmt: skip
POSITIVE = (
    "method.temperature", "method.teacher_temperature", "method.student_temperature",
    "optimizer.learning_rate", "linear.learning_rate",
)  # fmt: skip
CHOICES = (
    "task", "mapping", "data.feed", "views.stream", "views.mask_strategy", "model.recurrence",
    "model.dtype", "method.prompt_placement", "checkpoint.on_failure",
)  # fmt: skip
BAD = [
    *((key, 0) for key in COUNTS),
    *((key, -1) for key in COUNTS),
    *((key, -0.5) for key in NOT_NEGATIVE),
    *((key, value) for key in POSITIVE for value in (0.0, -1.0, float("nan"))),
    *((key, "nonsense") for key in CHOICES),
    ("views.frames", 1),
    ("views.frames", 60),
    ("data.max_frames", 1),
    ("views.crop_ratio", (0.0, 1.0)),
    ("views.crop_ratio", (0.6, 0.5)),
    ("views.crop_ratio", (0.5, 1.1)),
    ("views.crop_ratio", (0.5,)),
    ("views.crop_ratio", ()),
    ("views.eval_train_crop_ratio", (-0.1, 0.5)),
    ("views.eval_train_crop_ratio", (0.1, 0.5, 1.0)),
    ("views.eval_crop_ratio", 0.0),
    ("views.eval_crop_ratio", 1.01),
    ("views.jitter_joints", 26),
    ("views.jitter_joints", -1),
    ("views.drop_joints", 1.01),
    ("views.mask_clip_frames", 7),
    ("views.mix_block_frames", 5),
    ("views.mask_ratio", 0.0),
    ("views.mask_ratio", 0.19),
    ("views.mask_ratio", 1.21),
    ("views.mask_ratio", -0.6),
    ("views.mix_parts", (0, 2)),
    ("views.mix_parts", (3, 2)),
    ("views.mix_parts", (2, 6)),
    ("views.mix_parts", (2,)),
    ("views.mix_blocks", (0, 3)),
    ("views.mix_blocks", (8, 7)),
    ("seed", -1),
    ("tables.seeds", (0, -1)),
    ("views.mix_blocks", (7, 17)),
    ("views.mix_blocks", (7, 11, 12)),
    ("optimizer.batch_size", 2),
    ("model.prompt_width", 0),
    ("model.prompt_width", 1024),
    ("method.positives", ("intra", "outer")),
    ("method.positives", ("intra", "intra")),
    ("method.masked_prediction", False),  # the positive 'predict' needs it
    ("method.key_momentum", 1.5),
    ("method.key_momentum", -0.1),
    ("occlusion.kind", "both"),
    ("occlusion.ratio", (0.7, 0.3)),
    ("finetune.fraction", 0.0),
    ("finetune.fraction", 1.1),
    ("detection.threshold", 1.5),
    ("detection.name", "adam"),
    ("motion_prediction.observed", 1),
]


@pytest.mark.parametrize(("key", "value"), BAD, ids=lambda x: str(x))
def test_bad_settings_are_refused_by_name(key, value):
    with pytest.raises(UserError) as error:
        validate(changed(key, value))
    message = str(error.value)
    assert f"config.{key}" in message
    assert "\n" not in message and message.endswith(".")


@pytest.mark.parametrize("task", ["detection", "motion_prediction"])
def test_occlusion_is_refused_where_nothing_is_occluded(task):
    config = changed("task", task)
    validate(config)
    config.occlusion.kind = "spatial"
    with pytest.raises(UserError, match=rf"config\.occlusion\.kind is 'spatial', but .*{task}"):
        validate(config)


def test_nothing_to_train_is_refused():
    config = default_config()
    config.method.positives = ()
    validate(config)
    config.method.masked_prediction = False
    with pytest.raises(UserError, match=r"config\.method\.positives is empty"):
        validate(config)


def test_messages_name_the_allowed_values():
    with pytest.raises(UserError, match=r"is 60, but must be a multiple of .*clip_frames.*is 8"):
        validate(changed("views.frames", 60))
    with pytest.raises(UserError, match=r"'jont'.*one of \('joint', 'bone', 'motion'\)"):
        validate(changed("views.stream", "jont"))
    with pytest.raises(UserError, match=r"masks 0 of 5 body parts; use a ratio from 0\.2 to 1"):
        validate(changed("views.mask_ratio", 0.1))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("views.mask_ratio", 0.2),
        ("views.mask_ratio", 1.0),
        ("views.mix_blocks", (16, 16)),
        ("views.mix_parts", (1, 5)),
        ("views.crop_ratio", (1.0, 1.0)),
        ("views.jitter_joints", 25),
        ("views.drop_joints", 1.0),
        ("model.prompt_width", 1023),
        ("optimizer.batch_size", 3),
        ("method.kl_weight", 0.0),
        ("method.positives", ("intra",)),
        ("eval.every_epochs", 0),
    ],
    ids=str,
)
def test_boundary_values_are_accepted(key, value):
    validate(changed(key, value))


READ = reads.reads(reads.sources())
LEAVES = {key: (type(holder), field.name) for key, holder, field in default_config().walk()}


@pytest.mark.parametrize("key", LEAVES)
def test_every_setting_is_read(key):
    # Flags are read where they are declared; only PyTorch's baseline reads some of the others.
    assert reads.is_read(*LEAVES[key], READ)


def test_an_unread_setting_is_detected():
    """Also if settings of other sections with the same name are read."""
    sources = reads.sources()
    path = reads.PACKAGE / "tasks" / "coordinates.py"
    assert sources[path].count("settings.frames") == 1
    sources[path] = sources[path].replace("settings.frames", "16")
    found = reads.reads(sources)
    missing = {key for key, leaf in LEAVES.items() if not reads.is_read(*leaf, found)}
    assert missing == {"baseline.frames"}
