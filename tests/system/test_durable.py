"""Faults at every operation on the disk: pytest tests/system/test_durable.py

`python benchmarks/reliability.py` makes more of each, and the same with protocols that lose runs.
"""

import errno
import resource

import pytest
import torch

from benchmarks.faults import disk, protocols, trials
from benchmarks.faults.processes import context, settle_down
from gpt2ft.checkpoint import manifest
from gpt2ft.checkpoint.folders import find_checkpoint, is_finished
from gpt2ft.evaluation import records
from gpt2ft.run import recipe
from gpt2ft.system import durable


@pytest.fixture(scope="module")
def ours():
    """Names of the operations of a run with our checkpoints, and its final hash."""
    return trials.without_faults("ours")


@pytest.fixture(scope="module")
def whole_run():
    """The same of a run as `train.py` carries it out."""
    return trials.without_faults("finetune")


def test_stopped_at_every_operation_no_run_is_lost(ours):
    operations, expected = ours
    stops = list(trials.stops(operations))
    assert len(operations) > 50 and len(stops) > 70
    assert {"rename", "delete", "sync_file", "write_by"} < set(operations)
    assert trials.outcomes("ours", stops, expected) == {"": len(stops)}


def test_saving_a_step_again_never_takes_the_newest_checkpoint():
    """Stopped where names change: the one replaced is found until the new one is there."""
    operations, expected = trials.without_faults(protocols.TWICE)
    changes = ("rename", "sync_folder", "delete")
    stops = [fault for fault in trials.stops(operations) if operations[fault.at] in changes]
    stops = [fault for fault in stops if fault.at > len(operations) / 2]  # the others are alike
    assert len(stops) > 20
    assert trials.outcomes(protocols.TWICE, stops, expected) == {"": len(stops)}


def test_failing_at_every_operation_says_so_and_loses_no_run(ours):
    """Each operation with one of the errors; all errors at all of them take minutes."""
    operations, expected = ours
    failures = list(trials.failures(operations))[::4]
    assert {fault.what for fault in failures} == {errno.ENOSPC, errno.EIO, errno.EDQUOT}
    assert trials.outcomes("ours", failures, expected) == {"": len(failures)}


def test_a_whole_run_stopped_here_and_there_is_not_lost(whole_run):
    """Settings, records, observations and the finished model are in it as well."""
    operations, expected = whole_run
    stops = list(trials.stops(operations))[::7]
    assert trials.outcomes("finetune", stops, expected) == {"": len(stops)}


def test_a_whole_run_whose_disk_fails_here_and_there_is_not_lost(whole_run):
    operations, expected = whole_run
    failures = list(trials.failures(operations))[::23]
    assert trials.outcomes("finetune", failures, expected) == {"": len(failures)}


@pytest.mark.parametrize("control", ["torch.save in place", "newest folder"])
def test_the_same_faults_lose_runs_of_other_protocols(control):
    """Else the tests above would prove nothing."""
    operations, expected = trials.without_faults(control)
    within_saves = [fault for fault in trials.stops(operations) if fault.torn]
    assert trials.outcomes(control, within_saves, expected)[""] < len(within_saves) / 2


@pytest.fixture(scope="module")
def history():
    """Hash of the state at each step."""
    return protocols.history()


def test_no_power_failure_takes_what_was_committed(history):
    record = trials.recorded("ours")
    states = list(disk.crash_states(record, samples=1))
    assert len(states) > 80
    assert {trials.lost("ours", record, state, history) for state in states} == {""}


def test_no_power_failure_takes_a_step_that_is_saved_again(history):
    record = trials.recorded(protocols.TWICE)
    states = [state for state in disk.crash_states(record, samples=1) if state[0] == 6]
    assert len(states) > 20
    assert {trials.lost(protocols.TWICE, record, state, history) for state in states} == {""}


@pytest.mark.parametrize("left_out", ["sync_file", "sync_folder"])
def test_without_either_sync_a_power_failure_takes_a_run(left_out, history):
    """Else the test above would prove nothing."""
    record = trials.recorded("ours", without=left_out)
    states = disk.crash_states(record, samples=1)
    assert any(trials.lost("ours", record, state, history) for state in states)


def test_a_power_failure_leaves_a_whole_run_resumable(tmp_path):
    """Not the checkpoints alone: the settings that --resume reads, and the finished model."""
    record = trials.recorded("finetune")
    finished = set()
    for number, (committed, tree) in enumerate(disk.crash_states(record, samples=2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        disk.put_on_disk(tree, record.root, folder)
        if committed:
            assert find_checkpoint(folder / "run")[0] is not None
            assert recipe.load_recipe(str(folder / "run" / "config.yaml"))["max_steps"] == 6
            records.forget_after(folder / "run" / "metrics.jsonl", committed)
        if is_finished(folder / "run"):
            finished.add(committed)
            manifest.verify_checkpoint(folder / "run")
    assert finished == {6}


def test_an_error_of_the_disk_says_where(tmp_path, monkeypatch):
    """In writing and syncing an open file the system's own does not."""
    path = tmp_path / "file"
    path.touch()

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable.os, "fsync", fail)
    for call in (durable.sync_file, durable.sync_folder):
        with pytest.raises(OSError, match=f"Input/output error: '{path}'"):
            call(path)
    with pytest.raises(OSError, match=f"{path}/x cannot be written, .*Not a directory"):
        durable.write_tensors(path / "x", {})


def test_a_disk_that_is_really_full_is_an_os_error(tmp_path):
    """The libraries that write raise others. A limit on file sizes stands in for the disk."""
    process = context.Process(target=_save_with_limit, args=(tmp_path,))
    process.start()
    process.join()
    messages = (tmp_path / "errors").read_text().splitlines()
    assert len(messages) == 4 and all(message == "OSError" for message in messages)


def _save_with_limit(folder):
    settle_down()
    state = protocols.make_state()
    errors = folder / "errors"
    calls = [
        lambda: durable.write_tensors(folder / "a.safetensors", {"a": torch.zeros(50_000)}),
        lambda: durable.write_by(state.model.save_pretrained, folder),
        lambda: durable.write_by(protocols.TOKENIZER.save_pretrained, folder),
        lambda: protocols.save_ours(folder / "run", state),
    ]
    names = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    for call in calls:
        try:
            call()
        except Exception as error:
            names.append("OSError" if isinstance(error, OSError) else type(error).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((folder / "run").iterdir())
    errors.write_text("\n".join(names))
