import json

import pytest

from pcm3_jax.config import default_config
from pcm3_jax.errors import UserError
from pcm3_jax.report import runs
from pcm3_jax.runtime.files import write_json


def workdir(folder, **settings):
    config = default_config()
    config.update_from_flattened_dict(settings)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", json.loads(config.to_json()))
    return folder


def test_names_are_as_short_as_they_can_be(tmp_path):
    paths = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "b" / "y"]
    assert runs.short_names(paths) == ["a/x", "b/x", "y"]
    with pytest.raises(UserError, match="named twice"):
        runs.short_names([tmp_path / "a", tmp_path / "b" / ".." / "a"])


def test_a_run_that_has_only_begun(tmp_path):
    (run,), benchmarks = runs.read_runs([workdir(tmp_path / "new", task="fusion")])
    assert (run.name, run.task.name) == ("new", "fusion")
    assert not (run.metrics or run.results or run.starts or run.checkpoints or benchmarks)


def test_settings_younger_than_the_run_have_their_defaults(tmp_path):
    path = workdir(tmp_path / "old")
    config = json.loads((path / "config.json").read_text())
    del config["baseline"]
    write_json(path / "config.json", config)
    (run,), _ = runs.read_runs([path])
    assert run.config.baseline == default_config().baseline


def test_the_line_being_written_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert runs.read_metrics(path) == [{"step": 1, "loss": 2.0}]


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "1"}', "\xff", "[" * 9999])
def test_a_damaged_line_costs_only_itself(tmp_path, line, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n', encoding="latin-1")
    assert runs.read_metrics(path) == [{"step": 1}, {"step": 3}]
    assert "metrics.jsonl: 1 damaged lines of 3 are left out" in capsys.readouterr().err


def test_trainings_inside_a_run_have_metrics_of_their_own(tmp_path):
    path = workdir(tmp_path / "fine", task="finetune")
    (path / "draw_1").mkdir()
    (path / "draw_1" / "metrics.jsonl").write_text('{"step": 4, "loss": 1.0}\n')
    (run,), _ = runs.read_runs([path])
    assert run.metrics == {"draw_1": [{"step": 4, "loss": 1.0}]}


def test_a_benchmark_is_no_run(tmp_path):
    write_json(tmp_path / "benchmark.json", {"devices": 2})
    assert runs.read_runs([tmp_path]) == ([], {tmp_path.name: {"devices": 2}})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[]", "config.json"),
        ("results.json", "{", "results.json is damaged"),
        ("results.json", "[]", "results.json is damaged .it holds no JSON object"),
        ("provenance.json", "{}", "provenance.json is damaged .it holds no"),
        ("provenance.json", "[1]", "provenance.json is damaged .it holds no"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, text, message):
    path = workdir(tmp_path / "run")
    (path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        runs.read_runs([path])


def test_what_is_no_workdir_is_named(tmp_path):
    with pytest.raises(UserError, match="There is no folder .*gone"):
        runs.read_runs([tmp_path / "gone"])
    with pytest.raises(UserError, match=r"no run in .*config\.json is missing"):
        runs.read_runs([tmp_path])
