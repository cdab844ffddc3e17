"""Run logging, apart from what the loop's tests check."""

import json
import sys

import jax
import pytest
from tensorboardX.proto import event_pb2

from pcm3_jax.errors import WriteError
from pcm3_jax.train.metrics import Telemetry


def make(workdir, first_step: int = 0, on_failure: str = "stop") -> Telemetry:
    return Telemetry(workdir, first_step, total_steps=10, batch_size=4, on_failure=on_failure)


def events(workdir) -> list[tuple[int, str, float]]:
    """(step, tag, value) of every scalar in the workdir's TensorBoard files."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            # Length, its checksum, the event, its checksum.
            length = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return found


def test_metrics_jsonl_and_tensorboard_hold_the_same_values(tmp_path):
    telemetry = make(tmp_path)
    telemetry.log_training(2, {"loss": 3.5}, waited=0.0)
    telemetry.log_evaluation(2, {"epoch": 1, "knn_accuracy": 0.25})
    telemetry.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0].keys() == {
        "step", "loss", "samples_per_second", "seconds_left", "input_wait_share", "peak_memory_gb",
    }  # fmt: skip
    assert lines[1] == {"step": 2, "epoch": 1, "knn_accuracy": 0.25}
    told = {(step, tag): value for step, tag, value in events(tmp_path)}
    for line in lines:
        for name in line.keys() - {"step"}:
            assert told[2, name] == pytest.approx(line[name])


def test_throughput_is_measured_since_the_last_logged_step(tmp_path, monkeypatch):
    seconds = iter([100.0, 102.0, 103.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(seconds))
    telemetry = make(tmp_path, first_step=1)
    telemetry.log_training(5, {"loss": 1.0}, waited=0.5)
    telemetry.log_training(7, {"loss": 1.0}, waited=0.0)
    monkeypatch.undo()
    telemetry.close()
    first, second = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    # Four steps of four samples in two seconds; five steps are left.
    assert first["samples_per_second"] == 8
    assert first["seconds_left"] == 2.5
    assert first["input_wait_share"] == 0.25
    assert (second["samples_per_second"], second["seconds_left"]) == (8, 1.5)


def test_a_full_disk_stops_the_run(tmp_path, filled):
    telemetry = make(tmp_path)
    with filled(), pytest.raises(WriteError, match=r"metrics\.jsonl cannot be written \((No|File)"):
        # The last block of a file may still have room on a full disk.
        for step in range(1, 100):
            telemetry.log_training(step, {"loss": 1.0}, waited=0.0)
    telemetry.close()


def test_lines_are_complete_after_a_full_disk(tmp_path, filled, capsys, monkeypatch):
    """Also if more lines are waiting than fit in the file's buffer."""
    monkeypatch.setattr("pcm3_jax.train.metrics._FLUSH_SECONDS", 0)
    telemetry = make(tmp_path, on_failure="continue")
    telemetry.log_evaluation(1, {"loss": 1.0})
    with filled():
        for step in range(2, 1000):
            telemetry.log_evaluation(step, {"loss": 1.0})
    warnings = capsys.readouterr().err.splitlines()
    assert sorted(line.split(" cannot")[0] for line in warnings) == [
        f"warning: {tmp_path / name}" for name in ("metrics.jsonl", "tensorboard")
    ]  # fmt: skip
    telemetry.log_evaluation(1000, {"loss": 1.0})
    telemetry.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert {1, 2, 1000} < set(steps)
    # What does not fit the file's buffer is lost.
    assert len(steps) < 1000


def test_steps_about_to_be_repeated_are_dropped(tmp_path):
    telemetry = make(tmp_path)
    for step in range(1, 7):
        telemetry.log_training(step, {"loss": 1.0}, waited=0.0)
    telemetry.close()
    make(tmp_path, first_step=4).close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_other_processes_log_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    telemetry = make(tmp_path)
    telemetry.advance()
    telemetry.log_training(2, {"loss": 3.5}, waited=0.0)
    telemetry.log_evaluation(2, {"knn_accuracy": 0.5})
    telemetry.close()
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_a_progress_bar_instead_of_training_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    telemetry = make(tmp_path, first_step=5)
    telemetry.advance()
    telemetry.log_training(6, {"loss": 3.5}, waited=0.0)
    telemetry.log_evaluation(6, {"knn_accuracy": 0.5})
    telemetry.close()
    out, err = capsys.readouterr()
    assert out == "step 6/10  knn_accuracy 0.5\n"
    assert "24.0/40.0 [" in err
    assert "samples/s, loss 3.5]" in err
