"""Reading, writing and locking of files."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pcm3_jax.errors import UserError
from pcm3_jax.runtime import files


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/zero"), "no regular file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "missing", "No such file"),
        (Path("a\0b"), "null byte"),
    ):
        with pytest.raises(OSError, match=reason):
            files.opened(path)
        if path.name != "missing":
            for read in (
                lambda path=path: files.read_json(path, dict, "write it again"),
                lambda path=path: files.read_arrays(path, ("x",), "write it again"),
            ):
                with pytest.raises(UserError, match=f"cannot be read: .*{reason}"):
                    read()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_devices_are_written_and_never_replaced():
    with (
        pytest.raises(UserError, match="/dev/full cannot be written: No space left on device"),
        files.replaced(Path("/dev/full")) as partial,
        open(partial, "wb") as file,
    ):
        file.write(b"x")
    with files.replaced(Path("/dev/null")) as partial:
        partial.write_bytes(b"x")
    assert Path("/dev/null").is_char_device()


def test_checksums(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"123456789")
    assert files.crc(path) == "cbf43926"  # the check value of CRC-32
    path.write_bytes(b"")
    assert files.crc(path) == "00000000"


def test_a_lock_keeps_another_process_out_until_it_ends(tmp_path):
    program = (
        "import sys; from pathlib import Path; from pcm3_jax.runtime.files import lock\n"
        "with lock(Path(sys.argv[1])) as free: print(free)"
    )

    def other():
        command = [sys.executable, "-c", program, str(tmp_path / "lock")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with files.lock(tmp_path / "lock") as free:
        assert free and other() == "False\n"
    assert other() == "True\n"


def test_text_that_a_spreadsheet_would_run_is_quoted():
    rows = [["=1+1", "+cmd", "-x", "@a", "\t=1"], ["a=b", "-0.5", "+1e3", -2, 0.25], ["–", "", "x"]]
    text = io.StringIO()
    files.write_csv(text, rows)
    assert list(csv.reader(io.StringIO(text.getvalue()))) == [
        ["'=1+1", "'+cmd", "'-x", "'@a", "'\t=1"],
        ["a=b", "-0.5", "+1e3", "-2", "0.25"],
        ["–", "", "x"],
    ]
