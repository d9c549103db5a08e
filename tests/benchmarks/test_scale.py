"""What `python -m benchmarks.scale` measures."""

from benchmarks import scale


def test_every_figure_of_the_benchmark_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "QUICK", (200, 400, 800))
    rows = scale.measure(tmp_path, quick=True)
    assert {row.what.partition(",")[0] for row in rows} >= {"open a store", "find a view"}
    assert all(row.ours for row in rows)
