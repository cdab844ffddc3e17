"""Every file that a command reads, damaged in every way: the right answer, or one sentence."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import logging
import os
import pickle
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pcm3_jax import convert, embed, fit, main, predict, summary
from pcm3_jax.config import Config
from pcm3_jax.errors import UserError, WriteError
from pcm3_jax.inference import model_file
from pcm3_jax.report import __main__ as report
from pcm3_jax.runtime import commands
from tests.running import Program
from tfds_builders import build

# Orbax's own threads complain of a damaged checkpoint once they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PLACES = 20
# No command on files of this size takes longer, also on a busy machine.
SECONDS = 20


class Command(NamedTuple):
    """A command that reads files of a workspace.

    Attributes:
      run: (workspace) → what it has found, which must be equal for equal files.
      reads: patterns of the files that it reads.
      verified: patterns of those whose content has a checksum or is redundant: with a changed byte
        the command finds the same, or refuses.
    """

    run: Callable[[Path], object]
    reads: tuple[str, ...]
    verified: tuple[str, ...] = ()


def embedded(space: Path, model: str, file: str = "own/0.npy") -> bytes:
    out = space / "features.npz"
    embed.run([str(space / file), f"--model={space / model}", f"--out={out}"])
    return np.load(out)["features"].tobytes()


def configuration(space: Path) -> Config:
    config = runpy.run_path(str(space / "small.py"))["get_config"]()
    config.data.dir = str(space / "data")
    return config


def evaluated(space: Path) -> object:
    config = configuration(space)
    config.task, config.encoder = "linear_eval", str(space / "run")
    return main.run(config, space / "evaluation")


def continued(space: Path) -> object:
    config = configuration(space)
    return main.run(config, space / "run")


def fitted(space: Path) -> object:
    out = space / "mine.safetensors"
    fit.run([str(space / "own/labels.csv"), f"--model={space / 'model.safetensors'}",
             f"--out={out}"])  # fmt: skip
    return model_file.load(out).heads["classifier"]["kernel"].tobytes()


def built(space: Path) -> object:
    build.build("own_skeletons/kinect_v2_25", space / "built", space / "own", skip_bad_files=False)
    return None


def reported(space: Path) -> object:
    report.run([str(space / "run"), f"--out={space / 'report.html'}", f"--data_dir={space}/data"])
    return None


DATA = ("data/**/*",)
COMMANDS = {
    "embed with a checkpoint": Command(
        lambda space: embedded(space, "run"),
        ("run/*.json", "run/checkpoints/**/*", "own/0.npy"),
        ("run/checkpoints/**/*",),
    ),
    "embed with a file": Command(
        lambda space: embedded(space, "model.safetensors"),
        ("model.safetensors", "own/0.npy"),
        ("model.safetensors",),
    ),
    "predict with an evaluation": Command(
        lambda space: predict.run([str(space / "own/0.npy"), f"--model={space / 'linear'}"]),
        ("linear/*", "run/*.json", "run/checkpoints/**/*", "own/0.npy"),
    ),
    "fit": Command(fitted, ("own/*", "model.safetensors"), ("model.safetensors",)),
    "evaluate": Command(evaluated, (*DATA, "run/checkpoints/**/*", "run/*.json"), DATA),
    "continue": Command(continued, ("run/*", "run/checkpoints/**/*"), ("run/checkpoints/**/*",)),
    "build": Command(built, ("own/*",)),
    "summary": Command(lambda space: summary.run([str(space / "linear")]), ("linear/*",)),
    "report": Command(reported, ("run/*", "run/checkpoints/**/*")),
    "export": Command(
        lambda space: convert.run(["export", str(space / "run"), str(space / "x.safetensors")]),
        ("run/*.json", "run/checkpoints/**/*"),
        ("run/checkpoints/**/*",),
    ),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory, data_dir, program, finished_run):
    """A workspace: a data set, a run, its evaluation, an exported model, own recordings."""
    space = tmp_path_factory.mktemp("original")
    shutil.copytree(data_dir, space / "data")
    shutil.copytree(finished_run[0], space / "run")
    with quiet():
        convert.run(["export", str(space / "run"), str(space / "model.safetensors")])
        config = Program(space, space / "data").config()
        config.task, config.encoder = "linear_eval", str(space / "run")
        main.run(config, space / "linear")
    (space / "own").mkdir()
    rng = np.random.default_rng(0)
    rows = [["file", "label", "performer", "split"]]
    for number in range(8):
        walk = rng.normal(size=(12, 25, 3)) + 0.1 * rng.normal(size=(12, 25, 3)).cumsum(axis=0)
        np.save(space / f"own/{number}.npy", (walk + [0, 0, 3]).astype(np.float32))
        rows.append(
            [f"{number}.npy", "ab"[number % 2], str(number % 4), ("train", "test")[number > 3]]
        )
    with open(space / "own/labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return space


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def workspace(original: Path, folder: Path) -> Path:
    """A copy that shares the files' contents; whoever changes one writes it anew."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder, copy_function=os.link)
    return folder


def answer(command: Command, space: Path) -> tuple[str, object]:
    """("found", what it finds) or ("refused", the sentence); raises anything else."""

    def late(*_: object) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with quiet():
            return "found", command.run(space)
    except (UserError, WriteError) as error:
        return "refused", str(error)
    except OSError as error:  # the entry points end with this sentence, if it names the file
        if error.filename is None:
            raise
        return "refused", commands.unusable(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def damages(path: Path, places: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """(what, a function that damages the file) for each kind of damage."""
    content = path.read_bytes()

    def write(changed: bytes) -> Callable[[], None]:
        def change() -> None:
            path.unlink()  # its content is shared
            path.write_bytes(changed)

        return change

    def folder() -> None:
        path.unlink()
        path.mkdir()

    yield "empty", write(b"")
    yield "half", write(content[: len(content) // 2])
    yield "a folder", folder
    rng = np.random.default_rng(len(content))
    for place in rng.integers(len(content), size=places if content else 0):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        yield f"byte {place}", write(bytes(changed))


def matching(space: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = {path for pattern in patterns for path in space.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(space) for path in found if path.name != ".lock")


def attack(original: Path, folder: Path, command: Command, places: int, *, all_kinds: bool) -> int:
    """Damages each file that a command reads, once or in all ways; returns the attempts."""
    kind, right = answer(command, workspace(original, folder))
    assert kind == "found", right
    verified, attempts = set(matching(original, command.verified)), 0
    for number, name in enumerate(matching(original, command.reads)):
        for index in range(3 + places) if all_kinds else [number % (3 + places)]:
            space = workspace(original, folder)
            kinds = list(damages(space / name, places))
            if index >= len(kinds):
                break
            what, damage = kinds[index]
            damage()
            attempts += 1
            try:
                kind, found = answer(command, space)
            except Exception as error:
                raise AssertionError(f"{name}, {what}: {type(error).__name__}: {error}") from error
            if kind == "refused":
                assert "\n" not in found and found.endswith("."), f"{name}, {what}: {found}"
            elif name in verified and what.startswith("byte"):
                assert found == right, f"{name}, {what}: another answer without a word"
    return attempts


@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in ("continue", "report")])
def test_damaged_files_are_noticed_or_harmless(original, tmp_path, name):
    assert attack(original, tmp_path / "space", COMMANDS[name], 1, all_kinds=False) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_many_damages_are_noticed_or_harmless(original, tmp_path, name):
    assert attack(original, tmp_path / "space", COMMANDS[name], PLACES, all_kinds=True) > 20


def test_no_command_opens_a_file_that_is_not_attacked(original, tmp_path):
    """Traces what Python opens; what C++ opens lies in the same folders."""
    opened: set[str] = set()
    tracing = True

    def hook(event: str, arguments: tuple) -> None:
        if tracing and event == "open" and isinstance(arguments[0], str):
            writes = isinstance(arguments[1], str) and arguments[1][0] in "wax"
            if not writes and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                opened.add(arguments[0])

    sys.addaudithook(hook)
    try:
        for name, command in COMMANDS.items():
            space = workspace(original, tmp_path / "space")
            opened.clear()
            answer(command, space)
            attacked = set(matching(space, command.reads))
            for path in map(Path, sorted(opened)):
                if path.is_file() and path.is_relative_to(space):
                    relative = path.relative_to(space)
                    known = relative.parts[0] == "data" or relative.name in ("small.py", ".lock")
                    if (original / relative).exists() and not known:
                        assert relative in attacked, (name, relative)
    finally:
        tracing = False


WRITERS = ("embed with a file", "fit", "evaluate", "continue", "build", "report", "export")


def left(space: Path) -> dict[Path, bytes]:
    """The content of each file of a workspace, but for the locks."""
    files = [p for p in space.rglob("*") if p.is_file() and p.name != ".lock"]
    return {path.relative_to(space): path.read_bytes() for path in files}


@contextlib.contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file of this process may become larger than ``size`` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    logging.disable()  # Orbax logs what it also raises.
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(original: Path, folder: Path, name: str, size: int) -> None:
    """Runs a command on a full disk, and then again with room."""
    _, right = answer(COMMANDS[name], workspace(original, folder))
    space = workspace(original, folder)
    before = left(space)
    with full_after(size):
        kind, sentence = answer(COMMANDS[name], space)
    if kind == "found":
        return
    assert "\n" not in str(sentence), sentence
    after = left(space)
    for path, content in before.items():
        assert path in after, f"{path} is lost"
        # A run adds to these while it works.
        if path.name not in ("provenance.json", "metrics.jsonl"):
            assert after[path] == content, f"{path} has changed"
    assert answer(COMMANDS[name], space) == ("found", right)


@pytest.mark.parametrize("name", [n for n in WRITERS if n not in ("continue", "report")])
def test_a_full_disk_is_one_sentence_and_loses_nothing(original, tmp_path, name):
    fill(original, tmp_path / "space", name, 0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, 100, 3000, 20_000])
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_is_one_sentence_and_loses_nothing(original, tmp_path, name, size):
    fill(original, tmp_path / "space", name, size)


KILLED = """
import os, signal, sys
from pathlib import Path

count = int(sys.argv[3])

def hook(event, arguments):
    global count
    writes = event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wax"
    if writes or event in ("os.rename", "os.replace", "os.mkdir", "os.remove"):
        place = str(arguments[0])
        if place.startswith(sys.argv[2]):
            count -= 1
            if count == 0:
                os.kill(os.getpid(), signal.SIGKILL)

from tests import attacks_test
command = attacks_test.COMMANDS[sys.argv[1]]
sys.addaudithook(hook)
command.run(Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_kill_at_any_write_loses_nothing(original, tmp_path, name):
    space = tmp_path / "space"
    _, right = answer(COMMANDS[name], workspace(original, space))
    for number in range(1, 40):
        workspace(original, space)
        command = [sys.executable, "-c", KILLED, name, str(space), str(number)]
        done = subprocess.run(command, capture_output=True, timeout=300, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
        assert answer(COMMANDS[name], space) == ("found", right), number
    assert number > 1


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> tuple[Callable, tuple[str, str]]:
        return open, (self._mark, "w")


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that exists once a payload was executed; `evil` is a module that creates it."""
    mark = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(f"class Payload: pass\nopen({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    assert not mark.exists() and "evil" not in sys.modules


def array_of(mark: Path) -> np.ndarray:
    return np.array([Payload(mark)], object)


def poisoned(value: object) -> object:
    """JSON with the class of the payload as each of its strings."""
    if isinstance(value, dict):
        return {key: poisoned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner) for inner in value]
    return "evil.Payload" if isinstance(value, str) else value


def payloads(content: bytes, mark: Path) -> Iterator[bytes]:
    """What could be executed in place of a file's content."""
    with contextlib.suppress(ValueError):
        yield json.dumps(poisoned(json.loads(content))).encode()
    yield pickle.dumps(Payload(mark))
    for save in (np.save, np.savez):
        stream = io.BytesIO()
        save(stream, array_of(mark))
        yield stream.getvalue()


def execute(original: Path, folder: Path, command: Command, mark: Path, most: int) -> None:
    # Files of the same name are read by the same code.
    for name in {path.name: path for path in matching(original, command.reads)}.values():
        for content in itertools.islice(payloads((original / name).read_bytes(), mark), most):
            path = workspace(original, folder) / name
            path.unlink()
            path.write_bytes(content)
            kind, found = answer(command, folder)
            assert not mark.exists(), name
            assert kind == "found" or "\n" not in str(found), name


@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in ("continue", "report")])
def test_no_file_is_executed(original, tmp_path, mark, name):
    execute(original, tmp_path / "space", COMMANDS[name], mark, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_no_file_is_executed_in_any_format(original, tmp_path, mark, name):
    execute(original, tmp_path / "space", COMMANDS[name], mark, 4)


def test_the_payloads_work(tmp_path):
    mark = tmp_path / "executed"
    for content in payloads(b"", mark):
        loaded = np.load(io.BytesIO(content), allow_pickle=True)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            loaded["arr_0"]
        assert mark.exists()
        mark.unlink()


def pth(mark: Path) -> bytes:
    """As `torch.save` writes it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"state_dict": Payload(mark)}, protocol=2))
        archive.writestr("x/version", "3\n")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("x.npy", lambda mark: list(payloads(b"", mark))[1]),
        ("x.npz", lambda mark: list(payloads(b"", mark))[2]),
        ("x.pth", pth),
        ("old.pth", lambda mark: pickle.dumps({"state_dict": Payload(mark)}, protocol=2)),
        ("x.safetensors", lambda mark: pickle.dumps(Payload(mark))),
        ("x.toml", lambda mark: b'joints = ["__import__(\'evil\')"]\nclass = "evil.Payload"\n'),
        ("labels.csv", lambda mark: b"file,label,performer,split\n__import__('evil'),a,1,train\n"),
        ("ntu60_3danno.pkl", lambda mark: pickle.dumps({"annotations": [Payload(mark)]})),
    ],
)
def test_no_file_that_users_name_is_executed(original, tmp_path, mark, name, make):
    path = tmp_path / name
    path.write_bytes(make(mark))
    good, out = str(original / "own/0.npy"), str(tmp_path / "out.safetensors")
    run = {
        ".npy": lambda: embed.run([str(path)]),
        ".npz": lambda: embed.run([str(path)]),
        ".pth": lambda: convert.run(["from_torch", str(path), out]),
        ".safetensors": lambda: embed.run([good, f"--model={path}"]),
        ".toml": lambda: embed.run([good, f"--layout={path}"]),
        ".csv": lambda: fit.run([str(path), f"--out={out}"]),
        ".pkl": lambda: build.build("ntu_rgbd/ntu60_xsub@pyskl", tmp_path / "built", path),
    }[path.suffix]
    with pytest.raises(UserError):
        run()
