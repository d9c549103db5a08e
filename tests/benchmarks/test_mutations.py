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


def test_a_mutation_is_killed_by_a_test_that_fails_with_it_alone(tmp_path, monkeypatch):
    path = tmp_path / "msa/fuse/x.py"
    path.parent.mkdir(parents=True)
    path.write_text("def f():\n    return 1\n")

    def run_tests(words, folder):
        """test_broken fails always, test_x where f() is not 1."""
        names = {}
        exec(path.read_text(), names)
        failing = ["test_broken"] if "test_x" not in words and "--deselect=test_broken" not in words else []
        failing += ["test_x"] if names["f"]() != 1 else []
        return bool(failing), failing[0] if failing else ""

    monkeypatch.setattr(mutations, "run_tests", run_tests)
    monkeypatch.setattr(mutations, "room_tests", lambda module, root: ["tests/fuse/test_x.py"])
    verdicts = [
        mutations.verdict(mutations.Mutation("msa/fuse/x.py", 2, "    return 1", new), tmp_path)
        for new in ("    return 2", "    return 0 + 1")
    ]
    assert verdicts == ["killed by test_x", "survived"]
    assert path.read_text() == "def f():\n    return 1\n"


def test_tests_are_run_in_a_copy_and_the_first_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(mutations, "ROOT", tmp_path / "root")
    for path in ("msa/__init__.py", "tests/test_x.py"):
        (tmp_path / "root" / path).parent.mkdir(parents=True)
        (tmp_path / "root" / path).write_text("def test_x():\n    assert 'a b' == 'c - d'\n" * path.startswith("tests"))
    subprocess.run("git init -q && git add .", shell=True, cwd=tmp_path / "root", check=True)
    folder = mutations.copy(tmp_path / "copies" / "0")
    assert mutations.run_tests(["tests/test_x.py"], folder) == (1, "tests/test_x.py::test_x")
