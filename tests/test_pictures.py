"""The README's pictures are of the records that lie beside them."""

import statistics
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy

from benchmarks import novels, pictures
from benchmarks.record import RESULTS, read_all


def words(path):
    return [element.text.strip() for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_of_speed_shows_the_median_beside_every_peer():
    shown = words(RESULTS / "speed.svg")
    for record in read_all():
        for name, peer in record.get("peers", {}).items():
            rounds = zip(record["rates"]["ours"], record["rates"][name], strict=True)
            median = statistics.median(ours / theirs for ours, theirs in rounds)
            if name != "bare" and peer["target"]:
                assert f"{record['case']} beside {name}" in shown
                assert f"{median:.2f}" in shown


def test_the_committed_pictures_are_what_the_records_give(tmp_path):
    for drawn in pictures.draw(tmp_path):
        assert words(drawn) == words(RESULTS / drawn.name)


def test_head_starts_are_drawn_at_their_means_and_t_intervals():
    above = novels.judged(novels.read_records(novels.RECORDS))[1]
    (axis, *_), tasks = pictures.head_starts(above).axes, list(dict.fromkeys(above["task"]))
    lines = [line.get_xdata() for line in axis.lines]
    for objective in sorted(set(above["objective"])):
        seeds = above[(above["task"] == tasks[0]) & (above["objective"] == objective)]["accuracy"].to_numpy()
        interval = scipy.stats.t.interval(0.95, len(seeds) - 1, seeds.mean(), scipy.stats.sem(seeds))
        assert any(len(x) == 2 and np.allclose(x, interval) for x in lines), objective
        assert any(len(x) == 1 and np.allclose(x, seeds.mean()) for x in lines), objective


def test_without_records_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures.novels, "RECORDS", tmp_path / "none.jsonl")
    monkeypatch.setattr("sys.argv", ["pictures.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        pictures.main()
    assert "nothing has been judged yet" in capsys.readouterr().err
