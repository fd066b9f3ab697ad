"""Small, seeded products for tests, written through the public writers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
from rasterio.windows import Window
from shapely.geometry import box

from casbah.bands import BAND_NAMES
from casbah.grid import Grid
from casbah.predict import maps
from casbah.predict.describe import stac_item
from casbah.products.comparison import Comparison, ComparisonFacts
from casbah.products.evaluation import Evaluation, EvaluationMetrics
from casbah.products.footprints import MEANING, FootprintInfo, FootprintSet
from casbah.products.labels import LabelInfo, LabelSet
from casbah.products.prediction import NODATA, STEPS, Prediction, PredictionInfo, Predictor
from casbah.products.scene import Period, Scene, SceneInfo

GRID = Grid("EPSG:32631", 500_000.0, 4_060_000.0, 256, 256)


def houses(grid: Grid, count: int = 300, seed: int = 0) -> geopandas.GeoDataFrame:
    """Rectangles of 20-60 m that lie inside the grid, some touching."""
    rng = np.random.default_rng(seed)
    west, south, east, north = grid.bounds
    x = rng.uniform(west + 60, east - 60, count)
    y = rng.uniform(south + 60, north - 60, count)
    size = rng.uniform(20, 60, (count, 2))
    shapes = [box(a, b, a + w, b + h) for a, b, (w, h) in zip(x, y, size, strict=True)]
    return geopandas.GeoDataFrame({"id": range(count)}, geometry=shapes, crs=grid.crs)


def cover_of(footprints: geopandas.GeoDataFrame, grid: Grid) -> np.ndarray:
    """Percent of each pixel under the union of the footprints, by 10 x 10 samples a pixel."""
    from rasterio.features import rasterize

    fine = Grid(grid.crs, grid.west, grid.north, grid.rows * 10, grid.cols * 10, grid.resolution / 10)
    burnt = rasterize(footprints.geometry, out_shape=fine.shape, transform=fine.transform, dtype="uint8")
    return burnt.reshape(grid.rows, 10, grid.cols, 10).sum(axis=(1, 3)).astype("uint8")


def make_scene(
    path: Path,
    grid: Grid = GRID,
    *,
    periods: int = 1,
    bands: Sequence[str] = BAND_NAMES,
    level: str = "L2A",
    cover: np.ndarray | None = None,
    seed: int = 0,
) -> Scene:
    """A noisy scene whose pixels brighten with building cover, so that a model can learn from it."""
    rng = np.random.default_rng(seed)
    if cover is None:
        cover = cover_of(houses(grid, seed=seed), grid)
    times = tuple(
        Period(start=f"2023-{6 + t:02d}-01", end=f"2023-{6 + t:02d}-28", dates=(f"2023-{6 + t:02d}-10",))
        for t in range(periods)
    )
    info = SceneInfo(
        level=level,
        bands=tuple(bands),
        periods=times,
        simulated=True,
        attribution="Simulated by Casbah's tests",
        sources=(
            {
                "id": "S2_TEST",
                "collection": "sentinel-2-l2a",
                "datetime": "2023-06-10T10:30:00Z",
                "baseline": "05.09",
                "offset": 1000,
                "offset_reason": "metadata and pixels agree",
            },
        ),
    )
    with Scene.write(path, parameters={"seed": seed}) as draft:
        for t in range(periods):
            level_of_band = np.linspace(600, 2400, len(bands))[:, None, None]
            image = level_of_band + cover[None].astype(float) * 12 + rng.normal(0, 120, (len(bands), *grid.shape))
            write_raster(draft.directory / f"reflectance_{t}.tif", np.clip(image, 1, 10000).astype("uint16"), grid)
            write_raster(draft.directory / f"valid_{t}.tif", np.full((1, *grid.shape), 3, "uint8"), grid)
        draft.write_json(
            "item.json",
            {
                "type": "Feature",
                "stac_version": "1.1.0",
                "id": path.name,
                "properties": {"datetime": "2023-06-10T00:00:00Z", "casbah": json.loads(info.model_dump_json())},
            },
        )
    return Scene.open(path)


def make_labels(
    path: Path, grid: Grid = GRID, *, footprints: geopandas.GeoDataFrame | None = None, seed: int = 0, **info: Any
) -> LabelSet:
    """The label set of `houses(grid, seed=seed)` (or of given footprints), everywhere labelled."""
    footprints = houses(grid, seed=seed) if footprints is None else footprints
    cover = cover_of(footprints, grid)
    with LabelSet.write(path, parameters={"seed": seed}) as draft:
        footprints.to_parquet(draft.directory / "footprints.parquet")
        write_raster(draft.directory / "coverage.tif", cover[None], grid, nodata=255)
        write_raster(draft.directory / "mask.tif", (cover >= 50).astype("uint8")[None], grid, nodata=255)
        fields: dict[str, Any] = {
            "source": "tests",
            "licence": "CC0-1.0",
            "attribution": "Casbah's tests",
            "vintage": "2023",
            "simulated": True,
            "footprints": len(footprints),
            "summary": {},
        }
        draft.write_json("labels.json", json.loads(LabelInfo(**fields | info).model_dump_json()))
    return LabelSet.open(path)


def make_prediction(
    path: Path,
    probability: np.ndarray,
    grid: Grid,
    *,
    threshold: float = 0.5,
    values: str = "uint8",
    blocks: dict[str, tuple[str, ...]] | None = None,
    unlike: np.ndarray | None = None,
    overviews: bool = False,
    **info: Any,
) -> Prediction:
    """A prediction of these probabilities, (rows, cols) with NaN where nothing was observed.

    With `overviews` probability and mask are written as `casbah predict` writes them: as COGs.
    """
    unseen = np.isnan(probability)
    stored = np.where(unseen, NODATA[values], np.rint(np.nan_to_num(probability) * STEPS[values])).astype(values)
    mask = np.where(unseen, 255, stored >= threshold * STEPS[values]).astype("uint8")
    fields: dict[str, Any] = {
        "model": Predictor(digest="d1" * 32, experiment="tests", blocks=blocks or {}),
        "scene": "S2_TEST",
        "periods": (Period(start="2023-06-01", end="2023-06-28", dates=("2023-06-10",)),),
        "level": "L2A",
        "bands": BAND_NAMES,
        "threshold": threshold,
        "building_cover": 50,
        "values": values,
        "window": 64,
        "overlap": 16,
        "attribution": ("Contains modified Copernicus Sentinel data 2023", "Buildings: Casbah's tests (CC0-1.0)"),
        "simulated": True,
    }
    with Prediction.write(path, parameters={}) as draft:
        write_raster(draft.directory / "probability.tif", stored[None], grid, nodata=NODATA[values])
        write_raster(draft.directory / "mask.tif", mask[None], grid, nodata=255)
        flags = np.zeros(grid.shape, "uint8") if unlike is None else unlike.astype("uint8")
        write_raster(draft.directory / "unlike.tif", flags[None], grid, nodata=255)
        said = PredictionInfo(**fields | info)
        if overviews:
            block = path.with_name(f"{path.name}-block.tif")
            write_raster(block, np.stack([stored, mask.astype(stored.dtype)]), grid, nodata=NODATA[values])
            parts = [(block, Window(0, 0, grid.cols, grid.rows))]
            maps.write_probability(parts, 1, grid, draft.directory / "probability.tif", values, "building", {})
            maps.write_mask(parts, 2, grid, draft.directory / "mask.tif", {})
            block.unlink()
        draft.write_json("prediction.json", said.model_dump(mode="json"))
        draft.write_json("item.json", stac_item(said, grid, ["S2_TEST_ITEM"], "0" * 64))
    return Prediction.open(path)


def write_raster(path: Path, data: np.ndarray, grid: Grid, nodata: int = 0) -> None:
    """Write (bands, rows, cols) as a tiled GeoTIFF on the grid."""
    profile = grid.profile(
        driver="GTiff",
        count=len(data),
        dtype=data.dtype.name,
        nodata=nodata,
        tiled=True,
        blockxsize=256,
        blockysize=256,
        compress="deflate",
    )
    with rasterio.open(path, "w", **profile) as target:
        target.write(data)


def make_tiles(
    path: Path,
    *,
    grid: Grid = GRID,
    periods: int = 1,
    bands: Sequence[str] = BAND_NAMES,
    level: str = "L2A",
    seed: int = 0,
    **options: Any,
) -> Any:
    """What `casbah.tile.tile` makes of `make_scene` and `make_labels` (kept beside `path`): a TileSet, or TileFolds.

    Tiles of 32 px in blocks of 380 m, a guard of 60 m, and half of the blocks in val and test, so that the small
    default grid has several blocks in each split; `options` go to `tile`. A grid of 256 px holds about 36 tiles.
    """
    from casbah.tile import tile

    scene = make_scene(path.parent / f"{path.name}-scene", grid, periods=periods, bands=bands, level=level, seed=seed)
    labels = make_labels(path.parent / f"{path.name}-labels", grid, seed=seed)
    sizes: dict[str, Any] = {
        "tile_size": 32,
        "block_size": 380,
        "guard": 60,
        "test_fraction": 0.25,
        "val_fraction": 0.25,
    }
    if options.get("folds", 1) > 1:
        del sizes["test_fraction"]
    return tile(scenes=[scene.path], labels=[labels.path], output=path, **sizes | options)


def make_map(
    path: Path,
    grid: Grid = GRID,
    *,
    probability: np.ndarray | None = None,
    experiment: str = "bright pixels",
    digest: str = "ab" * 32,
    blocks: dict[str, Sequence[str]] | None = None,
    seed: int = 0,
    **info: Any,
) -> Prediction:
    """A prediction of the given probabilities (NaN: not observed), else of the cover of `houses` with noise."""
    if probability is None:
        noise = np.random.default_rng(seed).normal(0, 0.12, grid.shape)
        probability = np.clip(cover_of(houses(grid, seed=seed), grid) / 100 * 0.8 + 0.1 + noise, 0, 1)
    seen = {split: tuple(names) for split, names in (blocks or {}).items()}
    named = {
        "model": Predictor(digest=digest, experiment=experiment, blocks=seen),
        "scene": "scene",
        "bands": ("B02", "B03", "B04", "B08"),
        "attribution": ("Simulated by Casbah's tests",),
    }
    return make_prediction(path, probability, grid, **named | info)


def make_footprints(path: Path, prediction: Prediction) -> FootprintSet:
    """The footprints of a prediction: its mask's outlines pixel by pixel, touching pixels in one polygon."""
    from rasterio.features import shapes
    from shapely.geometry import shape

    info, grid, mask = prediction.info, prediction.grid, prediction.mask()
    outlines = [shape(one) for one, value in shapes(mask, mask=mask == 1, transform=grid.transform) if value == 1]
    area = [one.area for one in outlines]
    table = geopandas.GeoDataFrame(
        {
            "id": [f"f{number:06d}" for number in range(len(outlines))],
            "probability": np.linspace(info.threshold, 1, len(outlines)).round(3),
            "area_m2": area,
            "model": info.model.name,
            "dates": "2023-06-10",
            "attribution": "; ".join(info.attribution),
            "simulated": info.simulated,
        },
        geometry=outlines,
        crs=grid.crs,
    )
    said = FootprintInfo(
        model=info.model,
        meaning=MEANING.format(cover=info.building_cover, resolution=grid.resolution, threshold=info.threshold),
        threshold=info.threshold,
        building_cover=info.building_cover,
        resolution=grid.resolution,
        minimum_area=0,
        simplified=0,
        squared=False,
        block_size=1000,
        periods=info.periods,
        polygons=len(table),
        area=sum(area),
        area_of_contours=sum(area),
        area_of_pixels=float((mask == 1).sum() * grid.resolution**2),
        attribution=info.attribution,
        simulated=info.simulated,
    )
    blocks = geopandas.GeoDataFrame({"block": []}, geometry=[], crs=grid.crs)
    with FootprintSet.write(path, parameters={}, inputs={"prediction": prediction.digest}) as draft:
        table.to_parquet(draft.directory / "footprints.parquet")
        table.to_file(draft.directory / "footprints.gpkg", driver="GPKG")
        blocks.to_parquet(draft.directory / "blocks.parquet")
        (draft.directory / "footprints.json").write_text(said.model_dump_json())
        draft.write_json("item.json", {"type": "Feature", "id": path.name})
    return FootprintSet.open(path)


def make_evaluation(path: Path, **fields: Any) -> Evaluation:
    """An evaluation of two bins and whatever fields are given."""
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    scores = dict.fromkeys(("iou", "f1", "precision", "recall"), interval)
    values: dict[str, Any] = {
        "experiment": "bright pixels",
        "split": "test",
        "protocol": "hold-out",
        "threshold": 0.5,
        "threshold_source": "validation",
        "building": scores,
        "baselines": {},
        "ece": 0.042,
        "reliability": (
            {"low": 0.0, "high": 0.5, "probability": 0.2, "observed": 0.15, "pixels": 9000},
            {"low": 0.5, "high": 1.0, "probability": 0.8, "observed": 0.7, "pixels": 700},
        ),
        "blocks": (),
        "tiles": "0" * 64,
        "model": "ab" * 32,
        "simulated": True,
        "attribution": ("Simulated by Casbah's tests",),
    }
    with Evaluation.write(path, parameters={}) as draft:
        draft.write_json("metrics.json", EvaluationMetrics(**values | fields).model_dump(mode="json"))
        for name in ("report.html", "report.md"):
            (draft.directory / name).write_text("")
    return Evaluation.open(path)


def make_comparison(
    path: Path, rows: dict[str, tuple[float, float, float]], budgets: Sequence[int | None]
) -> Comparison:
    """A comparison of experiments: name -> test IoU with the ends of its interval; a point of the curve each budget."""
    compared = [
        {
            "experiment": name, "backbone": "none", "pretrained_on": "random weights", "starts_from": "random weights",
            "parameters": 1000, "validation_iou": value, "iou": {"value": value, "low": low, "high": high},
            "f1": {"value": value}, "spread": None, "difference": {"value": None},
            "draws": [{"seed": s, "validation_iou": value, "iou": value + d, "f1": None}
                      for s, d in enumerate((-0.01, 0.01))],
            "verdict": "best" if number == 0 else "within noise",
        }
        for number, (name, (value, low, high)) in enumerate(rows.items())
    ]  # fmt: skip
    points = [
        {
            "experiment": name, "budget": budget, "tiles": float(budget or 400), "km2": (budget or 400) * 0.5,
            "draws": 2, "iou": {"value": value - 10 / (budget or 400), "low": low - 0.1, "high": high},
            "convergence": None, "convergence_unit": "epochs", "device_hours": 0.1, "device": "cpu", "peak_memory": 1,
        }
        for name, (value, low, high) in rows.items()
        for budget in budgets
    ]  # fmt: skip
    facts = ComparisonFacts(
        best=next(iter(rows), None), protocol="hold-out", tiles="0" * 64, blocks=12, headline=None, rows=compared,
        budgets=points, simulated=True, attribution=("Simulated by Casbah's tests",),
    )  # fmt: skip
    with Comparison.write(path, parameters={}) as draft:
        draft.write_json("comparison.json", facts.model_dump(mode="json"))
        for name in ("comparison.html", "comparison.md", "cells.csv"):
            (draft.directory / name).write_text("")
    return Comparison.open(path)
