"""Test runs do not disturb each other."""

import errno
import os

from _pytest.pathlib import rm_rf


def test_a_folder_that_another_test_run_removes_too_is_no_error(tmp_path, monkeypatch):
    def rmdir(path, **options):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)

    (tmp_path / "garbage").mkdir()
    monkeypatch.setattr(os, "rmdir", rmdir)
    rm_rf(tmp_path / "garbage")
