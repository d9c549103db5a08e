"""Splits: groups stay whole, nothing depends on order, and what leaks is said."""

import json
import random
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msa.annotations.splits import PARTS, apply_named, draw, leaks, named, scarce
from msa.errors import ConfigError, SourceError
from msa.extract.datasets import emodb, mvsa_single, tess
from msa.types import Dropped, Modality, Raw, Sample, Split

TRAIN, VALID, TEST = PARTS


def sample(id: str, split: Split | None = None, together: str = "", group: str = "") -> Sample:
    return Sample(
        id=id, label=None, raw={Modality.TEXT: Raw(text="")}, split=split, keep_together=together, group=group
    )


def many(n: int, prefix: str = "s") -> tuple[list[Sample], list[list[bytes]]]:
    """n samples that have nothing in common."""
    return [sample(f"{prefix}{i}") for i in range(n)], [[f"{prefix}{i}".encode()] for i in range(n)]


def drawn(samples, contents, **options) -> dict[str, Split]:
    return dict(zip((s.id for s in samples), draw(samples, contents, **options), strict=True))


corpora = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from(["", "", "", "ann", "bob", "cid", "dan"])),
    min_size=3,
    max_size=220,
)


def corpus(rows) -> tuple[list[Sample], list[set[bytes]]]:
    """Samples that share texts, images and speakers here and there."""
    samples = [sample(f"id{i}", together=together) for i, (_, _, together) in enumerate(rows)]
    return samples, [
        {f"t{text}.{i // 9}".encode(), f"i{image}.{i // 7}".encode()} for i, (text, image, _) in enumerate(rows)
    ]


def components(samples, contents) -> list[set[str]]:
    """The groups by a second route: sets of ids that share a key are merged until nothing changes."""
    groups: list[tuple[set[str], set]] = []
    for s, digests in zip(samples, contents, strict=True):
        ids, keys = {s.id}, set(digests) | ({s.keep_together} if s.keep_together else set())
        for other in [group for group in groups if group[1] & keys]:
            groups.remove(other)
            ids, keys = ids | other[0], keys | other[1]
        groups.append((ids, keys))
    return [ids for ids, _ in groups]


@settings(deadline=None)
@given(corpora, st.randoms(use_true_random=False), st.integers(0, 3))
def test_a_draw_keeps_groups_whole_and_does_not_depend_on_order(rows, shuffler, seed):
    samples, contents = corpus(rows)
    groups = components(samples, contents)
    if len(groups) < 3:
        with pytest.raises(ConfigError):
            draw(samples, contents, seed)
        return
    parts = drawn(samples, contents, seed=seed)
    assert all(len({parts[id] for id in group}) == 1 for group in groups)
    both = list(zip(samples, contents, strict=True))
    shuffler.shuffle(both)
    assert drawn(*zip(*both, strict=True), seed=seed) == parts
    assert set(parts.values()) == set(PARTS) or len(groups) >= 100


@settings(deadline=None)
@given(st.integers(100, 160), st.integers(1, 80), st.integers(0, 5))
def test_new_samples_move_no_other_once_there_are_a_hundred_groups(n, more, seed):
    samples, contents = many(n)
    others, theirs = many(more, "a")  # ids smaller than all that were there
    before = drawn(samples, contents, seed=seed)
    after = drawn([*others, *samples], [*theirs, *contents], seed=seed)
    assert {id: after[id] for id in before} == before


def test_a_large_draw_has_the_asked_shares_and_depends_on_the_seed():
    samples, contents = many(20_000)
    parts = draw(samples, contents)
    share = {part: count / 20_000 for part, count in Counter(parts).items()}
    assert share == pytest.approx({TRAIN: 0.8, VALID: 0.1, TEST: 0.1}, abs=0.01)  # 5 sd of a binomial
    assert draw(samples, contents, seed=43) != parts


def test_the_draw_is_the_same_on_every_machine_and_in_every_version():
    parts = draw(*many(100))
    # by hand: printf '42\\0s3' | b2sum -l 64, and the hexadecimal fraction is >= 0.9
    assert [i for i, part in enumerate(parts) if part is TEST] == [3, 6, 8, 11, 24, 26, 32, 64, 71, 78, 93, 97]


@pytest.mark.parametrize("n", [3, 4, 10, 15, 25, 50, 99])
def test_few_groups_fill_every_part_with_its_share(n):
    counts = Counter(draw(*many(n)))
    assert counts[VALID] == counts[TEST] == max(1, round(0.1 * n))
    assert counts[TRAIN] == n - 2 * counts[TEST] >= 1


def test_speakers_of_a_small_corpus_never_share_a_part_and_fill_all_three():
    samples = [sample(f"{speaker}-{i}", together=speaker) for speaker in "abcde" for i in range(20)]
    parts = drawn(samples, [[]] * 100)
    homes = {speaker: {parts[f"{speaker}-{i}"] for i in range(20)} for speaker in "abcde"}
    assert all(len(home) == 1 for home in homes.values())
    assert Counter(part for home in homes.values() for part in home) == {TRAIN: 3, VALID: 1, TEST: 1}


def test_two_speakers_cannot_fill_three_parts_and_the_way_out_is_named(tmp_path):
    for speaker in ("OAF", "YAF"):
        for word in ("back", "bar", "base"):
            (tmp_path / f"{speaker}_{word}_sad.wav").write_bytes(f"{speaker}{word}".encode())
    samples = [replace(sample, keep_together=sample.group) for sample in tess.samples(tmp_path)]
    with pytest.raises(ConfigError, match=r"2 groups .*\(OAF, YAF\) cannot fill 3 splits") as error:
        draw(samples, [[]] * 6)
    assert "split=random" in error.value.fix
    assert set(draw(list(tess.samples(tmp_path, tess.Config(split="by_word"))), [[]] * 6)) == set(PARTS)
    assert set(draw(samples, [[]] * 6, ratios=(0.5, 0.0, 0.5))) == {TRAIN, TEST}


@pytest.mark.parametrize("ratios", [(0.8, 0.1, 0.2), (1.1, -0.1, 0.0), (0.5, 0.5)])
def test_ratios_that_do_not_divide_one_are_refused(ratios):
    with pytest.raises(ConfigError, match="ratios"):
        draw(*many(10), ratios=ratios)


@pytest.mark.parametrize("n", [20, 400])
def test_a_part_with_ratio_zero_stays_empty(n):
    assert set(draw(*many(n), ratios=(0.9, 0.1, 0.0))) == {TRAIN, VALID}
    assert set(draw(*many(n), ratios=(0.0, 0.0, 1.0))) == {TEST}


def test_nothing_to_draw_is_no_error():
    assert draw([], []) == []


def test_an_official_split_is_kept_and_drawn_samples_follow_it():
    samples = [
        sample("1", TEST),
        sample("2", TRAIN),
        sample("3", VALID),
        sample("copy"),
        sample("cousin"),
        sample("new"),
    ]
    contents = [[b"x"], [b"y"], [b"z"], [b"x", b"q"], [b"q"], [b"n"]]
    parts = drawn(samples, contents)
    assert (parts["1"], parts["2"], parts["3"]) == (TEST, TRAIN, VALID)
    assert parts["copy"] is TEST
    assert parts["cousin"] is TEST  # two steps away


def test_official_parts_that_share_content_are_not_moved_and_their_copies_train():
    samples = [sample("1", TEST), sample("2", TRAIN), sample("copy")]
    assert draw(samples, [[b"x"]] * 3) == [TEST, TRAIN, TRAIN]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.json", json.dumps({"train": [1, "2"], "dev": ["3"], "test": ["4"]})),
        ("s.csv", "id,split\r\n1,train\r\n2,Train\r\n3,val\r\n4,test\r\n"),
        ("s.tsv", "\ufeffsplit\tnote\tid\ntrain\tx\t1\ntrain\t\t2\nvalidation\t\t3\ntest\t\t4\n"),
    ],
)
def test_a_split_file_reads_the_same_as_json_csv_and_tsv(name, text, tmp_path):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert named(path) == {"1": TRAIN, "2": TRAIN, "3": VALID, "4": TEST}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.json", '{"train": ["1"], "test": ["1"]}', "1 is in train and in test"),
        ("s.csv", "id,split\n1,train\n1,test\n", "1 is in train and in test"),
        ("s.json", '{"trian": ["1"]}', "'trian' is no part"),
        ("s.json", '["1"]', "not lists of ids"),
        ("s.json", "{", "line 1"),
        ("s.csv", "name,part\n1,train\n", "the columns are name, part"),
        ("s.csv", "id,split\n1,\n", "line 2: no id or no split"),
    ],
)
def test_a_split_file_that_cannot_be_meant_is_an_error(name, text, message, tmp_path):
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(SourceError) as error:
        named(tmp_path / name)
    assert message in error.value.what


def test_a_split_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="no such split file"):
        named(tmp_path / "split.json")


def test_a_named_split_keeps_what_it_names_and_drops_the_rest():
    samples = [sample("1"), sample("2", TEST), sample("3")]
    kept, dropped = apply_named(samples, {"1": VALID, "2": TRAIN, "99": TEST})
    assert kept == [sample("1", VALID), sample("2", TRAIN)]
    assert dropped == [Dropped("3", "not in the split file")]


def test_a_split_file_may_name_videos_where_no_id_fits():
    """The usual lists of CMU-MOSI and CMU-MOSEI do; an id that fits decides that the file names samples."""
    samples = [sample("a$_$0", group="a"), sample("a$_$1", TEST, group="a"), sample("b$_$0", group="b"), sample("c")]
    kept, dropped = apply_named(samples, {"a": VALID, "elsewhere": TRAIN})
    assert [(s.id, s.split) for s in kept] == [("a$_$0", VALID), ("a$_$1", VALID)]
    assert dropped == [Dropped("b$_$0", "not in the split file", "b"), Dropped("c", "not in the split file")]
    kept, _ = apply_named(samples, {"a": VALID, "b$_$0": TRAIN})
    assert [(s.id, s.split) for s in kept] == [("b$_$0", TRAIN)]
    with pytest.raises(SourceError, match=r"or of their groups: there 'd', here 'a\$_\$0', .* in 'a', 'b'"):
        apply_named(samples, {"d": TRAIN})


def test_a_split_file_of_another_corpus_is_an_error_that_shows_both_sides():
    with pytest.raises(SourceError) as error:
        apply_named([sample("1"), sample("2")], {"0001": TRAIN, "0002": TEST})
    assert "none of the 2 ids in the split file" in error.value.what
    assert "'0001'" in error.value.what
    assert "'1'" in error.value.what


@given(corpora, st.randoms(use_true_random=False), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_stratified_draw_keeps_groups_whole_and_does_not_depend_on_order(rows, shuffler, seed):
    samples, contents = corpus(rows)
    strata = [f"class{i % 3}" for i in range(len(samples))]
    parts = drawn(samples, contents, seed=seed, strata=strata)
    assert all(len({parts[id] for id in group}) == 1 for group in components(samples, contents))
    order = list(range(len(samples)))
    shuffler.shuffle(order)
    shuffled = [[given[i] for i in order] for given in (samples, contents, strata)]
    assert drawn(shuffled[0], shuffled[1], seed=seed, strata=shuffled[2]) == parts


def test_a_stratified_draw_divides_every_class_by_the_ratios():
    samples, contents = many(300)
    strata = ["common"] * 240 + ["rare"] * 40 + ["rarer"] * 18 + ["pair"] * 2
    parts = draw(samples, contents, strata=strata)
    counts = {name: Counter(p for p, s in zip(parts, strata, strict=True) if s == name) for name in set(strata)}
    assert [counts["common"][p] for p in PARTS] == [192, 24, 24]
    assert [counts["rare"][p] for p in PARTS] == [32, 4, 4]
    assert [counts["rarer"][p] for p in PARTS] == [14, 2, 2]
    assert [counts["pair"][p] for p in PARTS] == [1, 0, 1]
    assert parts != draw(samples, contents, strata=strata, seed=7)


def test_an_official_part_is_kept_by_a_stratified_draw():
    samples, contents = many(30)
    samples = [replace(s, split=TEST) if i < 5 else s for i, s in enumerate(samples)]
    parts = draw(samples, contents, strata=["a", "b"] * 15)
    assert parts[:5] == [TEST] * 5
    assert {*parts[5:]} == {*PARTS}


def test_a_part_that_lacks_a_class_or_has_few_of_it_is_said():
    counts = {
        "train": {"a": 90, "b": 9, "c": 1},
        "valid": {"a": 10, "b": 9, "c": 0},
        "test": {"a": 12, "b": 10, "c": 0},
    }
    assert list(scarce(counts, ["a", "b", "c", "of no sample"])) == [
        "valid has no sample of class c",
        "valid has only 9 of class b: scores of this class will be rough",
        "test has no sample of class c",
    ]
    assert list(scarce({"test": {"labelled": 3}}, [])) == []


def test_leaks_are_counted_per_kind_with_an_example_and_none_are_found_where_none_are():
    samples = [
        sample("12", TRAIN, group="a"),
        sample("13", TRAIN, group="b"),
        sample("907", TEST, group="a"),
        sample("x"),
    ]
    contents = {"text": [b"t", b"t", b"t", b"u"], "image": [b"1", b"2", None, b"1"]}
    assert leaks(samples, contents) == [
        "text: 1 identical in more than one split (e.g. ids 12 and 907)",
        "group: 1 of 2 (speaker, video or dialogue) in more than one split (e.g. ids 12 and 907)",
    ]
    assert leaks(samples[:2], {"text": [b"t", b"t"], "image": [None, None]}) == []


@settings(deadline=None)
@given(corpora)
def test_what_is_drawn_does_not_leak(rows):
    samples, contents = corpus(rows)
    if len(components(samples, contents)) < 3:
        return
    split = [replace(s, split=part) for s, part in zip(samples, draw(samples, contents), strict=True)]
    for position in range(2):
        assert leaks(split, {"content": [sorted(digests)[position] for digests in contents]}) == []


def digest(path: Path) -> bytes:
    return sha256(path.read_bytes()).digest()


@pytest.mark.real
def test_a_random_split_of_mvsa_leaks_texts_and_the_drawn_one_does_not(shared):
    found = [s for s in mvsa_single.samples(shared / "data/mvsa_single") if isinstance(s, Sample)]
    texts, images = ([digest(s.raw[m].path) for s in found] for m in (Modality.TEXT, Modality.IMAGE))
    careless = random.Random(42).choices(PARTS, weights=(8, 1, 1), k=len(found))
    contents = {"text": texts, "image": images}
    assert leaks([replace(s, split=part) for s, part in zip(found, careless, strict=True)], contents)
    parts = draw(found, list(zip(texts, images, strict=True)))
    assert leaks([replace(s, split=part) for s, part in zip(found, parts, strict=True)], contents) == []
    assert set(parts) == set(PARTS)


@pytest.mark.real
def test_emodb_by_speaker_leaks_no_voice_and_at_random_leaks_all_five(shared):
    for split, expected in (("by_speaker", []), ("random", ["group: 5 of 5"])):
        found = list(emodb.samples(shared / "data/emodb", emodb.Config(split=split)))
        parts = draw(found, [[]] * len(found))
        report = leaks([replace(s, split=part) for s, part in zip(found, parts, strict=True)], {})
        assert [line[:13] for line in report] == expected
