import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from msa.cache.format import generations
from msa.cache.maintain import history, repair
from msa.cache.maintain.verify import check_store, verify
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form
from msa.cli import app
from msa.errors import StoreError
from msa.types import Modality
from tests.cache import sample_store

N = 20
BACKBONE = "made.words"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One corpus, one view, one segment with three chunks in each of several shards."""
    path = tmp_path_factory.mktemp("repair") / "store"
    store, index = FeatureStore.create(path), sample_store.corpus("voices", N)
    dataset = store.add_index(index)
    view, about = sample_store.attributes(BACKBONE)
    store.add_view(view, about)
    writer = store.writer(view, dataset, Form(6, "float16", 8, sample_store.SHARD), {"device": "cpu", "versions": {}})
    for row in range(N):
        digest = index.digests[Modality.TEXT][row]
        if row == 3:
            writer.fail(row, digest.tobytes(), "decode", "zero-length file", {"frames": 2})
        else:
            writer.write(row, digest.tobytes(), sample_store.states(BACKBONE, digest), {"odd": row})
    store.publish(view, [writer.seal()])
    return path


@pytest.fixture
def path(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


def view_of(path):
    store = FeatureStore.open(path)
    return store, store.views("voices")[0]


def segment_of(path):
    _, view = view_of(path)
    return path / "views" / view.id / "seg" / view.entries[0].id


def spoil(file, *places):
    """Change several bits at each of these places."""
    data = bytearray(file.read_bytes())
    for place in places:
        data[place] ^= 0xA5
    file.write_bytes(data)


def lost(path):
    """Rows that have neither hidden states nor a failure; all others are compared with what was put in."""
    store, view = view_of(path)
    index, reader = store.index("voices"), store.reader(view)
    there = np.flatnonzero(np.asarray(reader.length) >= 0).tolist()
    for row in there:
        np.testing.assert_array_equal(reader.read(row), sample_store.meant(BACKBONE, index.digests[Modality.TEXT][row]))
    return sorted(set(range(N)) - set(there) - set(reader.failures))


def test_a_sound_store_is_left_alone(path):
    before = sorted(path.rglob("*"))
    plan = repair.plan(path)
    assert (plan.steps, plan.commands) == ([], [])
    assert repair.carry_out(plan).problems == []
    assert sorted(path.rglob("*")) == before


def test_of_a_damaged_chunk_only_its_samples_are_dropped_and_computed_again(path):
    shard = segment_of(path) / "data" / "c" / "1" / "0"
    spoil(shard, 5, 50)
    concerned = {id for problem in verify(path) for id in problem.samples}
    plan = repair.plan(path)
    assert {id for step in plan.steps for id in step.samples} == concerned
    assert repair.carry_out(plan).problems == []
    rows = lost(path)
    assert {f"voices/{row:03d}" for row in rows} == concerned
    assert 0 < len(rows) < 8
    written = sample_store.complete(FeatureStore.open(path), sample_store.corpus("voices", N), [BACKBONE], failing=())
    assert written == {BACKBONE: rows}
    assert lost(path) == []
    assert verify(path, deep=True) == []


def test_counts_and_failures_outlive_a_repair(path):
    from msa.cache.maintain.describe import describe

    (segment_of(path) / "data" / "c" / "1" / "0").unlink()
    repair.carry_out(repair.plan(path))
    gone = lost(path)
    view = describe(FeatureStore.open(path))["datasets"][0]["views"][0]
    assert view["counts"] == {"odd": sum(set(range(N)) - {3, *gone}), "frames": 2}
    assert [failure["id"] for failure in view["failures"]] == ["voices/003"]


@pytest.mark.parametrize(
    ("name", "dropped"),
    [("data/c/0/0", 2), ("start/c/0", 19), ("sample/zarr.json", 19), ("zarr.json", 0), ("data/zarr.json", 19)],
)
def test_one_flipped_bit_drops_the_samples_it_touches_and_extraction_brings_them_back(path, name, dropped):
    file = segment_of(path) / name
    sound = file.read_bytes()
    file.write_bytes(sound[:40] + bytes([sound[40] ^ 16]) + sound[41:])
    plan = repair.plan(path)
    named = {id for problem in plan.report.problems for id in problem.samples}
    assert f"{dropped} are dropped" in plan.steps[0].what
    assert repair.carry_out(plan).problems == []
    rows = set(lost(path) if FeatureStore.open(path).views("voices") else range(N)) - {3}  # row 3 is a failure
    assert len(rows) == dropped
    assert {f"voices/{row:03d}" for row in rows} <= named
    sample_store.complete(FeatureStore.open(path), sample_store.corpus("voices", N), [BACKBONE])
    assert lost(path) == []
    assert verify(path, deep=True) == []


def test_a_damaged_file_keeps_its_bytes(path):
    """Repair guesses at no damaged byte, not even at a single bit that a SHA-256 could prove."""
    file = segment_of(path) / "data" / "c" / "0" / "0"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    damaged = file.read_bytes()
    repair.carry_out(repair.plan(path))
    assert file.read_bytes() == damaged


def test_a_plan_changes_nothing(path):
    spoil(segment_of(path) / "data" / "c" / "1" / "0", 5, 50)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    assert repair.plan(path).steps
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_nothing_is_deleted(path):
    shard = segment_of(path) / "data" / "c" / "1" / "0"
    spoil(shard, 5, 50)
    (shard.parent / "1").write_bytes(b"?")
    before = sorted(p.read_bytes() for p in path.rglob("*") if p.is_file())
    repair.carry_out(repair.plan(path))
    after = [p.read_bytes() for p in path.rglob("*") if p.is_file()]
    assert [data for data in before if data not in after] == []


def test_what_a_lost_manifest_named_is_found_again(path):
    newest = max((path / "manifests").glob("*.json"))
    newest.write_bytes(b"{")
    with pytest.raises(Exception, match="JSON"):
        FeatureStore.open(path)
    assert repair.carry_out(repair.plan(path)).problems == []
    assert lost(path) == []
    assert max(generations.generations(path)) > int(newest.stem), "a number that was given once is never given again"


def test_without_any_manifest_everything_is_found_again(path):
    for file in (path / "manifests").glob("*.json"):
        file.unlink()
    assert repair.carry_out(repair.plan(path)).problems == []
    assert lost(path) == []


def test_an_index_that_is_gone_is_made_again_and_its_hidden_states_still_fit(path):
    store, _ = view_of(path)
    folder = path / "index" / store.dataset("voices")
    spoil(folder / "labels" / "c" / "0" / "0", 1, 9)
    plan = repair.plan(path)
    assert "msa extract --dataset voices" in plan.commands[0]
    repair.carry_out(plan)
    assert not folder.exists()
    written = sample_store.complete(FeatureStore.open(path), sample_store.corpus("voices", N), [BACKBONE])
    assert written == {BACKBONE: []}
    assert lost(path) == []
    assert verify(path, deep=True) == []


def test_provenance_that_is_proved_by_its_name_is_accepted(path):
    _, view = view_of(path)
    file = path / "views" / view.id / "zarr.json"
    file.write_text(file.read_text().replace("made up", "made uq"))
    file.write_text(file.read_text().replace("2026-01", "2027-01"))
    assert repair.carry_out(repair.plan(path)).problems == []
    assert lost(path) == []


def test_a_store_that_keeps_its_data_but_not_the_provenance_is_extracted_again(path):
    _, view = view_of(path)
    (path / "views" / view.id / "zarr.json").unlink()
    assert repair.carry_out(repair.plan(path)).problems == []
    assert FeatureStore.open(path).views("voices") == []
    assert sample_store.complete(FeatureStore.open(path), sample_store.corpus("voices", N), [BACKBONE])[
        BACKBONE
    ] == list(range(N))
    assert verify(path, deep=True) == []


def test_the_commands_verify_and_repair_say_what_they_found_and_did(path):
    run = CliRunner().invoke
    spoil(segment_of(path) / "data" / "c" / "1" / "0", 5, 50)
    found = run(app, ["cache", "verify", "--deep", "--json", str(path)])
    assert found.exit_code == 1
    assert any(problem["samples"] for problem in json.loads(found.stdout))
    dry = run(app, ["cache", "repair", "--dry-run", str(path)])
    assert dry.exit_code == 0
    assert "are dropped" in dry.stdout
    assert run(app, ["cache", "repair", str(path)], input="n\n").exit_code == 1
    assert check_store(path).problems
    done = run(app, ["cache", "repair", "--yes", str(path)])
    assert done.exit_code == 0
    assert "msa extract --dataset table --root FILE --text made.words" in done.output.replace("\n", " ")
    assert "OK: no problems found" in done.output
    assert run(app, ["cache", "verify", str(path)]).exit_code == 0


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda index: spoil(index / "labels" / "c" / "0" / "0", 1, 2)])
def test_a_lost_index_is_one_problem_and_repair_says_what_makes_it_again(path, damage):
    damage(next((path / "index").glob("[0-9a-f]*[0-9a-f]")))
    plan = repair.plan(path, known=["mosi"])
    assert "its hidden states stay" in plan.steps[0].what
    (command,) = plan.commands
    assert command.startswith("msa extract --dataset table --root FILE --text made.words --image none")
    assert repair.plan(path, known=["voices"]).commands[0].startswith("msa extract --dataset voices --text made.words")
    (left,) = repair.carry_out(plan).problems
    assert (left.what, len(left.samples)) == ("is missing", N)
    store = FeatureStore.open(path)
    store.add_index(sample_store.corpus("voices", N))
    assert verify(path, deep=True) == []
    assert FeatureStore.open(path).views("voices")[0].samples == N - 1


@pytest.mark.parametrize("file", ["tags/v1.json", "manifests/00000002.json"])
def test_a_tag_that_names_nothing_any_more_is_set_aside_at_once(path, file):
    history.tag(path, "v1")
    (path / file).write_text("{")
    assert any(problem.where == "tags/v1.json" for problem in check_store(path).problems)
    assert repair.carry_out(repair.plan(path)).problems == []
    assert repair.plan(path).steps == []
    assert FeatureStore.open(path).views("voices")[0].samples == N - 1


def test_a_store_without_its_root_group_says_how_to_write_it_again(path):
    (path / "zarr.json").unlink()
    with pytest.raises(StoreError, match="is missing") as error:
        FeatureStore.open(path)
    assert error.value.fix.endswith(f"msa cache repair {path}")
    assert repair.carry_out(repair.plan(path)).problems == []
