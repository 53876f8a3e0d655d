"""pytest tests/run/test_model_card.py"""

import re

import pytest
import yaml
from huggingface_hub import ModelCard as HubCard

from gpt2ft.evaluation.curves import curves
from gpt2ft.evaluation.run_folder import RunFolder
from gpt2ft.run.model_card import ModelCard

SCORE = {
    **{"loss": 2.0, "perplexity": 7.389, "bits_per_byte": 1.25, "accuracy": 0.5},
    **{"n_targets": 1000, "n_bytes": 3000},
}
FIGURES = {
    **{"protocol": "blocked, 64 tokens", "model": SCORE},
    "baseline": SCORE | {"loss": 3.0, "perplexity": 20.0855},
    "verdict": "better by 1.0000 in loss (95 % interval over 20 blocks: 0.9000 to 1.1000)",
}
FACTS = {
    **{"gpt2ft": "0.1.0", "versions": {"torch": "2.13.0"}, "step_of_the_model": 30},
    **{"tokens": 15_000, "weights": {"after": "9d4c"}},
}
SETTINGS = {"model_name_or_path": "gpt2", "train_file": ["/home/ann/secret/own.txt"]}
EVIL = "```\n---\nlicense: evil\n---\n</script><script>alert(1)</script>\x1b[2J\n````\nmore"


def card(tmp_path, *, figures=FIGURES, samples=(), **settings):
    run = RunFolder(tmp_path, [], list(samples), figures, FACTS, {}, curves([]))
    made = {**SETTINGS, **settings}
    return ModelCard("ann/m", "mit", run, made, is_chat=False, is_adapter=False).text()


def metadata(text):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])


def test_the_figures_are_those_of_the_run(tmp_path):
    text = card(tmp_path)
    assert "| loss | 3.0000 | 2.0000 |" in text and "| perplexity | 20.09 | 7.39 |" in text
    assert "| accuracy | 50.0% | 50.0% |" in text and "1,000 tokens, 3,000 bytes" in text
    assert f"The model is {FIGURES['verdict']}." in text
    assert "after 30 steps and 15,000 tokens" in text and "torch 2.13.0" in text


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("worse by 0.5 in loss (...)", "The model is worse by 0.5"),
        ("no difference that this text can show: ...", "No difference that this text can show"),
        ("how sure that is cannot be said", "How sure that is cannot be said"),
    ],
)
def test_what_is_no_gain_is_said_as_plainly(verdict, said, tmp_path):
    assert said in card(tmp_path, figures={**FIGURES, "verdict": verdict})


def test_without_held_out_text_nothing_is_claimed(tmp_path):
    text = card(tmp_path, figures={})
    assert "how good the model is was not measured" in text and "| loss |" not in text


def test_the_metadata_is_what_the_hub_takes(tmp_path):
    """By the reader of huggingface_hub."""
    text = card(tmp_path, train_file=[], dataset_name="Salesforce/wikitext")
    read = HubCard(text).data
    assert read.license == "mit" and read.base_model == "gpt2" and read.tags == ["gpt2ft"]
    assert read.datasets == ["Salesforce/wikitext"] and read.library_name == "transformers"
    assert {r.metric_type: r.metric_value for r in read.eval_results} == {
        "perplexity": 7.389,
        "accuracy": 0.5,
    }


@pytest.mark.parametrize("name", ["/home/ann/models/base", "gpt2-mini"])
def test_a_model_that_is_not_on_the_hub_is_named_without_its_place(name, tmp_path):
    text = card(tmp_path, model_name_or_path=name)
    assert "base_model" not in metadata(text) and "/home" not in text
    assert f"Fine-tuned from `{name.rpartition('/')[2]}`" in text
    new = card(tmp_path, model_name_or_path=None, model_type="gpt2")
    assert "A new model of the type `gpt2`" in new and "base_model" not in metadata(new)


def test_files_are_named_without_their_place(tmp_path):
    text = card(tmp_path, train_file=["/home/ann/a.txt:0.7", "/home/ann/b|`c.jsonl:0.3"])
    assert "`a.txt` with weight 0.7, `b''c.jsonl` with weight 0.3" in text
    assert "/home" not in text and "secret" not in card(tmp_path)


def sample(step, prompt="Once", text=" upon"):
    return {"step": step, "prompt": prompt, "text": text, "seed": 1}


def test_samples_are_shown_before_and_after(tmp_path):
    samples = [sample(0, text=" then"), sample(15, text=" between"), sample(30, text=" now")]
    text = card(tmp_path, samples=samples, sample_prompts=["Once"])
    first, last = text.index("Once then"), text.index("Once now")
    assert text.index("Before (step 0)") < first < text.index("After (step 30)") < last
    assert "between" not in text


def test_prompts_out_of_the_text_are_not_shown(tmp_path):
    samples = [sample(0, prompt="a held-out text"), sample(30, prompt="a held-out text")]
    text = card(tmp_path, samples=samples, sample_prompts=[])
    assert "a held-out text" not in text and "...  upon" in text and "not shown" in text


def test_what_a_model_wrote_stays_in_its_block(tmp_path):
    """By a reader of Markdown: the blocks of code hold it, and no HTML is in the card."""
    from markdown_it import MarkdownIt

    samples = [sample(0, text=EVIL), sample(30, text=EVIL)]
    text = card(tmp_path, samples=samples, sample_prompts=["Once"])
    body = text.split("---\n", 2)[2]
    found = MarkdownIt("commonmark").parse(body)
    blocks = [token.content for token in found if token.type == "fence" and token.info == "text"]
    assert blocks == [f"Once{EVIL}".replace("\x1b", "\ufffd") + "\n"] * 2
    assert not [token for token in found if token.type == "html_block"]
    assert metadata(text)["license"] == "mit" and "\x1b" not in text
