from benchmarks import run


def test_the_first_lines_name_every_measure_there_is():
    named = (run.__doc__ or "").partition("[")[2].partition(" ...]")[0].split("|")
    assert sorted(named) == sorted(run.MEASURES)
