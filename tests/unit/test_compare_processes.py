"""Jobs are processes of their own: one that dies loses itself and what needs it, and Ctrl-C leaves none behind."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from casbah.compare import devices, processes
from casbah.compare.devices import Slot, slots
from casbah.compare.plan import CASBAH
from casbah.compare.processes import Job, run
from casbah.interruption import ORPHANED

CPU = [Slot("CPU")]


class Made:
    """Jobs of Python one-liners, and which of them were kept, by which device."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept = folder, dict[str, str]()

    def job(self, name: str, code: str, *needs: Job, finished: bool = False) -> Job:
        return Job(
            name,
            (sys.executable, "-S", "-c", code),
            self.folder / f"{name}.log",
            lambda: finished,
            lambda device: self.kept.__setitem__(name, device),
            needs,
        )


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_a_failed_job_loses_what_needs_it_and_no_other(made: Made) -> None:
    bad = made.job("bad", "import sys; print('looking'); print('casbah: no band B10'); sys.exit(2)")
    lost, lost_too = made.job("lost", "", bad), None
    lost_too = made.job("lost too", "", lost)
    good = made.job("good", "pass")
    after = made.job("after", "pass", good)
    outcome = run([bad, lost, lost_too, good, after], CPU)
    assert outcome.failed == {bad: (2, "no band B10")}
    assert outcome.lost == {lost, lost_too}
    assert outcome.done == {good, after}
    assert made.kept == {"good": "CPU", "after": "CPU"}


def test_a_finished_job_starts_no_process(made: Made) -> None:
    outcome = run([made.job("there", "raise SystemExit(1)", finished=True)], CPU)
    assert (outcome.started, outcome.failed, made.kept) == (0, {}, {})
    assert not list(made.folder.iterdir())


def test_a_killed_process_is_a_fault_of_the_world_that_names_its_log(made: Made) -> None:
    job = made.job("big", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    code, why = run([job], CPU).failed[job]
    assert code == 3
    assert "SIGKILL" in why
    assert "too much memory" in why
    assert str(job.log) in why


def test_a_process_that_dies_in_a_traceback_is_told_by_its_last_line(made: Made) -> None:
    job = made.job("defect", "raise ValueError('spoiled')")
    assert run([job], CPU).failed[job] == (1, "ValueError: spoiled")


def test_as_many_run_at_once_as_there_are_places_each_on_its_gpu(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    code = (
        "import os, time; t = time.time(); time.sleep(0.4); "
        "print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'], t, time.time())"
    )
    jobs = [made.job(str(number), code) for number in range(4)]
    run(jobs, [Slot("first GPU", "0"), Slot("second GPU", "1")])
    said = [job.log.read_text().split() for job in jobs]
    assert sorted(words[0] for words in said) == ["0", "0", "1", "1"]
    assert {words[1] for words in said} == {"3"}
    spans = [(float(words[2]), float(words[3])) for words in said]
    assert max(sum(a <= start < b for a, b in spans) for start, _ in spans) == 2
    assert set(made.kept.values()) == {"first GPU", "second GPU"}


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    """A stand-in for `nvidia-smi`."""
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


TWO = "0, GPU-aaaa, NVIDIA H100\n1, GPU-bbbb, NVIDIA L4"


def test_there_is_one_job_to_a_gpu_and_else_one_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_listed", list)
    assert slots(None) == CPU
    assert slots(2) == CPU * 2
    monkeypatch.undo()
    driver(tmp_path, monkeypatch, TWO)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    both = [Slot("NVIDIA H100", "0"), Slot("NVIDIA L4", "1")]
    assert slots(None) == both
    assert slots(3) == [*both, both[0]]
    assert slots(1) == both[:1]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", [Slot("NVIDIA L4", "1")]),
        ("GPU-bb,0", [Slot("NVIDIA L4", "GPU-bb"), Slot("NVIDIA H100", "0")]),
        ("", CPU),
        ("-1", CPU),
        ("0,7,1", [Slot("NVIDIA H100", "0")]),
    ],
)
def test_no_gpu_is_taken_that_the_caller_hid(
    visible: str, expected: list[Slot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, monkeypatch, TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots(None) == expected


def test_a_driver_that_fails_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'Failed to initialize NVML'\nexit 9\n")
    assert slots(None) == CPU


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """A shell that runs the tests in the background lets them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("stubborn", [False, True], ids=["ends by itself", "ignores the signal"])
def test_ctrl_c_ends_the_children_and_says_how_to_go_on(
    stubborn: bool, made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.5)
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " if stubborn else ""
    code = ignore + "import os, time; print(os.getpid(), flush=True); time.sleep(120)"
    jobs = [made.job("one", code), made.job("two", code), made.job("three", code)]

    def press() -> None:
        while sum(job.log.is_file() and bool(job.log.read_text()) for job in jobs) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(jobs, CPU * 2)
    children = [int(job.log.read_text().split()[0]) for job in jobs[:2]]
    assert not any(psutil.pid_exists(child) for child in children)
    assert not jobs[2].log.exists()
    assert "run the same command again to go on" in capsys.readouterr().err


def test_a_job_whose_result_the_disk_does_not_take_loses_itself_alone(made: Made) -> None:
    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "note.json")

    lost = dataclasses.replace(made.job("lost", "pass"), keep=full)
    other = made.job("other", "pass")
    outcome = run([lost, other], CPU)
    assert outcome.done == {other}
    assert outcome.failed[lost] == (3, "note.json can't be written: No space left on device")


def test_a_job_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    job = "from casbah.interruption import end_with_parent; import os, time; end_with_parent(); "
    job += "print(os.getpid(), flush=True); time.sleep(120)"
    log = tmp_path / "job.log"
    parent = f"""
import sys
from pathlib import Path
from casbah.compare.devices import Slot
from casbah.compare.processes import Job, run
run([Job("job", (sys.executable, "-c", {job!r}), Path({str(log)!r}), lambda: False, print)], [Slot("CPU")])
"""
    process = subprocess.Popen([sys.executable, "-c", parent])
    until(lambda: log.is_file() and log.read_text().strip())
    process.kill()
    process.wait()
    until(lambda: not psutil.pid_exists(int(log.read_text())))


def test_the_commands_of_a_study_end_with_their_parent() -> None:
    command = [sys.executable, "-c", CASBAH, "--help"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == ORPHANED


def test_the_scoring_of_a_study_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    os.mkfifo(tmp_path / "tiles" / "manifest.json")  # whoever opens it waits for ever
    command = [sys.executable, "-m", "casbah.compare.scoring_process"]
    words = [str(tmp_path / "model"), str(tmp_path / "tiles"), str(tmp_path / "scores")]
    with subprocess.Popen([*command, *words], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(5)
            process.stdin.close()  # as the kernel does when the parent ends
            assert process.wait(30) == ORPHANED
        finally:
            process.kill()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
