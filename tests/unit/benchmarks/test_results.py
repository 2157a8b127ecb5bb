"""The CSV, and what is read from it: means, aims, tables, plots."""

import pytest
from peers import aims, plots, results, schedule, tables
from peers.results import Book, Figures, Measurement

KIND = ("timed", 1)


def measured(contender="mesh", peak=6.0, goodput=(4.0, 2.0)):
    book = Book("timed", 1, contender)
    book.note("peak", "throughput_per_s", peak)
    for seed, value in enumerate(goodput, start=1):
        book.note("open-1.1", "goodput_per_s", value, seed=seed)
        book.note("open-0.5", "goodput_per_s", value, seed=seed)
    return book.rows


def test_a_file_gives_back_what_was_written_and_the_same_bytes(tmp_path):
    rows = [
        Measurement("", 0, results.RUN, "", "", "", "machine", 'a CPU, "fast"'),
        *measured(),
    ]
    results.write_csv(tmp_path / "a.csv", rows)
    assert results.read_csv(tmp_path / "a.csv") == rows
    results.write_csv(tmp_path / "b.csv", results.read_csv(tmp_path / "a.csv"))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_file_of_other_columns_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("who,what\nmesh,1\n")
    with pytest.raises(ValueError, match="who"):
        results.read_csv(tmp_path / "a.csv")


def test_nothing_is_noted_where_there_is_no_figure():
    book = Book("timed", 1, "mesh")
    book.note("peak", "first_preview_ms", None)
    assert book.rows == []


def test_a_mean_is_over_the_seeds_and_none_is_not_zero():
    figures = Figures(measured())
    assert figures.mean(KIND, "mesh", "open-1.1", "goodput_per_s") == 3.0
    assert figures.mean(KIND, "mesh", "open-1.5", "goodput_per_s") is None


def test_aims_compare_with_the_best_peer_and_tell_losses():
    rows = measured() + measured("triton-ensemble", 5.0, (1.0, 1.0))
    rows += measured("litserve-batched", 3.0, (2.0, 2.0))
    found = {aim.what: aim for aim in aims.aims(Figures(rows))}
    peak = found["timed, peak: throughput against triton-ensemble"]
    assert (peak.found, peak.reached) == ("1.20 (6.00 against 5.00 pictures/s)", False)
    goodput = found["timed, open-1.1: goodput against litserve-batched"]
    assert (goodput.found, goodput.reached) == ("1.50 (3.00 against 2.00 pictures/s)", False)


def test_an_aim_that_is_reached_is_told_so():
    rows = measured(peak=9.0) + measured("triton-sequence", 6.0)
    (peak, *_) = aims.aims(Figures(rows))
    assert peak.reached


def test_the_report_has_every_contender_and_dashes_for_what_was_not_measured():
    text = tables.report_text(Figures(measured() + measured("litserve-batched")))
    assert "| mesh | 6.00 | – |" in text
    assert "| litserve-batched | 3.00 (–, –) | 3.00 (–, –) |" in text


def test_a_readme_keeps_what_is_around_the_tables(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.write_into(readme, "new")
    assert readme.read_text() == f"before\n{tables.BEGIN}\n\nnew\n\n{tables.END}\nafter\n"
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="no lines"):
        tables.write_into(readme, "new")


def test_plots_are_drawn_of_what_was_measured(tmp_path):
    paths = plots.draw(Figures(measured()), tmp_path)
    assert sorted(path.name for path in paths) == ["goodput-timed-1.png", "peak-timed-1.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_schedule_is_narrowed_by_name_and_unknown_names_are_told():
    (part,) = schedule.only(schedule.full(), ["mesh"], ["cpu"])
    assert list(part.loads) == ["mesh"]
    with pytest.raises(ValueError, match="triton-ensemble"):
        schedule.only(schedule.full(), ["trition"], [])
