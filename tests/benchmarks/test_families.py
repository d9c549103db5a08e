"""The page that `python -m benchmarks.families` writes."""

from benchmarks import families
from tests.extract.encoders.family_trials import Row


def test_a_fault_is_a_row_of_the_page():
    row = Row("text", "bert", end="fault", why="fault: KeyError: 'x'")
    assert "| bert | fault |  | fault: KeyError: 'x' |" in families.page([row])
