"""The files of docs/how-to/clusters.md, run on one machine: pytest tests/whole/test_clusters.py"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.support.tiny import byte_tokenizer, tiny_gpt2

CLUSTERS = Path(__file__).parent.parent.parent / "docs" / "how-to" / "clusters"
COMMAND = ("-m", "gpt2ft", "train")


@pytest.fixture
def place(tmp_path):
    """A model, a text, and `srun` and `scontrol` that stand in for those of Slurm."""
    tiny_gpt2().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "my.txt").write_text("a line of a text, and more of it\n" * 60, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    for name, script in (
        ("srun", '#!/bin/bash\nexec "$@"\n'),
        ("scontrol", '#!/bin/bash\necho "$@" >> "$PLACE/scontrol.log"\necho 127.0.0.1\n'),
    ):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def adapted(text, place, *more):
    """The text with this machine's paths, a free port, and a run that is short."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    short = (
        *("--model_name_or_path", str(place / "model"), "--max_steps", "6", "--save_steps", "2"),
        *("--block_size", "32", "--per_device_train_batch_size", "2", "--precision", "fp32"),
        *("--threads", "1", *more),
    )
    for old, new in (
        ("/shared/", f"{place}/"),
        ("29400", str(port)),
        ("--micro_batches_per_step 32", "--micro_batches_per_step 4"),
        ("--resume auto", f"--resume auto {' '.join(short)}"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


def environment(place, **variables):
    path = f"{place / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PLACE": str(place), **variables}


def run(script, place, **variables):
    return subprocess.run(
        ["bash", "-c", script],
        cwd=place,
        env=environment(place, **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def check_twice(script, place, **variables):
    """The script trains; the same script once more says that it is done."""
    for said in ("2 processes", "all 6 steps are done"):
        done = run(script, place, **variables)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert (place / "my-model" / "model.safetensors").is_file()


SLURM = {
    **{"SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_NNODES": "1", "SLURM_GPUS_PER_NODE": "2"},
    "SLURM_JOB_ID": "7",
}
SKYPILOT = {
    **{"SKYPILOT_NODE_IPS": "127.0.0.1", "SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_RANK": "0"},
    "SKYPILOT_NUM_GPUS_PER_NODE": "2",
}


def test_the_files_are_what_their_systems_read():
    script = (CLUSTERS / "slurm.sh").read_text()
    options = [line.split()[1] for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"--ntasks-per-node=1", "--requeue", "--signal=B:TERM@120"} <= set(options)
    task = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())
    assert task["num_nodes"] == 2 and task["resources"]["accelerators"] == "H100:8"
    assert list(task["volumes"]) == ["/shared"]
    runtime, job = yaml.safe_load_all((CLUSTERS / "trainjob.yaml").read_text())
    assert job["spec"]["runtimeRef"] == {"kind": runtime["kind"], "name": "gpt2ft"}
    assert runtime["apiVersion"] == job["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert replicated["name"] == container["name"] == "node"
    assert container["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]


@pytest.mark.slow
def test_slurm(place):
    script = (CLUSTERS / "slurm.sh").read_text()
    check_twice(adapted(script, place), place, **SLURM)
    assert "requeue" not in (place / "scontrol.log").read_text()


@pytest.mark.slow
def test_slurm_when_the_time_is_up(place):
    """A checkpoint is saved and the job goes back to the queue; there it goes on."""
    steps = []
    for _ in range(2):
        script = adapted((CLUSTERS / "slurm.sh").read_text(), place, "--max_steps", "40000")
        output = until_a_checkpoint_then_sigterm(script, place)
        steps += [int(number) for number in re.findall(r"SIGTERM after step (\d+)", output)]
        assert ("resumed from" in output) == (len(steps) == 2)
    assert steps[0] < steps[1]
    assert (place / "scontrol.log").read_text().count("requeue 7") == 2


def until_a_checkpoint_then_sigterm(script, place):
    """What the script prints until it is ended by a signal when it has saved something new."""
    before = set(place.glob("my-model/checkpoint-*"))
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=place,
        env=environment(place, **SLURM),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while set(place.glob("my-model/checkpoint-*")) <= before:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_skypilot(place):
    task = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())
    check_twice(adapted(task["run"], place), place, **SKYPILOT)


@pytest.mark.slow
def test_kubeflow(place):
    _, job = yaml.safe_load_all((CLUSTERS / "trainjob.yaml").read_text())
    trainer = job["spec"]["trainer"]
    command = adapted(" ".join([*trainer["command"], *trainer["args"], "# 29400"]), place)
    variables = {
        **{"PET_NNODES": "1", "PET_NPROC_PER_NODE": "2", "PET_NODE_RANK": "0"},
        **{"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": command.split("# ")[1]},
    }
    check_twice(command, place, **variables)
