"""What `gpt2ft pilot` picks, against a full sweep of nine learning rates.

    python benchmarks/pilot.py TEXT STORIES260K --json pilot.json

For each model the pilot is asked for a rate; then a whole run is made at each of nine rates a
factor of 1.78 apart, two decades in all, and at the rate it picked, if that is none of them. Shown
are the held-out losses of the whole runs, how much higher each is than the lowest, with its
interval, and the place of the pick among them. The sweep's rates were fixed beforehand. It computes
with one thread, so that it can share a machine: losses do not depend on the load.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from gpt2ft.config import TrainConfig
from gpt2ft.evaluation.card import difference
from gpt2ft.evaluation.records import METRICS, read_records
from gpt2ft.evaluation.scores import Score
from gpt2ft.run.finetune import finetune

RATES = 9
MIDDLES = (1e-3, 5e-5 * 10**1.5)  # of the two sweeps


def picked(settings):
    """What the pilot says, and the seconds it took."""
    flags = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "gpt2ft", "pilot", *flags, "--json"]
    begin = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout), time.monotonic() - begin


def whole_run(settings, rate):
    """The score at the end of a run."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = {**settings, "train_file": [settings["train_file"]], "output_dir": folder}
        assert finetune(TrainConfig(**settings, learning_rate=rate)) == 0
        records = [r for r in read_records(Path(folder) / METRICS) if "eval_loss" in r]
    return Score.from_record(records[-1])


def compared(settings, middle):
    """Pilot and sweep of one model."""
    facts, seconds = picked(settings)
    pick = facts["recommended"]
    print(f"\n{settings['model_name_or_path']}: pilot {seconds:.0f} s, picks {pick:g}", flush=True)
    tried = {row["rate"]: row["loss"] for row in facts["rates"]}
    exponents = range(-(RATES // 2), RATES // 2 + 1)
    grid = {float(f"{middle * 10 ** (exponent / 4):.2g}") for exponent in exponents}
    begin, found = time.monotonic(), {}
    for rate in sorted({*grid, pick}):
        found[rate] = whole_run(settings, rate)
        print(f"{rate:>10g}  {found[rate].loss:.4f}", flush=True)
    best = min(found.values(), key=lambda score: score.loss)
    rows = []
    print("| rate | pilot run | whole run | above the lowest | 95 % interval |")
    print("|---:|---:|---:|---:|---|")
    for rate, score in found.items():
        above = difference(score, best)
        short = f"{tried[rate]:.4f}" if tried.get(rate) else ""
        shown = f"{rate:g}{' (picked)' if rate == pick else ''}"
        interval = f"{above.low:+.4f} to {above.high:+.4f}" if score is not best else ""
        print(f"| {shown} | {short} | {score.loss:.4f} | {above.difference:+.4f} | {interval} |")
        rows.append({"rate": rate, "loss": score.loss, "above": above._asdict()})
    place = sorted(found, key=lambda rate: found[rate].loss).index(pick) + 1
    seconds = [seconds, time.monotonic() - begin]
    print(f"the pick is number {place} of {len(found)}; {seconds[1]:.0f} s for the whole runs")
    return {"pilot": facts, "whole_runs": rows, "place": place, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("stories260k")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    settings = {
        "train_file": given.text,
        "block_size": 64,
        "per_device_train_batch_size": 4,
        "max_steps": given.steps,
        "device": "cpu",
        "threads": 1,
    }
    torch.set_num_threads(1)
    result = {}
    for name, middle in zip(("gpt2-mini", given.stories260k), MIDDLES, strict=True):
        result[name] = compared({"model_name_or_path": name, **settings}, middle)
        if given.json:
            given.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
