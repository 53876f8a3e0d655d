"""How long the loop stands still to save GPT-2 (124M) with its moments, against `torch.save`.

    python benchmarks/saving.py [--folder FOLDER] [--repeats 7]

Ours: space checked, files written, fsynced and hashed, older checkpoints verified and rotated.
Theirs: `torch.save` of the same tensors to the same disk, without fsync, hash or rotation. The two
take turns; the ratio is that of the medians.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import transformers

from gpt2ft import TrainState, build_optimizer, save_checkpoint
from gpt2ft.checkpoint import snapshot


def timed(function):
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--folder", help="where to write; default: a temporary folder")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    transformers.logging.disable_progress_bar()

    model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    optimizer = build_optimizer(model)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    state = TrainState.create(model, optimizer)

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        tensors = {**dict(model.named_parameters()), **snapshot.optimizer_tensors(state)}
        size = sum(tensor.nbytes for tensor in tensors.values())
        print(f"{size / 1e9:.2f} GB, torch {torch.__version__}, {os.cpu_count()} cores")
        ours, theirs = [], []
        for repeat in range(-2, arguments.repeats):  # until there is something to rotate
            state.step += 1
            times = []
            for save in (
                lambda: torch.save(tensors, Path(folder) / "tensors.pt"),
                lambda: save_checkpoint(Path(folder) / "run", state),
            ):
                os.sync()  # what the one left to write must not slow down the other
                times.append(timed(save))
            if repeat >= 0:
                print(f"torch.save {times[0]:.2f} s, save_checkpoint {times[1]:.2f} s", flush=True)
                theirs.append(times[0])
                ours.append(times[1])
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(
        f"medians {statistics.median(theirs):.2f} and {statistics.median(ours):.2f} s, "
        f"ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
