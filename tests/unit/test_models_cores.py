"""Several windows go through a network at the same time, each by cores of its own, and nothing else changes."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from predictors import training

from casbah.models import network
from casbah.models.cores import Cores, shared


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_each_computation_has_its_share_and_the_caller_keeps_all(two_threads: None) -> None:
    cores, met, shares = Cores(4), threading.Barrier(2), []

    def act(_: int) -> None:
        met.wait(10)  # which only two at a time get past
        shares.append(torch.get_num_threads())

    cores.each(act, range(6))
    assert cores.computations == 2
    assert shares == [1] * 6
    assert torch.get_num_threads() == 2


def test_a_fault_is_raised_when_nothing_runs_any_more_and_what_waits_is_not_begun(two_threads: None) -> None:
    begun, running = [], []

    def act(item: int) -> None:
        begun.append(item)
        running.append(item)
        if item == 1:
            running.remove(item)
            raise ValueError("the second")
        time.sleep(0.2)
        running.remove(item)

    with pytest.raises(ValueError, match="the second"):
        Cores(2).each(act, range(50))
    assert not running
    assert len(begun) < 10


def test_a_forked_process_makes_its_own(two_threads: None) -> None:
    """Threads do not live on in it, and who waits for them waits for ever."""
    assert shared(2) is shared(2)
    shared(2).each(lambda _: None, range(2))
    child = os.fork()
    if not child:
        signal.alarm(30)
        try:
            done: list[int] = []
            shared(2).each(done.append, range(4))
            os._exit(0 if sorted(done) == [0, 1, 2, 3] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_windows_side_by_side_answer_as_one_after_the_other(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five windows on two cores: two rounds side by side, and one that both cores share."""
    model = network.build(
        "SMPModelFactory",
        {"backbone": "resnet18", "model": "Unet", "pretrained": False, "bands": ["BLUE"], "num_classes": 2},
    )
    facts = {"mean": [[1500.0]], "std": [[600.0]], "source": "test"}
    predictor = network.NetworkPredictor(training(bands=("B02",), normalisation=facts), model, "channels")
    predictor.device, predictor.model = torch.device("cpu"), model.to("cpu")
    monkeypatch.setattr(network, "PIXELS_PER_BATCH", {"cpu": 64 * 64})
    where = []
    passed = predictor._batch
    monkeypatch.setattr(
        predictor, "_batch", lambda *given: where.append(threading.current_thread().name) or passed(*given)
    )
    images = np.random.default_rng(0).integers(200, 4000, (5, 1, 1, 64, 64)).astype(np.uint16)
    found = predictor.probabilities(images)
    assert sum(name.startswith("casbah-cores") for name in where) == 4
    torch.set_num_threads(1)
    where.clear()
    np.testing.assert_allclose(predictor.probabilities(images), found, atol=1e-5)
    assert where == [threading.main_thread().name] * 5
