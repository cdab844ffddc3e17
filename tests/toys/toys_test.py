"""A new task or method needs only its own file and one line in the registry."""

import json
import os
import signal
import sys

import pytest
from absl.testing import flagsaver

from pcm3_jax import main
from pcm3_jax.benchmark import step
from pcm3_jax.config import command_line, validate
from pcm3_jax.errors import UserError
from pcm3_jax.methods import METHODS
from pcm3_jax.registry import TASKS
from pcm3_jax.report import results, summary
from pcm3_jax.report.contents import contents
from pcm3_jax.report.encoders import Splits
from pcm3_jax.report.runs import read_runs
from pcm3_jax.tasks import pretrain
from pcm3_jax.train.loop import Preempted
from tests.running import assert_same_run, losses
from tests.toys.norms import Norms
from tests.toys.pull import Pull

# ml_collections loads configuration files through a deprecated Python API.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated")


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "norms", Norms())
        patch.setitem(METHODS, "pull", Pull())
        yield


@pytest.fixture
def method_config(program):
    config = program.config()
    config.method.name = "pull"
    config.pull.weight = 2.0
    return config


@pytest.fixture
def task_config(program, method_run):
    config = program.config()
    config.task = "norms"
    config.norms.order = 1
    config.encoder = str(method_run)
    return config


@pytest.fixture(scope="module")
def method_run(program, tmp_path_factory):
    """The workdir of an uninterrupted run of the method."""
    workdir = tmp_path_factory.mktemp("toys") / "pull"
    config = program.config()
    config.method.name = "pull"
    config.pull.weight = 2.0
    main.run(config, workdir)
    return workdir


@pytest.fixture
def task_run(task_config, tmp_path):
    """The workdir of a run of the task on the method's encoder."""
    main.run(task_config, tmp_path / "norms")
    return tmp_path / "norms"


def test_a_method_trains(method_run):
    assert losses(method_run)[-4:].mean() < 0.9 * losses(method_run)[:4].mean()
    assert json.loads((method_run / "config.json").read_text())["pull"] == {"weight": 2.0}


def test_a_method_resumes_bitwise(method_config, method_run, tmp_path, monkeypatch):
    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return accuracy(*arguments)

    accuracy = pretrain.retrieval_accuracy
    monkeypatch.setattr(pretrain, "retrieval_accuracy", interrupted)
    with pytest.raises(Preempted, match="saved step 8"):
        main.run(method_config, tmp_path)
    monkeypatch.setattr(pretrain, "retrieval_accuracy", accuracy)
    main.run(method_config, tmp_path)
    assert_same_run(method_run, tmp_path)


def test_a_method_is_planned_and_measured(method_config, tmp_path):
    lines = main.dry_run(method_config, tmp_path / "run")
    assert lines["method"] == "pull"
    assert lines["network"].count(",") == 1  # An encoder and a projector.
    method_config.benchmark.steps = 1
    figures = step.measure(method_config)
    assert figures["gflop_per_sample"] == Pull().step_flops(method_config) / 1e9
    assert figures["step_seconds"] > 0


def test_a_task_runs_and_is_planned(task_run, task_config, tmp_path):
    found = json.loads((task_run / "results.json").read_text())
    assert found.keys() == {"task", "mean_norm"}
    assert found["mean_norm"] > 0
    assert json.loads((task_run / "config.json").read_text())["norms"] == {"order": 1}
    lines = main.dry_run(task_config, tmp_path / "another")
    assert "as long as encoding 32 sequences" in lines["time"]


def test_tables_and_the_report_show_both(task_run, method_run):
    heading, _, row = summary.table([method_run, task_run]).splitlines()
    assert "| feature length |" in heading
    assert "| pretrained encoder | joint |" in row
    runs, _ = read_runs([method_run, task_run])
    titles = [table["title"] for table in results.tables(runs, {})]
    assert titles == ["Encoders compared", "Results of pretrain", "Results of norms"]
    page = contents(runs, {}, Splits(None))
    assert [run["task"] for run in page["runs"]] == ["pretrain", "norms"]
    # The task's encoder is that of the method's run.
    assert [found["run"] for found in page["encoders"]] == [0]
    keys = {row["key"]: row["values"] for row in page["settings"]["rows"]}
    assert keys["norms.order"] == ["2", "1"]
    assert keys["pull.weight"] == ["2.0", "1.0"]


def test_settings_are_flags_and_part_of_help(program, tmp_path, monkeypatch, capsys):
    found = []
    arguments = program.command(tmp_path, "--config.task=norms", "--config.norms.order=3")[2:]
    monkeypatch.setattr(sys, "argv", arguments)
    sys.modules.pop("config_config", None)
    with flagsaver.flagsaver():
        command_line.main(lambda config, workdir: found.append(config.norms.order))
    assert found == [3]
    monkeypatch.setattr(sys, "argv", ["main", "--help"])
    command_line.main(main.run)
    assert "--config.norms.order=2: p of the p-norm (at least 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"task": "norms", "norms.order": 0}, r"config\.norms\.order is 0, but must be at least 1"),
        ({"task": "norms", "norms.order": 13}, r"config\.norms\.order is 13, which is unlucky"),
        ({"method.name": "pull", "pull.weight": 13.0}, r"config\.pull\.weight is 13\.0, which is"),
        ({"method.name": "pull", "pull.weight": "much"}, r"config\.pull\.weight is 'much', but"),
    ],
)
def test_settings_are_checked(program, settings, expected):
    config = program.config()
    config.update_from_flattened_dict(settings)
    with pytest.raises(UserError, match=expected):
        validate(config)
