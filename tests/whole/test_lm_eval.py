"""A finished folder in the LM Evaluation Harness: pytest tests/whole/test_lm_eval.py -m slow"""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
import yaml

from benchmarks.faults.processes import run
from gpt2ft import load_model, load_tokenizer
from gpt2ft.evaluation.scores import token_scores

TEXTS = ["A list is a sequence of objects.", "Call me Ishmael. Some years ago"]


@pytest.mark.slow
def test_it_reads_a_finished_folder_and_finds_the_same_loss(tmp_path):
    flags = ("--config", "quickstart", "--max_steps", "3", "--output_dir", "out")
    assert run("train.py", *flags, cwd=tmp_path).returncode == 0
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "own.jsonl").write_text(lines)
    task = {
        **{"task": "own_text", "dataset_path": "json", "test_split": "test"},
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "own.jsonl")}},
        "output_type": "loglikelihood_rolling",
        **{"doc_to_text": "", "doc_to_target": "{{text}}"},
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(task))
    arguments = (
        *("--model", "hf", "--model_args", "pretrained=out,dtype=float32", "--device", "cpu"),
        *("--tasks", "own_text", "--include_path", ".", "--output_path", "results"),
    )
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *arguments],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "results").rglob("*.json")
    found = json.loads(path.read_text())["results"]["own_text"]["bits_per_byte,none"]

    model, tokenizer = (load(str(tmp_path / "out")) for load in (load_model, load_tokenizer))
    losses = 0.0
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            loss, _ = token_scores(model.eval(), {"input_ids": ids, "labels": ids})
        losses += float(loss.sum())
    expected = losses / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert found == pytest.approx(expected, rel=1e-5)
