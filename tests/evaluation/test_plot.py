"""pytest tests/evaluation/test_plot.py"""

import sys
import xml.etree.ElementTree as ElementTree

import pytest

from gpt2ft.evaluation.plot import plot_losses, smoothed
from gpt2ft.evaluation.records import append_records
from gpt2ft.evaluation.run_folder import read_run_folder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of matplotlib


@pytest.fixture
def runs(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        steps = [
            {"step": s, "loss": 3 - s / 9, "learning_rate": 0.1, "n_targets": 9}
            for s in range(1, 9)
        ]
        steps[3]["loss"] = None
        append_records(tmp_path / name / "metrics.jsonl", *steps, {"step": 0, "eval_loss": 3.5})
    return [read_run_folder(tmp_path / name) for name in ("one", "two")]


def test_an_svg_has_its_words_as_text(runs, tmp_path):
    plot_losses(runs, tmp_path / "loss.svg")
    root = ElementTree.parse(tmp_path / "loss.svg").getroot()
    words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"one, training", "one, held-out", "two, training", "step"} <= words


def test_png_and_pdf(runs, tmp_path):
    plot_losses(runs[:1], tmp_path / "loss.png", width=3)
    header = (tmp_path / "loss.png").read_bytes()[:24]
    assert header[1:4] == b"PNG" and int.from_bytes(header[16:20], "big") == 900
    plot_losses(runs[:1], tmp_path / "loss.PDF")
    assert (tmp_path / "loss.PDF").read_bytes().startswith(b"%PDF")


def test_what_cannot_be_drawn(runs, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"loss\.txt has no ending that can be drawn, use \.png"):
        plot_losses(runs, tmp_path / "loss.txt")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'gpt2ft\[plot\]'"):
        plot_losses(runs, tmp_path / "loss.svg")


def test_the_average_is_unbiased():
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
    assert smoothed([1.0, 0.0], 0.5) == pytest.approx([1.0, 1 / 3])
