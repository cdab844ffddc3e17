"""Finding raw files in folders and archives."""

import errno
import io
import os
import random
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from pcm3_jax.data.formats import raw_files
from pcm3_jax.data.formats.raw_files import BadFile, RawFile, find_files, needed, search
from pcm3_jax.errors import UserError

DATA = ("a.skeleton", "sub/B.SKELETON", "sub/c.Skeleton")
STRAY = (
    "._a.skeleton", "__MACOSX/sub/d.skeleton", "sub/Thumbs.db", ".DS_Store", "README.txt",
    "sub/readme.skeleton", "Desktop.ini",
)  # fmt: skip
OTHER = ("notes.txt", "sub/picture.png")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "raw"
    for name in DATA + STRAY + OTHER:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


@pytest.mark.parametrize("archive", [None, "raw.zip", "raw.ZIP", "raw.tar.xz", "RAW.TGZ"])
def test_stray_files_are_told_apart_and_endings_may_be_in_any_case(tmp_path, folder, archive):
    source = folder
    if archive:
        source = tmp_path / archive
        if archive.lower().endswith(".zip"):
            with zipfile.ZipFile(source, "w") as out:
                for path in folder.rglob("*"):  # folders, too
                    out.write(path, path.relative_to(folder))
        else:
            with tarfile.open(source, f"w:{archive[-2:].lower().replace('tg', '')[-2:]}") as out:
                out.add(folder, ".")
    found = search(source, ".skeleton")
    assert {file.name for file in found.files} == {"a.skeleton", "B.skeleton", "c.skeleton"}
    assert {file.read().decode() for file in found.files} == set(DATA)
    assert {file.size for file in found.files} == set(map(len, DATA))
    assert len(found.stray) == len(STRAY)
    assert all(file.startswith(str(source)) for file in found.stray)
    assert find_files(source, ".skeleton") == found.files


def test_a_folder_of_stray_files_only_has_no_data(tmp_path):
    (tmp_path / "._a.skeleton").touch()
    with pytest.raises(UserError, match=r"holds no \.skeleton file"):
        find_files(tmp_path, ".skeleton")


def test_the_source_itself_may_have_any_name(tmp_path):
    folder = tmp_path / "__MACOSX" / "readme"
    folder.mkdir(parents=True)
    (folder / "a.skeleton").touch()
    assert len(search(folder, ".skeleton").files) == 1


def test_a_file_that_is_needed_does_not_advise_to_skip_it():
    assert "--on_bad_file=skip" in str(BadFile("x.txt", 2, "found y"))
    with pytest.raises(UserError) as caught, needed():
        raise BadFile("x.txt", 2, "found y")
    assert str(caught.value) == "x.txt, line 2: found y; correct the file."


def zipped(path, **members):
    """An archive of deflated members, by name with __ for the dot."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return path


def patched(path, offset, central, value):
    """Sets two bytes in every header of a zip archive, local and central."""
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", offset), (b"PK\x01\x02", central)):
        at = content.find(mark)
        while at >= 0:
            content[at + place : at + place + 2] = struct.pack("<H", value)
            at = content.find(mark, at + 1)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("offset", "central", "value", "reason"),
    [
        (6, 8, 1, "encrypted"),
        (8, 10, 9, "compressed by method 9 instead of deflate"),
        (8, 10, 12, "compressed by method 12"),
        (8, 10, 77, "compressed by method 77"),
    ],
    ids=["encrypted", "deflate64", "bzip2", "unknown"],
)
def test_members_that_cannot_be_unpacked_are_bad_files(tmp_path, offset, central, value, reason):
    path = zipped(tmp_path / "raw.zip", a__txt=b"1 2 3", b__txt=b"4 5 6")
    patched(path, offset, central, value)
    for file in find_files(path, ".txt"):
        with pytest.raises(BadFile, match=rf"raw\.zip/[ab]\.txt: it cannot be read .*{reason}"):
            file.read()


@pytest.mark.parametrize("honest", [True, False])
def test_bombs_are_refused_within_bounded_memory(tmp_path, honest):
    size = 2**27
    path = zipped(tmp_path / "bomb.zip", a__txt=bytes(size))
    if not honest:  # the headers claim 100 bytes
        content = path.read_bytes()
        path.write_bytes(content.replace(struct.pack("<I", size), struct.pack("<I", 100)))
    (file,) = find_files(path, ".txt")
    tracemalloc.start()
    try:
        with pytest.raises(BadFile, match="times as large as in its archive|Bad CRC-32"):
            file.read()
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def tar_of(path, **members):
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name.replace("__", "."))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_what_a_tar_archive_cannot_give_is_a_flaw_and_the_rest_is_found(tmp_path):
    path = tar_of(tmp_path / "raw.tar", a__txt=b"1 2 3", b__txt=b"4 5 6", c__txt=b"7 8 9")
    content = path.read_bytes()
    second = content.index(b"b.txt")
    # A sparse or lying member claims 20 GB.
    claim = bytearray(content[second : second + 512])
    claim[124:136] = b"240000000000"
    claim[148:156] = b" " * 8
    claim[148:156] = b"%06o\0 " % sum(claim)
    path.write_bytes(content[:second] + claim + content[second + 512 :])
    found = search(path, ".txt")
    assert [file.name for file in found.files] == ["a.txt"]
    assert "b.txt: it cannot be read (it is larger than 2 GB)" in str(found.flaws[0])
    with pytest.raises(BadFile, match="larger than 2 GB"):
        find_files(path, ".txt")
    # A truncated one keeps what comes before the cut.
    path.write_bytes(content[: second + 514])
    found = search(path, ".txt")
    assert [file.name for file in found.files] == ["a.txt"]
    assert "unexpected end of data" in str(found.flaws[0])


def test_a_tar_bomb_is_a_flaw(tmp_path):
    found = search(tar_of(tmp_path / "raw.tar.gz", a__txt=b"1", b__txt=bytes(2**27)), ".txt")
    assert [file.name for file in found.files] == ["a.txt"]
    assert "times as large as in its archive" in str(found.flaws[0])


@pytest.mark.parametrize("name", ["raw.zip", "raw.tar", "raw.tar.gz", "raw.tar.xz"])
def test_damaged_archives_are_flaws_or_right(tmp_path, name):
    rng = random.Random(0)
    make = zipped if name.endswith(".zip") else tar_of
    path = make(tmp_path / name, a__txt=b"1 2 3\n" * 50, b__txt=b"4 5 6\n" * 50)
    content = path.read_bytes()
    for _ in range(200):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed[: rng.choice((len(changed), rng.randrange(len(changed))))])
        raw_files._zip.cache_clear()
        try:
            for file in search(path, ".txt").files:
                file.read()
        except UserError as error:
            assert "\n" not in str(error)


def test_what_is_no_file_is_never_waited_for(tmp_path):
    for name in ("a.txt", "a.zip", "a.tar"):
        os.mkfifo(tmp_path / name)
    for path in (tmp_path / "a.txt", Path("/dev/zero"), Path("/dev/null"), Path("a\0.txt")):
        with pytest.raises(BadFile, match="no regular file|null byte"):
            RawFile(str(path), "0:").read()
    with pytest.raises(BadFile, match="Is a directory"):
        RawFile(str(tmp_path), "0:").read()
    for name in ("a.zip", "a.tar"):
        with pytest.raises(BadFile, match="no regular file"):
            search(tmp_path / name, ".txt")
    with pytest.raises(UserError, match=r"holds no \.txt file"):
        search(tmp_path, ".txt")


def test_too_many_open_files_are_no_flaw_of_a_file(tmp_path, monkeypatch):
    def fail(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(raw_files, "opened", fail)
    with pytest.raises(UserError, match=r"a\.txt cannot be read: .*ulimit -n") as caught:
        RawFile(str(tmp_path / "a.txt"), "0:").read()
    assert not isinstance(caught.value, BadFile)
