"""An estimate scales as a run does, says what it assumes, and refuses what a run would refuse."""

import json
from pathlib import Path
from typing import Any

import pytest

from casbah import experiments
from casbah.cli import main
from casbah.finetune.experiment import read
from casbah.pipeline.estimate import NETWORKS, Estimate, assumptions, estimate
from casbah.products.tiles import TileSet

DEFAULTS: dict[str, Any] = {
    "tile_size": 64, "block_size": 0.0, "periods": 1, "trials": 0, "align": False,
    "experiments": ["unet_imagenet"],
}  # fmt: skip


def found(area: float = 100.0, **changed: Any) -> Estimate:
    return estimate(DEFAULTS | changed, area=area)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["pipeline", "estimate", *words])
    out, err = capsys.readouterr()
    return int(str(ended.value.code or 0)), " ".join(out.split()), err


@pytest.mark.parametrize("name", ["unet_imagenet", "unet_scratch_small", "boosted_pixels", "urban_graphsage"])
def test_hours_double_with_trials_and_one_trial_is_one_training(name: str) -> None:
    one, two, four = (found(experiments=[name], trials=trials).hours for trials in (0, 2, 4))
    assert one == found(experiments=[name], trials=1).hours > 0
    assert two == pytest.approx(2 * one)
    assert four == pytest.approx(2 * two)


def test_hours_and_models_double_with_experiments_of_the_same_kind() -> None:
    one, two = found(experiments=["unet_imagenet"]), found(experiments=["unet_imagenet", "unet_scratch"])
    assert two.hours == pytest.approx(2 * one.hours)
    models = "models, evaluations, checkpoints"
    assert two.storage[models] == pytest.approx(2 * one.storage[models])
    assert {**two.storage, models: 0} == {**one.storage, models: 0}, "all train on the same tiles"


def test_hours_and_tiles_scale_with_the_area_and_models_do_not() -> None:
    small, large = found(100), found(300)
    assert large.hours == pytest.approx(3 * small.hours)
    for what in ("imagery", "labels", "tiles"):
        assert large.storage[what] == pytest.approx(3 * small.storage[what])
    models = "models, evaluations, checkpoints"
    assert large.storage[models] == small.storage[models]


def test_a_second_date_doubles_what_large_networks_compute_and_the_imagery() -> None:
    one, two = (found(experiments=["prithvi_300m_upernet"], periods=periods) for periods in (1, 2))
    assert two.hours == pytest.approx(2 * one.hours)
    assert two.storage["imagery"] == pytest.approx(2 * one.storage["imagery"])


def test_an_ensemble_takes_what_its_members_take_and_is_not_tuned() -> None:
    members = read("ensemble").settings["members"]
    alone = sum(found(experiments=[member]).hours for member in members)
    assert found(experiments=["ensemble"], trials=5).hours == pytest.approx(alone)


def test_every_network_that_comes_with_casbah_was_counted() -> None:
    networks = {name for name in experiments.names() if read(name).is_network}
    assert networks - set(NETWORKS) == {"urban_graphsage"}, "count a new one: python -m bench.flops"
    assert set(NETWORKS) <= networks


def test_an_experiment_of_unknown_size_is_called_so() -> None:
    unknown = found(experiments=["s3://casbah/inputs/mine.yaml", "unet_imagenet"])
    assert unknown.hours > found().hours
    assert any(sentence.startswith("mine.yaml: not counted, assumed") for sentence in assumptions(unknown))
    assert not any("not counted" in sentence for sentence in assumptions(found()))


def test_tiles_are_those_that_the_tile_stage_would_cut(tmp_path: Path) -> None:
    from builders import make_tiles

    from casbah.grid import Grid

    # Six blocks on each side, whole ones.
    side = 6 * 140
    grid = Grid("EPSG:32631", 1400.0 * 360, 1400.0 * 2900 + side * 10, side, side)
    tiles: TileSet = make_tiles(tmp_path / "tiles", grid=grid, tile_size=64, block_size=1400.0, guard=120.0)
    cut = sum(split["tiles"] for split in tiles.info.summary["splits"].values())
    assert found(area=(side * 10 / 1000) ** 2).tiles == pytest.approx(cut, rel=0.15)


def test_the_command_prints_a_rounded_table_and_its_assumptions(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "aoi=algiers", "periods=2", "trials=4", "experiments=unet_imagenet,boosted_pixels")
    assert code == 0
    assert out.startswith("171 km², about 300 tiles of 64 px")
    assert "unet_imagenet 4 0.07 0.7" in out
    assert "together, about" in out
    for words in ("is assumed to do", "were counted", "was measured", "uncompressed", "a third or three times as much"):
        assert words in out


def test_an_area_of_a_file_or_in_square_kilometres_is_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ring = [[3.0, 36.7], [3.1, 36.7], [3.1, 36.8], [3.0, 36.8], [3.0, 36.7]]
    file = tmp_path / "my_town.geojson"
    file.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    assert said(capsys, f"aoi={file}")[1].startswith("99 km²")
    assert said(capsys, "--area", "50", "aoi=s3://casbah/inputs/unread.geojson")[1].startswith("50 km²")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["aoi=nowhere.geojson"], "nowhere.geojson"),
        (["--area", "0"], "--area is 0; square kilometres above 0 are wanted"),
        (["--area", "nan"], "--area is nan"),
        (["trials=-1"], "trials is -1; 0 (nothing is tuned) or a whole number above is wanted"),
        (["trials=two"], 'trials is "two"; a whole number is wanted'),
        (["tile_size=0"], "the tile size is 0 pixels"),
        (["tile_size=64", "block_size=100"], "holds no tile"),
        (["periods=0"], "periods"),
        (["experiments=unet_imagnet"], "unet_imagenet"),
        (["epochs=3"], "the pipeline has no parameter 'epochs'"),
        (["algiers"], "'algiers' is not NAME=VALUE"),
        (["--pipeline", "none"], "there is no pipeline 'none'"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("casbah: ")
    assert sentence in err
    assert err.count("\n") == 1
