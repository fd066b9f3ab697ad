"""What containers of a local run are given, and what is said where they can't be had. `make test-images` runs them."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from casbah.cli import main
from casbah.errors import InputError
from casbah.pipeline.compiled import STAGES, built
from casbah.pipeline.containers import Containers
from casbah.stack.process import MARK


def test_a_container_gets_services_and_credentials_and_nothing_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_URI", "HF_ENDPOINT", "CASBAH_JOURNAL"):
        monkeypatch.setenv(name, "wanted")
    for name in ("CASBAH_IMAGE", "CASBAH_IMAGE_FINETUNE", "CASBAH_WEIGHTS", "CASBAH_GIT_COMMIT", MARK, "MY_OWN"):
        monkeypatch.setenv(name, "unwanted")
    journal = tmp_path / "run-1" / "journal.jsonl"
    made = Containers(user="1234:0", memory="2g").runner_arguments(journal)
    assert "unwanted" not in made["environment"].values()
    assert list(made["environment"].values()).count("wanted") == 4
    assert made["user"] == "1234:0"
    assert made["read_only"] is True
    assert made["cap_drop"] == ["ALL"]
    assert made["mem_limit"] == made["memswap_limit"] == "2g"
    assert made["labels"] == {"casbah.run": "run-1"}
    assert "device_requests" not in made


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--memory", "2g"), "--memory is for containers: give --containers too"),
        (("--gpus",), "--gpus is for containers"),
        (("--containers", "--user", "me"), "--user is 'me'; numbers are wanted, such as 1000:0"),
        (("--containers", "--images", "nowhere.json"), "nowhere.json does not exist; `make images` writes it"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_started(
    words: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["casbah", "demo", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert sentence in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_stage_has_an_image_of_what_was_built_or_that_is_said(tmp_path: Path) -> None:
    file = tmp_path / "images.json"
    file.write_text(json.dumps({stage: {"image": f"casbah-{stage}:a1"} for stage in STAGES}))
    assert built(file)["tile"] == "casbah-tile:a1"
    file.write_text(json.dumps({"ingest": {"image": "casbah-ingest:a1"}}))
    with pytest.raises(InputError, match="names no image for the stage 'preflight'; `make images` builds all"):
        built(file)
    file.write_text("[1, 2")
    with pytest.raises(InputError, match="is not what `make images` writes"):
        built(file)


def test_images_of_a_build_are_pinned_in_the_compiled_pipeline(tmp_path: Path) -> None:
    from casbah.cli import pipeline
    from casbah.cli.root import app

    assert pipeline.pipeline
    digest = "ghcr.io/me/casbah-tile@sha256:" + "a" * 64
    file = tmp_path / "images.json"
    file.write_text(json.dumps({stage: {"image": digest.replace("tile", stage)} for stage in STAGES}))
    done = CliRunner().invoke(
        app, ["pipeline", "compile", "--images", str(file), "--output", str(tmp_path / "pinned.yaml")]
    )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "pinned.yaml").read_text()
    executors = next(yaml.safe_load_all(text))["deploymentSpec"]["executors"].values()
    assert len(executors) >= 9
    assert all("@sha256:" in executor["container"]["image"] for executor in executors)
    assert "casbah-tile:" not in text
