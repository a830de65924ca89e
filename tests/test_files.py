"""Atomic writes and file stamps."""

from __future__ import annotations

import errno
import os

import pytest

from tlfeatures._files import atomic_write, file_stamp, replace_file, write_file
from tlfeatures.errors import ImageReadError, ObjectStorageError


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_when_the_block_ends(tmp_path, sync, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file("a.txt", b"old", sync=sync)
    with atomic_write("a.txt", sync=sync) as file:
        file.write(b"new")
        assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "error",
    [
        ImageReadError("a.png", "the file is empty"),
        ObjectStorageError(errno.EACCES, "cannot access 's3://b'"),
        FileNotFoundError(errno.ENOENT, "No such file", "a.png"),
        OSError("cannot identify image file"),
    ],
)
def test_an_error_of_another_file_is_not_an_error_of_writing(tmp_path, error):
    with pytest.raises(type(error)) as caught, replace_file(tmp_path / "a.npy"):
        raise error
    assert caught.value is error


def test_an_error_of_writing_names_the_file(tmp_path):
    path = tmp_path / "absent" / "a.txt"
    with pytest.raises(FileNotFoundError) as caught:
        write_file(path, b"")
    assert caught.value.filename == str(path)
    with (
        pytest.raises(OSError, match="Cannot write: No space left on device") as caught,
        replace_file(path.name),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == os.path.realpath(path.name)
    with pytest.raises(FileNotFoundError, match="Cannot write: No such file") as caught, replace_file(path):
        pass
    assert caught.value.filename == str(path)


def test_permissions_follow_mode_and_umask(tmp_path):
    before = os.umask(0o022)
    try:
        write_file(tmp_path / "public", b"")
        write_file(tmp_path / "private", b"", mode=0o600)
    finally:
        os.umask(before)
    assert [(tmp_path / n).stat().st_mode & 0o777 for n in ("public", "private")] == [0o644, 0o600]


def test_a_stamp_changes_with_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a")
    first = file_stamp(path)
    (tmp_path / "link").symlink_to(path)
    assert file_stamp(tmp_path / "link") == first == file_stamp(str(path))
    os.utime(path, ns=(0, 0))
    assert file_stamp(path) != first
    with pytest.raises(FileNotFoundError):
        file_stamp(tmp_path / "absent")
