"""Finding raw files in folders and archives."""

import tarfile
import zipfile

import pytest

from pcm3_jax.data.formats.raw_files import BadFile, find_files, needed, search
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
