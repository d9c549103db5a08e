"""Two planted faults of every kind are found, and the right samples named.

`python -m benchmarks.planted` plants 200 and repairs them.
"""

import random
import shutil

import pytest

from msa.cache.maintain.verify import check_store
from tests.faults import planted


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return planted.Ground.lay(tmp_path_factory.mktemp("planted") / "sound", ("made.tones",), n=12)


@pytest.fixture
def copy(ground, tmp_path):
    shutil.copytree(ground.path, tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", planted.KINDS)
def test_a_planted_fault_is_found_and_the_right_samples_are_named(ground, copy, kind, seed):
    fault = planted.KINDS[kind](ground, copy, random.Random(seed))
    found = check_store(copy, deep=fault.unseen).problems
    assert found, fault
    named = {id for problem in found for id in problem.samples}
    assert fault.least <= named
    assert fault.most is None or named <= fault.most


def test_where_nothing_is_planted_nothing_is_found(ground):
    found = check_store(ground.path, deep=True)
    assert (found.problems, found.remarks) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", planted.KINDS)
def test_what_is_repaired_and_extracted_again_is_whole(tmp_path, kind):
    verdict = planted.trial(planted.Ground.lay(tmp_path / "sound"), kind, tmp_path / "planted", seed=7)
    assert verdict.found and verdict.named and verdict.whole
