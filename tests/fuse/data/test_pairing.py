"""Pairing protocols: functions of (seed, id) that never cross a split, and say what they are."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from msa.cache.format import layout
from msa.errors import ConfigError, UnknownNameError
from msa.fuse.data.pairing import PROTOCOLS, is_leaky, pair
from msa.fuse.data.table import Column
from msa.fuse.experiments import tables
from msa.fuse.experiments.experiment import Experiment
from msa.fuse.experiments.selection import Data
from msa.fuse.runs.run import Run
from msa.fuse.train.model import Model
from msa.types import Split, Task
from tests.fuse.batches import EMOTIONS, emotions_table
from tests.fuse.conftest import AUDIO, FACE, IMAGE, TEXT, VALUES, Memory, add_corpus, memory_table, memory_view

DRAWN = ["random", "label_matched", "noisy_match"]


def posts(n=60, **changed):
    return memory_table("posts", n, (TEXT, IMAGE), **changed)


def voices(n=45, **changed):
    return memory_table("voices", n, (AUDIO,), **changed)


def partners(joined, second):
    """Id of every sample -> id of the sample of the second corpus it is given."""
    rows = joined.columns[AUDIO].rows
    assert (rows >= 0).all()
    return {name: second.ids[row] for name, row in zip(joined.ids, rows, strict=True)}


def heard(joined):
    """Id of every sample -> the bytes of its recording, whatever row that stands in."""
    return {name: joined.columns[AUDIO].states(i).tobytes() for i, name in enumerate(joined.ids)}


def shuffled(table, seed):
    return table.take(np.random.default_rng(seed).permutation(len(table)))


def found(table, name):
    """Split and label of a sample."""
    row = table.ids.index(name)
    return int(table.split[row]), float(table.y[row])


# --- what a partner depends on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [*DRAWN, "zip"])
def test_the_order_of_either_corpus_has_no_say(protocol):
    first, second = posts(), voices()
    wanted = heard(pair(first, second, protocol))
    for seed in range(3):
        assert heard(pair(shuffled(first, seed), shuffled(second, seed + 9), protocol)) == wanted


@pytest.mark.parametrize("protocol", DRAWN)
def test_other_samples_of_the_first_corpus_have_no_say(protocol):
    second = voices()
    few, many = (partners(pair(posts(n), second, protocol), second) for n in (60, 300))
    assert few.items() <= many.items()


@pytest.mark.parametrize("protocol", [*DRAWN, "zip"])
def test_another_seed_is_another_pairing_and_the_same_seed_the_same(protocol):
    first, second = posts(), voices()
    one, two, three = (partners(pair(first, second, protocol, seed), second) for seed in (1, 1, 2))
    assert one == two != three


def test_a_pairing_stays_what_it_is_from_version_to_version():
    """Runs name their pairing by protocol and seed alone, so these draws are a promise. Worked out with hashlib:
    position floor(blake2b("42 draw id") / 2**64 * n) among the n ids of the split in alphabetical order."""
    pairs = partners(pair(posts(), voices(), "random", 42), voices())
    assert [pairs[f"posts-{i}"] for i in range(4)] == ["voices-32", "voices-17", "voices-35", "voices-43"]


def test_random_draws_every_partner_about_equally_often():
    """3,000 posts and 45 recordings, both in shares of 3:1:1, make 67 each, with a deviation of 8."""
    counts = Counter(partners(pair(posts(3000), voices(45), "random"), voices(45)).values())
    assert len(counts) == 45
    assert 67 - 4 * 8 < min(counts.values()) <= max(counts.values()) < 67 + 4 * 8


# --- what a partner is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [*DRAWN, "zip"])
def test_a_partner_is_of_the_same_split(protocol):
    first, second = posts(), voices()
    for ours, theirs in partners(pair(first, second, protocol), second).items():
        assert found(first, ours)[0] == found(second, theirs)[0]


@pytest.mark.parametrize("protocol", [*DRAWN, "zip"])
def test_the_label_and_everything_else_is_the_first_corpuss(protocol):
    first = posts()
    joined = pair(first, voices(), protocol)
    for i, name in enumerate(joined.ids):
        row = first.ids.index(name)
        assert (joined.split[i], joined.y[i], joined.corpus[i]) == (first.split[row], first.y[row], "posts")
        assert (joined.columns[TEXT].states(i) == first.columns[TEXT].states(row)).all()


def test_label_matched_partners_always_share_the_class():
    first, second = posts(300), voices()
    for ours, theirs in partners(pair(first, second, "label_matched"), second).items():
        assert found(first, ours) == found(second, theirs)


@pytest.mark.parametrize("rho", [0.25, 0.7])
def test_noisy_match_shares_the_class_as_often_as_rho_says(rho):
    """With three equal classes a random partner shares it by chance once in three."""
    first, second = posts(3000), voices()
    pairs = partners(pair(first, second, "noisy_match", rho=rho), second)
    rate = np.mean([found_y(first, ours) == found_y(second, theirs) for ours, theirs in pairs.items()])
    assert abs(rate - (rho + (1 - rho) / 3)) < 4 * (0.25 / 3000) ** 0.5


def found_y(table, name):
    return table.y[int(name.rpartition("-")[2])]


def test_noisy_match_ends_in_random_and_in_label_matched():
    first, second = posts(), voices()
    low, high = (partners(pair(first, second, "noisy_match", rho=rho), second) for rho in (0.0, 1.0))
    assert low == partners(pair(first, second, "random"), second)
    assert high == partners(pair(first, second, "label_matched"), second)


def test_noisy_match_keeps_its_matches_as_rho_grows():
    """The curve changes one thing at a time: who is matched at .3 is matched, to the same partner, at .6."""
    first, second = posts(300), voices()
    at = {rho: partners(pair(first, second, "noisy_match", rho=rho), second) for rho in (0.0, 0.3, 0.6, 1.0)}
    matched = {rho: {name for name in at[rho] if at[rho][name] == at[1.0][name]} for rho in (0.3, 0.6)}
    changed = {name for name in at[0.3] if at[0.3][name] != at[0.0][name]}
    assert changed <= matched[0.3]
    assert all(at[0.6][name] == at[0.3][name] for name in changed)


def test_whether_a_partner_is_matched_says_nothing_of_which_it_is():
    """One draw for both would give every matched sample a partner from the first part of its class."""
    first, second = posts(3000), voices()
    few, all_ = (partners(pair(first, second, "noisy_match", rho=rho), second) for rho in (0.2, 1.0))
    drawn = partners(pair(first, second, "random"), second)
    matched = Counter(few[name] for name in few if few[name] == all_[name] != drawn[name])
    assert set(matched) == set(all_.values())


# --- zip and union ------------------------------------------------------------------------------------------------


def test_zip_uses_every_sample_of_the_shorter_corpus_once():
    first, second = posts(60), voices(45)
    joined = pair(first, second, "zip")
    pairs = partners(joined, second)
    assert (
        np.bincount(joined.split).tolist() == np.minimum(np.bincount(first.split), np.bincount(second.split)).tolist()
    )
    assert sorted(pairs.values()) == sorted(second.ids)
    assert len(set(pairs)) == 45
    longer = pair(second, first, "zip")  # and the other way round
    assert sorted(longer.ids) == sorted(second.ids)


def test_zip_truncates_each_split_by_itself():
    second = voices(30)
    second = replace(second, split=np.where(second.split == 2, 0, second.split))  # no test recording at all
    joined = pair(posts(60), second, "zip")
    assert np.bincount(joined.split, minlength=3).tolist() == [24, 6, 0]


def test_union_keeps_every_sample_with_its_own_label_and_masks_what_it_lacks():
    first, second = posts(), voices()
    joined = pair(first, second, "union")
    assert joined.ids == [*first.ids, *second.ids]
    assert joined.corpus == ["posts"] * 60 + ["voices"] * 45
    np.testing.assert_array_equal(joined.y, np.concatenate([first.y, second.y]))
    np.testing.assert_array_equal(joined.split, np.concatenate([first.split, second.split]))
    np.testing.assert_array_equal(joined.columns[TEXT].present, np.arange(105) < 60)
    np.testing.assert_array_equal(joined.columns[AUDIO].present, np.arange(105) >= 60)
    for i in range(45):
        assert (joined.columns[AUDIO].states(60 + i) == second.columns[AUDIO].states(i)).all()


def test_union_reads_a_modality_both_have_from_where_it_lies():
    first, second = memory_table("posts", 60, (TEXT, AUDIO)), voices()
    joined = pair(first, second, "union")
    assert joined.columns[AUDIO].present.all()
    for table, start in ((first, 0), (second, 60)):
        for i in range(len(table)):
            assert (joined.columns[AUDIO].states(start + i) == table.columns[AUDIO].states(i)).all()


def test_a_third_corpus_can_be_brought_in():
    faces = memory_table("faces", 30, (FACE,))
    joined = pair(pair(posts(), voices(), "random"), faces, "random")
    assert joined.name == "posts+voices+faces"
    assert set(joined.columns) == {TEXT, IMAGE, AUDIO, FACE}
    assert joined.drawn == (AUDIO, FACE)
    assert partners(joined, voices()) == partners(pair(posts(), voices(), "random"), voices())
    union = pair(pair(posts(), voices(), "union"), faces, "union")
    assert len(union) == 135
    assert union.columns[AUDIO].present.sum() == 45


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_corpora_of_different_tasks_are_refused_with_both(protocol):
    with pytest.raises(ConfigError, match=r"posts has the labels negative, neutral, positive, values has -3 to 3"):
        pair(posts(), memory_table("values", modalities=(AUDIO,), task=VALUES), protocol)
    with pytest.raises(ConfigError, match="values has good, bad") as error:
        pair(posts(), memory_table("values", modalities=(AUDIO,), task=Task(("good", "bad"))), protocol)
    assert "range" not in error.value.fix


@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if p != "union"])
def test_a_modality_both_have_is_refused_where_one_would_have_to_be_chosen(protocol):
    with pytest.raises(ConfigError, match=f"both have text: {protocol} would have to choose") as error:
        pair(posts(), memory_table("more", modalities=(TEXT, AUDIO)), protocol)
    assert "union" in error.value.fix


def test_a_union_of_two_recipes_is_refused_with_both():
    theirs = memory_table("more", 10, (TEXT,))
    column = Column((Memory(memory_view(TEXT, view_id="w" * 16), []),), np.zeros(10, int), np.arange(10))
    with pytest.raises(ConfigError, match=r"made.text@t{16} in one corpus and by made.text@w{16} in the other"):
        pair(posts(), replace(theirs, columns={TEXT: column}), "union")


@pytest.mark.parametrize("protocol", DRAWN)
def test_a_split_without_a_partner_is_named_and_never_filled_from_another(protocol):
    second = voices()
    second = replace(second, split=np.where(second.split == 2, 0, second.split))
    with pytest.raises(ConfigError, match=r"voices has no sample.* in the split of posts's sample posts-4"):
        pair(posts(), second, protocol, rho=0.5)


def test_a_class_without_a_partner_is_named():
    second = voices()
    with pytest.raises(ConfigError, match="voices has no sample of class positive in the split"):
        pair(posts(), second.take(np.flatnonzero(second.y != 2)), "label_matched")


@pytest.mark.parametrize("protocol", ["label_matched", "noisy_match"])
def test_values_cannot_be_matched(protocol):
    y = np.linspace(-3, 3, 60, dtype=np.float32)
    first, second = (memory_table(n, modalities=(m,), task=VALUES, y=y) for n, m in (("a", TEXT), ("b", AUDIO)))
    with pytest.raises(ConfigError, match=f"{protocol} needs one class for each sample; a has -3 to 3"):
        pair(first, second, protocol)
    assert len(pair(first, second, "random")) == 60


def test_a_pairing_by_label_needs_one_label_and_the_others_do_not():
    first = emotions_table()
    second = replace(memory_table("b", modalities=(AUDIO,)), task=EMOTIONS, y=first.y)
    for protocol in ("label_matched", "noisy_match"):
        with pytest.raises(ConfigError, match="needs one class for each sample; posts has any of happy, sad"):
            pair(first, second, protocol)
    for protocol, n in (("random", 60), ("zip", 60), ("union", 120)):
        assert pair(first, second, protocol).y.shape == (n, 6)
    with pytest.raises(ConfigError, match=r"posts has the labels any of happy, .*, b has happy, "):
        pair(first, replace(second, task=replace(EMOTIONS, multilabel=False)), "union")


def test_values_on_another_scale_are_other_labels():
    y = np.linspace(-1, 1, 60, dtype=np.float32)
    first, second = (
        memory_table(n, modalities=(m,), task=Task(low=-h, high=h), y=h * y)
        for n, m, h in (("a", TEXT, 3), ("b", AUDIO, 1))
    )
    with pytest.raises(ConfigError, match="a has the labels -3 to 3, b has -1 to 1") as error:
        pair(first, second, "union")
    assert error.value.fix.endswith("--set range=-3,3")


def test_an_unknown_protocol_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'label_matched'"):
        pair(posts(), voices(), "label_match")
    with pytest.raises(UnknownNameError, match="did you mean 'random'"):
        Data(("posts",), "randon")  # also where there is nothing to pair


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan")])
def test_rho_is_a_probability(rho):
    with pytest.raises(ConfigError, match="is not a probability"):
        Data(("posts", "voices"), "noisy_match", rho)


def test_a_corpus_is_not_paired_with_itself():
    with pytest.raises(ConfigError, match="names a corpus twice"):
        Data(("posts", "posts@abc"), "union")


def test_a_sample_without_a_split_is_not_paired(store):
    split = np.resize(np.array([0, 0, 0, 1, 2, layout.NO_SPLIT], np.uint8), 60)
    add_corpus(store, "open", 60, (TEXT,), split=split)
    joined = Data(("open", "voices")).load(store)
    assert len(joined) == 50
    assert [len(joined.subset(s)) for s in Split] == [30, 10, 10]


# --- what is said -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "rho", "said", "leaky"),
    [
        ("random", 0.5, "random, seed 7", False),
        ("union", 0.5, "union", False),
        ("zip", 0.5, "zip, seed 7", False),
        ("label_matched", 0.5, "label_matched, seed 7", True),
        ("noisy_match", 0.5, "noisy_match(0.5), seed 7", True),
        ("noisy_match", 0.01, "noisy_match(0.01), seed 7", True),
        ("noisy_match", 0.0, "noisy_match(0), seed 7", False),
    ],
)
def test_a_table_says_how_it_was_paired_and_whether_that_leaks(protocol, rho, said, leaky):
    joined = pair(posts(), voices(), protocol, 7, rho)
    assert joined.protocol == said
    assert is_leaky(joined.protocol) is leaky
    assert not is_leaky(posts().protocol)


def test_what_was_drawn_is_known_whichever_corpus_comes_first():
    assert pair(posts(), voices(), "label_matched").drawn == (AUDIO,)
    assert pair(voices(), posts(), "label_matched").drawn == (TEXT, IMAGE)
    assert pair(posts(), voices(), "union").drawn == ()
    assert pair(voices(), posts(), "random").only([AUDIO, TEXT]).drawn == (TEXT,)


def leaky_run(folder, protocol="label_matched, seed 42", drawn=("audio",), rows=("probe", "probe, audio only")):
    """A finished run's folder, made by hand."""
    values = dict.fromkeys(tables.TITLES, 0.5)
    scores = {"values": values, "notes": [], "seeds": []}
    record = {
        "experiment": Experiment(Model.of("cmsta"), Data(("posts", "voices")), (42,)).to_json(),
        "data": {
            "task": {"classes": ["negative", "neutral", "positive"], "low": 0.0, "high": 0.0},
            "protocol": protocol,
            "drawn": list(drawn),
            "store": "store",
            "generation": 1,
            "samples": {"train": 9, "valid": 9, "test": 9},
            "hidden_states": {"text": 27},
            "classes": {"negative": 9, "neutral": 9, "positive": 9},
            "dims": {"text": 8},
            "views": {"text": {"id": "a" * 16, "attributes": {"modality": "text", "backbone": "made.text", "dim": 8}}},
        },
    }
    seed = {"seed": 42, "values": values, "collapsed": False, "restarted_at": None, "valid_loss": 1.0, "epochs": 2}
    seed |= {"valid_mae": 1.0, "seconds": 3.0, "notes": []}
    metrics = scores | {"seeds": [seed], "test_samples": 9, "parameters": 7, "beside": dict.fromkeys(rows, scores)}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return Run.open(folder)


def test_a_leaky_headline_is_refused_without_the_row_that_shows_the_leak(tmp_path):
    run = leaky_run(tmp_path)
    sheet = tables.sheet(run)
    assert [row[0] for row in sheet.rows] == ["cmsta", "probe", "probe, audio only"]
    assert "pairing: label_matched, seed 42" in sheet.remarks
    assert "LEAKY pairing: the audio was chosen by the label; compare with the audio-only row" in sheet.remarks
    assert "label_matched, seed 42" in sheet.title

    found = json.loads((tmp_path / "metrics.json").read_text())
    del found["beside"]["probe, audio only"]
    (tmp_path / "metrics.json").write_text(json.dumps(found))
    with pytest.raises(
        ConfigError, match="leaks the label through the audio, and the row 'probe, audio only' is missing"
    ):
        tables.sheet(Run.open(tmp_path))


def test_it_is_what_was_drawn_that_must_stand_alone(tmp_path):
    """Speech with posts drawn to it leaks through the posts: an audio-only row would hide that."""
    with pytest.raises(ConfigError, match="leaks the label through the text and image"):
        tables.sheet(leaky_run(tmp_path, drawn=("text", "image")))
    run = leaky_run(tmp_path, drawn=("text", "image"), rows=("probe", "probe, text and image only"))
    assert len(tables.sheet(run).rows) == 3


def test_a_leak_free_headline_needs_no_such_row(tmp_path):
    sheet = tables.sheet(leaky_run(tmp_path, "random, seed 42", rows=("probe",)))
    assert not any("LEAKY" in remark for remark in sheet.remarks)
