"""The compiled study, run by `kfp.local` on a tiny simulated town, leaves one comparison of all its experiments."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from casbah import experiments, sample
from casbah.pipeline import compiled, inputs
from casbah.pipeline.session import Session, request
from casbah.products.comparison import Comparison
from casbah.sample import api
from casbah.storage import BUCKET, Location, Store

pytestmark = [pytest.mark.integration, pytest.mark.long]

ROUNDS = {"quick_pixels": 5, "quicker_pixels": 2}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with Session(tmp_path_factory.mktemp("study") / "casbah", embedded=True) as opened:
        yield opened


def published(session: Session) -> list[str]:
    """The town in the store, and the addresses of two quick experiments of one's own."""
    store = Store.from_environment()
    store.ensure_bucket()
    town = sample.make(session.directory / "sample", size=(1.8, 1.8))
    sample.publish(town.path, inputs.SAMPLE)
    addresses = []
    for name, rounds in ROUNDS.items():
        content = yaml.safe_load(experiments.find("boosted_pixels").read_text())
        content["trees"]["rounds"] = rounds
        place = Location(BUCKET, f"inputs/{name}.yaml")
        store.write(yaml.safe_dump(content).encode(), place)
        addresses.append(f'"{place}"')
    return addresses


def test_the_study_runs_as_a_pipeline_and_leaves_its_comparison(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in session.environment.items():
        monkeypatch.setenv(name, value)
    listed = f"[{', '.join(published(session))}]"
    with api.serve(session.directory / "sample", asset_base=str(inputs.SAMPLE)) as address:
        given = {"aoi": "sample", "labels": "sample", "stac": address, "start": sample.START, "end": sample.END}
        given |= {"experiments": listed, "tile_size": "16", "block_size": "440", "trials": "2"}
        with request(given, output=tmp_path / "comparison", pipeline=compiled.COMPARISON) as wanted:
            made = session.compare(wanted, output=tmp_path / "comparison")
    facts = Comparison.open(tmp_path / "comparison").facts
    assert made.facts == facts
    assert {row.experiment for row in facts.rows} == set(ROUNDS)
    assert facts.best in ROUNDS
    assert facts.simulated
    assert facts.protocol.endswith("settings too, among 2 trials")
    assert all(0 < row.iou.value < 1 for row in facts.rows)
    assert {row.starts_from for row in facts.rows} == {"trees"}
    assert "SIMULATED" in (made.path / "comparison.md").read_text()
    assert (made.path / "figures" / "maps.png").stat().st_size > 10_000
