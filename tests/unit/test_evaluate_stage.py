"""Evaluate scores each pixel once, with thresholds from validation, on blocks that the model has not seen."""

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_labels, make_scene, make_tiles
from scored_models import BrightPixels, counts_by_block, make_bundle, predicting, use_predictor

from casbah import scoring
from casbah.cli import main
from casbah.errors import InputError, WorldError
from casbah.evaluate import evaluate
from casbah.evaluate.report import caution, verdict, without_pictures
from casbah.grid import Grid
from casbah.models import on_tiles
from casbah.models.mosaics import mosaics
from casbah.products.evaluation import Evaluation, Interval
from casbah.products.tiles import Split, TileFolds, TileSet
from casbah.tile import tile

SMALL = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 192, 192)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    """A simulated town of about 36 tiles, one a block."""
    return make_tiles(tmp_path_factory.mktemp("town") / "tiles")


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> TileFolds:
    return make_tiles(tmp_path_factory.mktemp("folds") / "tiles", folds=3)


@pytest.fixture(autouse=True)
def _bright(monkeypatch: pytest.MonkeyPatch) -> None:
    use_predictor(monkeypatch)


@pytest.fixture(autouse=True)
def _numbers_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a second: tests of numbers go without it; those of reports ask for `drawn`."""
    if "drawn" in request.fixturenames:
        return

    def blank(directory: Path, *_: Any) -> None:
        for name in ("report.html", "report.md", "map.html"):
            (directory / name).write_text("")

    monkeypatch.setattr("casbah.evaluate.stage.write_report", blank)


@pytest.fixture
def drawn() -> None:
    """Asks for real reports."""


def rewritten(tiles: TileSet, target: Path, change: Callable[[Path], None]) -> TileSet:
    """A copy of a TileSet after `change` was let loose on its files."""
    manifest = tiles.manifest
    with TileSet.write(target, parameters=manifest.parameters, inputs=manifest.inputs) as draft:
        shutil.copytree(tiles.path, draft.directory, dirs_exist_ok=True)
        (draft.directory / "manifest.json").unlink()
        change(draft.directory)
    return TileSet.open(target)


def edited_info(**fields: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "tileset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def scored(tmp_path: Path, tiles: TileSet, name: str = "evaluation", split: str = "test", **fields: Any) -> Evaluation:
    model = make_bundle(tmp_path / f"{name}-model", tiles, **fields)
    return evaluate(model=model.path, tiles=tiles.path, output=tmp_path / name, split=split, resamples=200)


def test_the_scores_are_those_of_every_test_pixel_at_the_bundles_threshold(tmp_path: Path, tiles: TileSet) -> None:
    metrics = scored(tmp_path, tiles, threshold=0.7).metrics
    split = tiles.split("test")
    predicted = BrightPixels(None).probabilities(np.asarray(split.images)) >= np.float32(0.7)
    assert metrics.threshold == 0.7
    assert metrics.building.iou.value == scoring.iou(scoring.confusion(predicted, split.masks))
    expected = counts_by_block(predicted, split.masks, split.blocks)
    assert {b.block: (b.tp, b.fp, b.fn, b.tn) for b in metrics.blocks} == expected
    assert metrics.building.iou.low < metrics.building.iou.value < metrics.building.iou.high


def test_baselines_and_calibration_stand_beside_the_model(tmp_path: Path, tiles: TileSet) -> None:
    metrics = scored(tmp_path, tiles).metrics
    assert metrics.baselines["all background"].iou.value == 0.0
    assert metrics.baselines["all background"].precision.value is None
    assert metrics.baselines["built-up index"].iou.value > 0.5
    assert metrics.ece < 0.1
    assert sum(b["pixels"] for b in metrics.reliability) == sum(b.tp + b.fp + b.fn + b.tn for b in metrics.blocks)


def _inside(split: Split, row: int, place: tuple[int, int]) -> tuple[int, int]:
    tile = split.table.iloc[row]
    return place[0] - tile.tile_row, place[1] - tile.tile_col


def test_a_pixel_under_several_tiles_is_scored_once_by_its_mean(tmp_path: Path) -> None:
    tiles = make_tiles(tmp_path / "tiles", tile_size=16, stride=8)
    split = tiles.split("test")
    number = {image.tobytes(): i for i, image in enumerate(np.asarray(split.images))}

    def layer(images: np.ndarray) -> np.ndarray:
        own = np.array([number[image.tobytes()] for image in images], np.float32)
        return np.broadcast_to(own[:, None, None], (len(images), 16, 16))

    places: dict[tuple[int, int], list[int]] = {}
    for row in split.table.itertuples():
        for r in range(16):
            for c in range(16):
                places.setdefault((row.tile_row + r, row.tile_col + c), []).append(row.row)
    assert max(map(len, places.values())) == 4
    seen = 0
    for mosaic in mosaics(tiles, "test", {"number": layer}):
        for (r, c), value in np.ndenumerate(mosaic.layers["number"]):
            if not np.isnan(value):
                seen += 1
                assert value == pytest.approx(np.mean(places[mosaic.top + r, mosaic.left + c]))
    assert seen == len(places)
    known = {place for place, rows in places.items() if split.masks[rows[0]][_inside(split, rows[0], place)] != 255}
    metrics = scored(tmp_path, tiles).metrics
    assert sum(b.tp + b.fp + b.fn + b.tn for b in metrics.blocks) == len(known) < (split.masks != 255).sum()


def test_test_data_moves_neither_the_threshold_nor_the_baselines_threshold(tmp_path: Path, tiles: TileSet) -> None:
    def spoil(directory: Path) -> None:
        rng = np.random.default_rng(1)
        for name, top in (("images", 9000), ("masks", 2)):
            path = directory / "test" / f"{name}.npy"
            array = np.load(path)
            np.save(path, rng.integers(0, top, array.shape).astype(array.dtype))

    honest = scored(tmp_path, tiles, "honest").metrics
    spoilt = scored(tmp_path, rewritten(tiles, tmp_path / "spoilt-tiles", spoil), "spoilt").metrics
    assert spoilt.building.iou.value != honest.building.iou.value
    assert spoilt.baselines != honest.baselines
    assert spoilt.threshold == honest.threshold
    assert spoilt.extra["built_up_index"] == honest.extra["built_up_index"]


def test_validation_data_does_move_the_baselines_threshold(tmp_path: Path, tiles: TileSet) -> None:
    def darken(directory: Path) -> None:
        path = directory / "val" / "images.npy"
        np.save(path, np.load(path) // 2)

    honest = scored(tmp_path, tiles, "honest").metrics.extra["built_up_index"][0]
    other = scored(tmp_path, rewritten(tiles, tmp_path / "dark-tiles", darken), "dark").metrics
    assert other.extra["built_up_index"][0]["threshold"] != honest["threshold"]


@pytest.mark.parametrize(("seen", "verb"), [("train", "trained on"), ("val", "was tuned on")])
def test_blocks_that_the_model_has_seen_are_refused_by_name(
    tmp_path: Path, tiles: TileSet, seen: str, verb: str
) -> None:
    blocks = {"train": (), "val": ()} | {seen: tiles.info.blocks["test"][:1]}
    with pytest.raises(InputError, match=rf"{verb} {blocks[seen][0]}, blocks of the test split .* would leak"):
        scored(tmp_path, tiles, blocks=blocks)
    assert not (tmp_path / "evaluation").exists()


def test_validation_blocks_may_have_tuned_the_model_but_not_trained_it(tmp_path: Path, tiles: TileSet) -> None:
    metrics = scored(tmp_path, tiles, split="val").metrics
    assert metrics.split == "val"
    assert "chosen on these blocks" in metrics.protocol
    with pytest.raises(InputError, match=r"trained on .* blocks of the val split"):
        scored(tmp_path, tiles, "other", split="val", blocks={"train": tiles.info.blocks["val"], "val": ()})


def test_ground_that_the_model_has_seen_in_blocks_of_another_size_is_refused(tmp_path: Path, tiles: TileSet) -> None:
    other = make_tiles(tmp_path / "other", block_size=400)
    model = make_bundle(tmp_path / "model", other)
    with pytest.raises(InputError, match=r"blocks of the test split .* would leak"):
        evaluate(model=model.path, tiles=tiles.path, output=tmp_path / "evaluation")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"bands": ("B02", "B10")},
            r"takes band B10, which .*tiles does not hold \(it has B01, .*make tiles with it",
        ),
        ({"level": "L1C"}, "trained on level L1C where the tiles have L2A; evaluate it on tiles like those"),
        ({"periods": 2}, "trained on periods 2 where the tiles have 1"),
        ({"normalise": "scene"}, "trained on normalise scene where the tiles have none"),
        ({"resolution": 20.0}, "trained on resolution 20 m where the tiles have 10 m"),
        ({"building_cover": 25}, "trained on building cover 25 % where the tiles have 50 %"),
    ],
)
def test_a_model_that_does_not_fit_the_tiles_is_refused(
    tmp_path: Path, tiles: TileSet, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        scored(tmp_path, tiles, **fields)
    assert not (tmp_path / "evaluation").exists()


def test_a_model_of_fewer_bands_gets_its_own_in_its_order(
    tmp_path: Path, tiles: TileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    class Watching(BrightPixels):
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            given.append(images)
            return super().probabilities(images)

    use_predictor(monkeypatch, Watching)
    scored(tmp_path, tiles, bands=("B08", "B02"))
    expected = np.asarray(tiles.split("test").images)[:, :, [7, 1]]
    assert np.array_equal(np.sort(np.concatenate(given), axis=None), np.sort(expected, axis=None))
    assert all(images.shape[2] == 2 and images[:, :, 0].mean() > images[:, :, 1].mean() for images in given)


@pytest.mark.parametrize("split", ["test", "val"])
def test_tiles_with_a_nan_are_refused_by_file_and_tile(tmp_path: Path, tiles: TileSet, split: str) -> None:
    def spoil(directory: Path) -> None:
        images = np.load(directory / split / "images.npy").astype("float32")
        images[1, 0, 2, 3, 4] = np.nan
        np.save(directory / split / "images.npy", images)

    broken = rewritten(tiles, tmp_path / "broken", spoil)
    with pytest.raises(InputError, match=rf"{split}/images\.npy holds NaN or infinity in tile 1 \(block .*\); uint16"):
        scored(tmp_path, broken)
    assert not (tmp_path / "evaluation").exists()


def test_a_model_that_gives_nan_is_refused_and_nothing_is_written(
    tmp_path: Path, tiles: TileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_predictor(monkeypatch, predicting(np.nan))
    with pytest.raises(InputError, match=r"gave NaN .* train it again"):
        scored(tmp_path, tiles)
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.usefixtures("drawn")
def test_a_model_that_finds_nothing_scores_zero_with_undefined_precision(
    tmp_path: Path, tiles: TileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_predictor(monkeypatch, predicting(0.0))
    evaluation = scored(tmp_path, tiles)
    assert evaluation.metrics.building.iou.value == 0.0
    assert evaluation.metrics.building.precision.value is None
    assert "<td>–</td>" in (evaluation.path / "report.html").read_text()


def test_an_empty_or_unknown_split_says_what_to_do(tmp_path: Path, folds: TileFolds, tiles: TileSet) -> None:
    with pytest.raises(InputError, match=r"test split of .*refit holds no tile: evaluate the folds beside it"):
        scored(tmp_path, folds.refit)
    with pytest.raises(InputError, match="split 'tset' is unknown; choose from train, val, test"):
        scored(tmp_path, tiles, split="tset")


def test_an_unlabelled_split_is_said(tmp_path: Path, tiles: TileSet) -> None:
    def forget(directory: Path) -> None:
        path = directory / "test" / "masks.npy"
        np.save(path, np.full_like(np.load(path), 255))

    with pytest.raises(InputError, match="has no labelled pixel: nothing can be scored"):
        scored(tmp_path, rewritten(tiles, tmp_path / "unknown", forget))


def test_a_full_scratch_disk_is_a_fault_of_the_world(
    tmp_path: Path, tiles: TileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numpy.savez", full)
    with pytest.raises(WorldError, match=r"has no room .*No space left on device.*TMPDIR"):
        scored(tmp_path, tiles)
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.usefixtures("drawn")
def test_moved_footprints_are_scored_with_and_without_the_move(tmp_path: Path) -> None:
    tiles = make_tiles(tmp_path / "tiles", align=True)
    metrics = scored(tmp_path, tiles).metrics
    assert metrics.unaligned is not None
    split = tiles.split("test")
    predicted = BrightPixels(None).probabilities(np.asarray(split.images)) >= 0.5
    assert metrics.unaligned.iou.value == scoring.iou(scoring.confusion(predicted, split.masks_unaligned))
    assert "footprints as published" in (tmp_path / "evaluation" / "report.md").read_text()


@pytest.mark.usefixtures("drawn")
def test_the_licence_of_the_labels_reaches_report_and_map(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene")
    make_labels(tmp_path / "labels", licence="ODbL-1.0", attribution="(c) OpenStreetMap contributors")
    sizes: dict[str, Any] = {"tile_size": 32, "block_size": 380, "guard": 60, "test_fraction": 0.25}
    tiles = tile(scenes=[tmp_path / "scene"], labels=[tmp_path / "labels"], output=tmp_path / "tiles", **sizes)
    evaluation = scored(tmp_path, tiles)
    for name in ("report.html", "map.html"):
        assert "OpenStreetMap contributors (ODbL-1.0)" in (evaluation.path / name).read_text(), name


def fold_models(tmp_path: Path, folds: TileFolds) -> Path:
    for k, fold in enumerate(folds.folds):
        make_bundle(tmp_path / "models" / f"fold_{k}", fold, threshold=0.4 + 0.1 * k)
    return tmp_path / "models"


@pytest.mark.usefixtures("drawn")
def test_folds_are_pooled_with_every_block_tested_once_at_its_own_threshold(tmp_path: Path, folds: TileFolds) -> None:
    models = fold_models(tmp_path, folds)
    metrics = evaluate(model=models, tiles=folds.path, output=tmp_path / "out", resamples=200).metrics
    assert metrics.protocol == "spatial 3-fold, pooled; thresholds from each fold's own validation"
    expected: dict[str, Any] = {}
    for k, fold in enumerate(folds.folds):
        split = fold.split("test")
        predicted = BrightPixels(None).probabilities(np.asarray(split.images)) >= np.float32(0.4 + 0.1 * k)
        expected |= counts_by_block(predicted, split.masks, split.blocks)
    assert {b.block: (b.tp, b.fp, b.fn, b.tn) for b in metrics.blocks} == expected
    everywhere = set(folds.refit.info.blocks["train"]) | set(folds.refit.info.blocks["val"])
    assert set(expected) == everywhere
    assert {b.fold for b in metrics.blocks} == {0, 1, 2}
    assert [entry["threshold"] for entry in metrics.extra["folds"]] == pytest.approx([0.4, 0.5, 0.6])
    assert metrics.tiles == folds.digest
    assert "<th>fold</th>" in (tmp_path / "out" / "report.html").read_text()


def test_a_missing_fold_of_the_model_is_named(tmp_path: Path, folds: TileFolds) -> None:
    models = fold_models(tmp_path, folds)
    shutil.rmtree(models / "fold_2")
    with pytest.raises(InputError, match="fold_2 does not exist; a model directory is wanted"):
        evaluate(model=models, tiles=folds.path, output=tmp_path / "out")
    with pytest.raises(InputError, match=r"holds 3 folds, but .*fold_0 has no fold_0: fine-tune one model a fold"):
        evaluate(model=models / "fold_0", tiles=folds.path, output=tmp_path / "out")


def test_models_of_more_folds_or_of_several_experiments_are_not_pooled(tmp_path: Path, folds: TileFolds) -> None:
    models = fold_models(tmp_path, folds)
    shutil.copytree(models / "fold_0", models / "fold_3")
    with pytest.raises(InputError, match=r"models holds fold_3 too, and .* has 3 folds: these are models of"):
        evaluate(model=models, tiles=folds.path, output=tmp_path / "out")
    shutil.rmtree(models / "fold_3")
    shutil.rmtree(models / "fold_1")
    make_bundle(models / "fold_1", folds.fold(1), experiment="another", config="1" * 64)
    with pytest.raises(InputError, match=r"fold_1 \(another, seed 0\) was trained from another configuration than"):
        evaluate(model=models, tiles=folds.path, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folds_that_test_a_block_twice_are_refused(tmp_path: Path, folds: TileFolds) -> None:
    with TileFolds.write(tmp_path / "twice", parameters={}) as draft:
        for name in ("fold_0", "fold_1", "refit"):
            shutil.copytree(folds.path / ("refit" if name == "refit" else "fold_0"), draft.directory / name)
        draft.write_json("folds.json", {"folds": 2})
    models = fold_models(tmp_path, folds)
    for name in ("fold_1", "fold_2"):
        shutil.rmtree(models / name)
    make_bundle(models / "fold_1", folds.fold(0))
    with pytest.raises(InputError, match=r"is tested in fold 0 and in fold 1: these folds do not belong together"):
        evaluate(model=models, tiles=tmp_path / "twice", output=tmp_path / "out")


@pytest.mark.usefixtures("drawn")
def test_a_simulated_number_is_called_so_wherever_it_stands(tmp_path: Path, tiles: TileSet) -> None:
    simulated = scored(tmp_path, tiles, "simulated")
    for name in ("report.html", "report.md", "map.html"):
        assert "SIMULATED" in (simulated.path / name).read_text()
    real_tiles = rewritten(tiles, tmp_path / "real", edited_info(simulated=False))
    real = scored(tmp_path, real_tiles, "not-so", simulated=False)
    for name in ("report.html", "report.md", "map.html"):
        assert "SIMULATED" not in (real.path / name).read_text()


@pytest.mark.usefixtures("drawn")
def test_nothing_from_outside_becomes_html_and_nothing_is_fetched(tmp_path: Path, tiles: TileSet) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    hurt = rewritten(tiles, tmp_path / "evil-tiles", edited_info(attribution=[evil]))
    evaluation = scored(tmp_path, hurt, experiment=evil)
    for name in ("report.html", "map.html", "report.md"):
        text = (evaluation.path / name).read_text()
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert not re.search(r"""<[^<>]*\b(src|href)=(?!["']?data:)""", text), f"{name} refers to another file"
        assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|<link|<iframe", text)
    for name in ("report.html", "map.html"):
        assert "default-src 'none'" in (evaluation.path / name).read_text()


@pytest.mark.usefixtures("drawn")
def test_an_interval_over_few_blocks_is_called_so_and_settles_nothing(tmp_path: Path, tiles: TileSet) -> None:
    enough = scored(tmp_path, tiles, "enough")
    assert len(enough.metrics.blocks) >= scoring.FEWEST_BLOCKS
    assert caution(enough.metrics) == ""
    assert 'id="caution"' not in (enough.path / "report.html").read_text()
    few = scored(tmp_path, make_tiles(tmp_path / "small", grid=SMALL), "few")
    count = len(few.metrics.blocks)
    assert 1 < count < scoring.FEWEST_BLOCKS
    for name in ("report.html", "report.md"):
        assert f"The intervals are over {count} blocks only: fewer than 10 are too few" in (few.path / name).read_text()
    better = {"value": 0.9, "low": 0.8, "high": 0.95}
    for evaluation, said in ((enough, "clearly better"), (few, f"but {count} blocks are few: more test blocks")):
        building = evaluation.metrics.building.model_copy(update={"iou": Interval(**better)})
        worse = evaluation.metrics.building.model_copy(update={"iou": Interval(value=0.2, low=0.1, high=0.3)})
        won = evaluation.metrics.model_copy(update={"building": building, "baselines": {"built-up index": worse}})
        assert said in verdict(won)


@pytest.mark.usefixtures("drawn")
def test_the_markdown_reads_as_text_with_every_block_and_also_away_from_its_pictures(
    tmp_path: Path, tiles: TileSet
) -> None:
    evaluation = scored(tmp_path, tiles, experiment="a|b")
    text = (evaluation.path / "report.md").read_text()
    assert "Casbah's tests" in text
    assert "&#" not in text
    assert "| a\\|b |" in text
    table = [line for line in text.splitlines() if line.startswith("| 32631_")]
    assert sorted(line.split()[1] for line in table) == sorted(b.block for b in evaluation.metrics.blocks)
    assert all(line.count("|") == 8 for line in table)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (evaluation.path / picture).is_file()
    alone = without_pictures(text)
    assert "![" in text
    assert "![" not in alone
    assert "\n\n\n" not in alone.partition("## Blocks")[0][-200:]
    assert [line for line in text.splitlines() if line and "![" not in line] == [
        line for line in alone.splitlines() if line
    ]


@pytest.mark.usefixtures("drawn")
def test_the_report_names_what_it_rests_on(tmp_path: Path, tiles: TileSet) -> None:
    evaluation = scored(tmp_path, tiles)
    html = (evaluation.path / "report.html").read_text()
    for digest in (evaluation.metrics.model, tiles.digest, *tiles.manifest.inputs.values()):
        assert digest in html
    assert all(line in html for line in ("Simulated by Casbah&#39;s tests", "hold-out"))
    assert "S2_TEST" in html, "the STAC item of the scene"
    assert (evaluation.path / "figures" / "examples.png").stat().st_size > 1000


def test_the_items_travel_with_the_tiles_to_a_machine_that_has_no_scene(tmp_path: Path, tiles: TileSet) -> None:
    shutil.copytree(tiles.path, tmp_path / "elsewhere" / "tiles")
    alone = scored(tmp_path, TileSet.open(tmp_path / "elsewhere" / "tiles"), "alone")
    assert alone.metrics.extra["lineage"]["stac_items"] == ["S2_TEST"]


@pytest.mark.usefixtures("drawn")
def test_equal_inputs_give_an_equal_evaluation(tmp_path: Path, tiles: TileSet) -> None:
    model = make_bundle(tmp_path / "model", tiles)
    made = [evaluate(model=model.path, tiles=tiles.path, output=tmp_path / n, resamples=50) for n in ("a", "b")]
    assert made[0].digest == made[1].digest


@pytest.mark.usefixtures("drawn")
def test_bands_without_an_index_leave_the_baseline_out_and_say_so(tmp_path: Path) -> None:
    tiles = make_tiles(tmp_path / "tiles", bands=("B05", "B06"))
    evaluation = scored(tmp_path, tiles)
    assert set(evaluation.metrics.baselines) == {"all background"}
    assert "allow no built-up index" in (evaluation.path / "report.md").read_text()


def test_a_seed_that_no_generator_takes_is_refused_before_anything_is_scored(tiles: TileSet, tmp_path: Path) -> None:
    model = make_bundle(tmp_path / "model", tiles)
    with pytest.raises(InputError, match="--seed is -1; a whole number from 0"):
        evaluate(model=model.path, tiles=tiles.path, output=tmp_path / "out", seed=-1)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_table_and_ends_with_two_for_bad_input(
    tmp_path: Path, tiles: TileSet, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle(tmp_path / "model", tiles)
    command = ["evaluate", "--model", str(tmp_path / "model"), "--tiles", str(tiles.path), "--resamples", "50"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--output", str(tmp_path / "out")])
    assert ended.value.code in (0, None)
    printed = capsys.readouterr().out
    assert "all background" in printed
    assert printed.startswith("SIMULATED")
    assert str(tmp_path / "out" / "report.html") in printed
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"nine")
    with pytest.raises(SystemExit) as ended:
        main([*command, "--output", str(tmp_path / "other")])
    assert ended.value.code == 2
    assert "weights.safetensors is not the file that was written" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_model_against_itself_differs_by_exactly_nothing_where_tiles_overlap(tmp_path: Path) -> None:
    tiles = make_tiles(tmp_path / "tiles", tile_size=16, stride=8)
    model = make_bundle(tmp_path / "model", tiles)
    metrics = evaluate(model=model.path, tiles=tiles.path, output=tmp_path / "out", resamples=50).metrics
    evaluated = {b.block: (b.tp, b.fp, b.fn, b.tn) for b in metrics.blocks}
    again = on_tiles.block_counts(model, tiles, "test", evaluated)
    assert again == evaluated
    difference = scoring.paired_block_bootstrap(evaluated, again)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    some = sorted(evaluated)[:2]
    assert on_tiles.block_counts(model, tiles, "test", some) == {block: evaluated[block] for block in some}
