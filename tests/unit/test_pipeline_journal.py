"""What the journal of a local run says: who failed, how long the stages took; and what a step makes of its values."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from casbah.errors import WorldError
from casbah.pipeline import local

EVENTS: dict[str, Any] = {"detail": "", "time": 0.0}


def blamed(*events: dict[str, Any]) -> str:
    """The sentence that ends a run whose journal said these things."""
    account = local._Account()
    for event in events:
        account.take({**EVENTS, **event})
    with pytest.raises(WorldError) as raised:
        local._raise_failure(account, Path("run.log"))
    return str(raised.value)


START_A = {"event": "start", "step": "ingest", "pid": 1}
FAIL_A = {"event": "fail", "step": "ingest", "pid": 1, "code": 3, "message": "the catalogue is down"}
END_A = {"event": "end", "step": "ingest", "pid": 2, "seconds": 1.0, "stage": 0.5}
START_B = {"event": "start", "step": "finetune", "pid": 3}


def crashed(*living: int) -> dict[str, Any]:
    return {"event": "crashed", "message": "failed", "living": list(living)}


def test_a_failure_that_a_retry_made_good_is_not_blamed() -> None:
    sentence = blamed(START_A, FAIL_A, {**START_A, "pid": 2}, END_A, START_B, crashed())
    assert sentence.startswith("finetune ended without a word")


def test_a_step_that_died_is_blamed_before_one_that_waits_for_its_next_try() -> None:
    assert blamed(START_A, START_B, FAIL_A, crashed()).startswith("finetune ended without a word")


def test_a_step_that_still_works_is_not_blamed_for_one_that_failed_for_good() -> None:
    assert blamed(START_A, START_B, FAIL_A, crashed(3)).startswith("ingest: the catalogue is down")


def test_a_step_journals_the_stage_apart_from_what_comes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah import journal
    from casbah.pipeline import steps

    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(steps.time, "monotonic", lambda: clock.now)
    monkeypatch.setenv(journal.VARIABLE, str(tmp_path / "journal.jsonl"))

    def stage(seconds: float) -> str:
        clock.now += seconds
        return "made"

    with steps._step("tile") as step:
        clock.now += 2.0  # imports and downloads
        assert step.run(stage, 5.0) == "made"
    (_, end) = journal.Reader(tmp_path / "journal.jsonl").new()
    assert (end["seconds"], end["stage"]) == (7.0, 5.0)
    account = local._Account()
    account.take({**end, "event": "start"})
    account.take(end)
    assert account.stages == {"tile": 5.0}
    assert account.seconds == {"tile": 7.0}


@pytest.mark.parametrize("value", [{"type": "Polygon"}, ["algiers"], 5, True])
def test_a_value_that_kfp_has_parsed_is_one_sentence_and_no_traceback(
    value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from casbah.pipeline import steps

    with pytest.raises(SystemExit) as ended:
        steps.ingest(
            SimpleNamespace(path=str(tmp_path / "scene"), metadata={}),
            aoi=value,
            cell="",
            cell_margin=0.0,
            start="2023-06-01",
            end="2023-09-30",
            stac="sample",
            periods=1,
            max_cloud=20.0,
            snapshot="2026-11-01",
        )
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("casbah: aoi ")
    assert ("upload it" in said) == isinstance(value, dict | list)
