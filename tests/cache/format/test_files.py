"""Regular files are opened and all else refused; a full disk is an error that says how to go on."""

import errno
import os
import re
import socket

import pytest

from msa import regular
from msa.cache.format import files
from msa.errors import StoreError


def test_a_regular_file_is_read_and_a_link_to_one(tmp_path):
    (tmp_path / "a").write_bytes(b"states")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        with files.open_regular(tmp_path / name) as file:
            assert file.readall() == b"states"


def test_a_folder_a_pipe_a_socket_and_a_device_are_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        kinds = {tmp_path: "a folder", tmp_path / "pipe": "a pipe", tmp_path / "socket": "a socket"}
        for path, kind in {**kinds, "/dev/zero": "a device"}.items():
            with pytest.raises(OSError, match=f"{kind}, not a regular file") as refused:
                files.open_regular(path)
            assert (refused.value.errno, refused.value.filename) == (errno.EINVAL, str(path))


def test_a_file_that_becomes_a_pipe_while_it_is_opened_is_refused_and_closed(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"states")
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *rest: real(tmp_path / "pipe", flags, *rest))
    with pytest.raises(OSError, match="a pipe"):
        files.open_regular(tmp_path / "a")
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_of_holes_is_refused_with_both_sizes(tmp_path):
    (tmp_path / "holes").touch()
    os.truncate(tmp_path / "holes", regular.SPARSE + 1)
    with pytest.raises(OSError, match=f"claims {regular.SPARSE + 1:,} bytes, and 0 are on the disk"):
        files.open_regular(tmp_path / "holes")


@pytest.mark.parametrize(
    ("code", "what", "fix"),
    [
        (errno.ENOSPC, r"store: the disk is full \(.*MB are free\)", "free some space.*msa cache gc"),
        (errno.EDQUOT, "store: your quota on this disk is used up", "free some space.*or ask for a larger quota"),
    ],
)
def test_a_full_disk_is_an_error_with_a_way_out(tmp_path, code, what, fix):
    with pytest.raises(StoreError, match=what) as error, files.naming_a_full_disk(tmp_path / "store"):
        raise OSError(code, os.strerror(code), str(tmp_path / "elsewhere"))
    assert re.search(fix, error.value.fix) and "elsewhere" not in error.value.what
    assert isinstance(error.value.__cause__, OSError)


def test_an_error_that_is_no_full_disk_passes_as_it_is(tmp_path):
    refused = PermissionError(errno.EACCES, "Permission denied", str(tmp_path))
    with pytest.raises(PermissionError) as error, files.naming_a_full_disk(tmp_path):
        raise refused
    assert error.value is refused


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.EACCES, "yours to read and write"),
        (errno.EPERM, "yours to read and write"),
        (errno.EROFS, "yours to read and write"),
        (errno.EIO, "the disk or the network fails"),
        (errno.ESTALE, "the disk or the network fails"),
    ],
)
def test_the_file_of_an_error_is_named_beside_the_way_out(code, fix):
    what, way_out = files.told(OSError(code, os.strerror(code), "/lab/store"))
    assert what == f"/lab/store: {os.strerror(code)}"
    assert fix in way_out


def test_an_error_of_another_kind_has_no_way_out():
    assert files.told(OSError(errno.ENOENT, "No such file", "/lab/store")) is None
    assert files.told(OSError(errno.EIO, "Input/output error"))[0] == "a file: Input/output error"


def test_a_disk_without_free_inodes_is_told_from_one_without_room(tmp_path, monkeypatch):
    real = os.statvfs

    class Facts:
        f_files, f_favail, f_bavail, f_frsize = 100, 0, 2_000_000, 1

    monkeypatch.setattr(os, "statvfs", lambda folder: Facts if folder == tmp_path else real(folder))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "not yet" / "there"))
    assert "(there may be no more files on it)" in files.told(full)[0]
    Facts.f_favail = 1
    assert "(2.0 MB are free)" in files.told(full)[0]
