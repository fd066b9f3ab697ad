"""A registered network from the registry alone: torch comes from the package index, the code from MLflow."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
from builders import make_tiles
from outside import answer_in_fresh_environment, environment_of

from casbah import stack
from casbah.evaluate import evaluate
from casbah.finetune import finetune
from casbah.models import load
from casbah.predict import blended
from casbah.register import register

pytestmark = pytest.mark.integration


def test_a_network_answers_from_the_registry_alone_without_casbah_and_without_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = make_tiles(tmp_path / "tiles")
    bundle = finetune(
        config="unet_scratch_small", tiles=tiles.path, output=tmp_path / "model", overrides=["trainer.max_epochs=1"]
    )
    evaluation = evaluate(model=bundle.path, tiles=tiles.path, output=tmp_path / "test", resamples=50)
    images = np.asarray(tiles.split("test").images[:2])
    running = stack.up(tmp_path / "stack")
    try:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        register(model=bundle.path, evaluation=evaluation.path, tiles=tiles.path, name="casbah-buildings")
        mlflow.set_tracking_uri(running.tracking_uri)
        (tmp_path / "consumer").mkdir()
        uri = "models:/casbah-buildings@champion"
        answer = answer_in_fresh_environment(
            uri, images.astype(np.float32), environment_of(running), tmp_path / "consumer"
        )
    finally:
        stack.down(tmp_path / "stack")
    assert answer.has_torch
    np.testing.assert_allclose(answer.probability, blended(load(bundle), images), atol=1e-3)
