"""The order in which people number things."""

from msa.records import natural


def in_order(*ids):
    backwards = ids[::-1]
    return sorted(backwards, key=natural) == list(ids)


def test_numbers_in_names_are_numbers():
    assert in_order("clip1", "clip2", "clip10", "clip10a", "clip10b", "dia2_utt3", "dia10_utt1")
    assert in_order("", "7", "12", "a")


def test_names_that_differ_in_zeros_alone_keep_one_order():
    assert in_order("v$_$01", "v$_$1", "v$_$02", "v$_$2")


def test_a_number_longer_than_python_reads_is_no_error():
    assert in_order("1", "9" * 5000)
