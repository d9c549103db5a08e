"""What `python -m benchmarks.faults` counts."""

from benchmarks import faults


def test_what_a_kill_cost_is_counted_from_the_notes_of_all_runs(tmp_path):
    trial = faults.Trial(tmp_path / "t", "serial")
    encoded = "encoded\n"
    left = faults.CORPUS - 17  # done by the third run
    trial.log.write_text(f"begun 0\n{10 * encoded}begun 7\n{12 * encoded}begun 17\n{(left + 2) * encoded}")
    assert trial.again(kills=2) == [3, 4]  # 10 - 7; 22 - 17 and two batch mates, less the 3 of the first
