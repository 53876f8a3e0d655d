"""pytest tests/evaluation/test_report.py"""

import html.parser
import json
import re

import pytest

from gpt2ft.evaluation.records import append_records
from gpt2ft.evaluation.report import page
from gpt2ft.evaluation.run_folder import read_run_folder

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u2028 <b>"


class Page(html.parser.HTMLParser):
    """Tags, and the text outside of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        if not self.tags or self.tags[-1] not in ("script", "style"):
            self.texts.append(data)


@pytest.fixture
def folder(tmp_path):
    """What a run leaves, with a text that is full of markup."""
    folder = tmp_path / "run <i>one"
    folder.mkdir()
    steps = [
        {"step": s, "loss": 3.0, "learning_rate": 0.1, "grad_norm": 1.0, "n_targets": 9}
        for s in (1, 2, 3)
    ]
    evaluations = [
        {"step": s, "eval_loss": x, "eval_perplexity": 9.0}
        for s, x in ((0, 4.0), (2, 2.0), (3, 3.0))
    ]
    append_records(folder / "metrics.jsonl", *steps, *evaluations)
    samples = [
        {"step": s, "prompt": f"prompt {EVIL}", "text": f"text {s} {EVIL}", "seed": 1}
        for s in range(9)
    ]
    append_records(folder / "samples.jsonl", *samples)
    card = {
        **{"protocol": f"blocked {EVIL}", "units": "25 blocks", "model_name": "after"},
        **{"model": {"loss": 3.0, "perplexity": 20.1, "n_targets": 1234}, "baseline": None},
        "verdict": f"better by {EVIL}",
    }
    facts = {"versions": {"torch": EVIL}, "resumed": [{"step": 5}], "command": "not here"}
    copies = {
        **{"model": {"median_longest": 4, "largest_longest": 9, "overlap": {"5": 0.5}}},
        **{"human": {"median_longest": 3, "largest_longest": 7, "overlap": {"5": 0.25}}},
        "samples": [{"longest_tokens": 9, "longest_text": EVIL, "place": EVIL}],
    }
    for name, value in (("card", card), ("run", facts), ("copies", copies)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def made(*folders, **options):
    options = {"version": "1", "settings": {f"a {EVIL}": [EVIL] * len(folders)}, **options}
    return page([read_run_folder(folder) for folder in folders], **options)


def test_text_from_outside_is_text(folder):
    found = made(folder, command=EVIL)
    parsed = Page(found)
    assert parsed.tags.count("script") == 2 and "img" not in parsed.tags and "b" in parsed.tags
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    shown = "".join(parsed.texts)
    for words in ("prompt", "text 0", "better by", "blocked", "run <i>one"):
        assert f"{words} {EVIL}".strip() in shown or words == "run <i>one"
    assert "run <i>one" in shown
    data = re.search(r'id="data">(.*?)</script>', found, re.S)[1]
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data)["runs"][0]["name"] == "run <i>one"


def test_nothing_is_fetched(folder):
    found = made(folder)
    assert not {"src", "href"} & {name for name, _ in Page(found).attributes}
    outside = re.findall(r"url\(|@import|https?://[^\"' ]*", found)
    assert set(outside) <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "default-src 'none'" in found and len(re.findall(r"'sha256-[\w+/=]{44}'", found)) == 2


def test_what_there_is_to_know_at_a_glance(folder):
    shown = "".join(Page(made(folder)).texts)
    assert "It overfits: the held-out loss was lowest at step 2, 2.0000" in shown
    assert "The model is better by" in shown
    assert "5 more times" in shown  # of nine samples four are side by side
    assert "sequences of 5 tokens" in shown and "50.0%" in shown and "25.0%" in shown


def test_a_run_that_is_going_on_or_from_an_older_version(tmp_path):
    append_records(tmp_path / "metrics.jsonl", {"step": 0, "eval_loss": 4.0, "n_targets": 5})
    for name in ("card.json", "run.json", "copies.json"):
        (tmp_path / name).write_text("{half")
    found = made(tmp_path, settings={})
    assert "no step yet, not finished" in found and len(found) < 60_000
    with pytest.raises(ValueError, match=r"holds no metrics\.jsonl with records"):
        read_run_folder(tmp_path / "none")


def test_its_size_is_bounded_without_the_data(folder):
    steps = [
        {
            "step": s,
            "loss": 3.0 + s / 7,
            "learning_rate": 0.1 / s,
            "grad_norm": 1 / s,
            "n_targets": 9,
        }
        for s in range(1, 50_000)
    ]
    append_records(folder / "metrics.jsonl", *steps)
    found = made(folder)
    data = re.search(r'id="data">(.*?)</script>', found, re.S)[1]
    assert len(found) - len(data) < 60_000 and len(data) < 150_000


def test_several_runs_on_one_page(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    append_records(other / "metrics.jsonl", {"step": 0, "eval_loss": 4.0, "n_targets": 5})
    found = made(folder, other, differences=f"a table {EVIL}")
    parsed = Page(found)
    shown = "".join(parsed.texts)
    assert "run <i>one and other" in shown and f"a table {EVIL}" in shown
    assert "What it wrote" not in shown
