"""Which mutations `python -m benchmarks.mutations` draws, and the tests it runs against them."""

import subprocess

from benchmarks import mutations

MODULE = """SIZE = 4


def f(x: int = 3, *, deep=True) -> bool:
    if x < 0 and not deep:
        raise ValueError(f"{x + 1}")
    return x % 2 == 1
"""


def test_each_change_of_a_line_is_a_mutation_and_settings_are_left_alone():
    changed = {(m.line, m.new.strip()) for m in mutations.mutations("x.py", MODULE)}
    assert changed == {
        (5, "if False:"),
        (5, "if x < 0 or not deep:"),
        (5, "if x <= 0 and not deep:"),
        (5, "if x < 1 and not deep:"),
        (5, "if x < 0 and deep:"),
        (7, "return x + 2 == 1"),
        (7, "return x % 3 == 1"),
        (7, "return x % 2 != 1"),
        (7, "return x % 2 == 2"),
    }


def test_a_seed_draws_the_same_mutations_and_each_compiles():
    drawn = mutations.sample(7, 20, "cache/format")
    assert drawn == mutations.sample(7, 20, "cache/format")
    assert drawn != mutations.sample(8, 20, "cache/format")
    assert len({(m.path, m.line) for m in drawn}) == 20
    assert all(m.path.startswith("msa/cache/format/") for m in drawn)


def test_tests_of_a_module_are_those_of_its_folder_and_its_own_come_first(tmp_path):
    folder = tmp_path / "tests" / "fuse" / "heads"
    folder.mkdir(parents=True)
    for name, text in {"test_a.py": "", "test_lmf.py": "", "test_z.py": "import lmf", "shapes.py": "lmf"}.items():
        (folder / name).write_text(text)
    names = ["tests/fuse/heads/test_lmf.py", "tests/fuse/heads/test_z.py", "tests/fuse/heads/test_a.py"]
    assert mutations.room_tests("msa/fuse/heads/lmf.py", tmp_path) == names
    assert mutations.room_tests("msa/fuse/data/table.py", tmp_path) == []


def test_a_mutation_is_killed_by_a_test_that_fails_or_survives(tmp_path, monkeypatch):
    monkeypatch.setattr(mutations, "ROOT", tmp_path)
    for path, text in {
        "msa/fuse/x.py": "def f():\n    return 1\n",
        "tests/fuse/test_x.py": "from msa.fuse.x import f\n\ndef test_x():\n    assert f() == 1\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    subprocess.run("git init -q && git add .", shell=True, cwd=tmp_path, check=True)
    folder = mutations.copy(tmp_path / "copies" / "0")
    verdicts = [
        mutations.verdict(mutations.Mutation("msa/fuse/x.py", 2, "    return 1", new), folder)
        for new in ("    return 2", "    return 0 + 1")
    ]
    assert verdicts == ["killed by tests/fuse/test_x.py::test_x", "survived"]
    assert (folder / "msa/fuse/x.py").read_text() == "def f():\n    return 1\n"
