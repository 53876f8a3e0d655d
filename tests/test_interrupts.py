"""A step is made or not begun, whatever comes in its midst: pytest tests/test_interrupts.py"""

import contextlib
import hashlib
import os
import random
import signal
import threading
import time

import pytest
import torch

from gpt2ft import Batches, CausalLMCollator, TrainState, build_optimizer, train
from gpt2ft.checkpoint.snapshot import optimizer_tensors
from gpt2ft.guards import uninterrupted
from gpt2ft.precision import Precision

FP32 = Precision(torch.device("cpu"), None)
STEPS = 6


class Samples:
    """Twenty-eight samples of 3 to 12 tokens: an epoch of five steps."""

    def __len__(self):
        return 28

    def __getitem__(self, index):
        return {"input_ids": [(index * 37 + i * 11) % 256 + 1 for i in range(3 + index % 10)]}


def make_run(make_model, scaled):
    """Dropout, accumulation, an end of an epoch; and, if `scaled`, a scaler that overflows."""
    model = make_model(dropout=0.2)
    optimizer = build_optimizer(model, learning_rate=1e-2, weight_decay=0.1)
    state = TrainState.create(model, optimizer, precision=FP32, seed=3)
    if scaled:
        state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=1)
    data = Batches(Samples(), CausalLMCollator(0), batch_size=2, seed=5)
    return state, data


def steps(state, data):
    settings = {"gradient_accumulation_steps": 3, "max_grad_norm": 1.0}
    return train(state, data, max_steps=STEPS, learning_rate=lambda s: 1e-2 / (s + 1), **settings)


def fingerprint(state):
    """sha256 of weights, moments, scaler and counters."""
    digest = hashlib.sha256()
    tensors = {**dict(state.model.named_parameters()), **optimizer_tensors(state)}
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().numpy().tobytes())
    counters = (state.step, state.batches, state.tokens, int(state.skipped_steps))
    digest.update(repr((counters, state.scaler.state_dict())).encode())
    return digest.hexdigest()


@pytest.fixture(params=[False, True], ids=["plain", "scaled"])
def scaled(request):
    return request.param


@pytest.fixture
def straight(make_model, scaled):
    """What a run ends with that nothing interrupts."""
    state, data = make_run(make_model, scaled)
    results = list(steps(state, data))
    assert (0 < sum(bool(r.skipped) for r in results) < STEPS) == scaled
    assert max(r.batches.stop for r in results) > len(data)  # an end of an epoch
    return fingerprint(state)


@pytest.fixture
def ctrl_c():
    """As in a notebook: SIGINT raises KeyboardInterrupt, also where pytest had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("times", [25, pytest.param(200, marks=pytest.mark.slow)])
def test_interrupted_at_random_instants(times, scaled, straight, make_model, ctrl_c):
    """Real signals; each time the loop is called again, and ends with the same bits."""
    start = time.perf_counter()
    for _ in steps(*make_run(make_model, scaled)):
        pass
    seconds = time.perf_counter() - start
    chance = random.Random(times)
    interrupted = 0
    for _ in range(times):
        state, data = make_run(make_model, scaled)
        delay = chance.uniform(0, seconds)
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        with contextlib.suppress(KeyboardInterrupt):
            timer.start()
            for _ in steps(state, data):
                pass
            time.sleep(1)  # it came too late
        interrupted += state.step < STEPS
        for _ in steps(state, data):
            pass
        assert fingerprint(state) == straight
    assert interrupted > times / 4  # the others came after its end


@pytest.mark.parametrize("where", ["between the groups", "before the counters"])
def test_interrupted_in_the_midst_of_an_update(
    where, scaled, straight, make_model, ctrl_c, monkeypatch
):
    """At each update of the run: matrices are updated and vectors not; or all, but not counted."""
    original = torch._fused_adamw_
    for at in range(1, STEPS + 1):
        state, data = make_run(make_model, scaled)
        calls = 0

        def interrupt(*args, at=at, **kwargs):
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.02)

        def update_and_interrupt(*args, interrupt=interrupt, **kwargs):
            original(*args, **kwargs)
            interrupt()

        if where == "between the groups":
            monkeypatch.setattr(torch, "_fused_adamw_", update_and_interrupt)
        else:
            state.optimizer.register_step_post_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(steps(state, data))
        monkeypatch.setattr(torch, "_fused_adamw_", original)
        list(steps(state, data))
        assert fingerprint(state) == straight, f"update {at}"


def test_what_is_begun_is_finished_before_the_interrupt_is_raised(ctrl_c):
    done = []

    def work():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        done.append(True)

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(work)
    assert done == [True]


def test_the_result_and_the_error_of_the_work_come_through():
    assert uninterrupted(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 / 0)


@pytest.mark.parametrize("where", ["forward", "zeros_like", "get_total_norm"])
def test_out_of_memory_anywhere(where, scaled, straight, make_model, monkeypatch):
    """At the first, the second, ... call of it: in a forward pass, where moments are made, between
    unscaling and the update. Called again, the loop goes on as if nothing had been."""
    owner, name = {
        "forward": (torch.nn.LayerNorm, "forward"),
        "zeros_like": (torch, "zeros_like"),
        "get_total_norm": (torch.nn.utils, "get_total_norm"),
    }[where]
    original = getattr(owner, name)
    fails_at, failed = 0, True
    while failed:
        calls, failed = 0, False

        def fail(*args, at=fails_at + 1, **kwargs):
            nonlocal calls, failed
            calls += 1
            if calls == at:
                failed = True
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original(*args, **kwargs)

        state, data = make_run(make_model, scaled)
        monkeypatch.setattr(owner, name, fail)
        with contextlib.suppress(torch.OutOfMemoryError):
            for _ in steps(state, data):
                pass
        monkeypatch.setattr(owner, name, original)
        for _ in steps(state, data):
            pass
        assert fingerprint(state) == straight, f"call {fails_at + 1} of {where}"
        fails_at += 1 if where == "get_total_norm" else 7
    assert fails_at > 3


def test_the_programs_own_handler_for_ctrl_c_is_left_to_it():
    """Then Python raises nothing, and no thread is needed."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        assert uninterrupted(threading.current_thread) is threading.main_thread()
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_an_interrupted_forward_pass_leaves_behind_is_not_used(make_model):
    """An autocast that was not left keeps weights that were cast; a `no_grad` that was not left."""

    def trained(interrupted):
        precision = Precision(torch.device("cpu"), torch.bfloat16)
        model = make_model()
        optimizer = build_optimizer(model, learning_rate=1e-2)
        state = TrainState.create(model, optimizer, precision=precision)
        data = Batches(Samples(), CausalLMCollator(0), batch_size=2, seed=5)
        list(train(state, data, max_steps=1))
        with contextlib.ExitStack() as left_open:
            if interrupted:
                left_open.enter_context(precision.autocast())
                model(torch.tensor([[1, 2, 3]]))
                left_open.enter_context(torch.no_grad())
            list(train(state, data, max_steps=3))
        return fingerprint(state)

    assert trained(interrupted=True) == trained(interrupted=False)
