"""What the simulated town promises to whoever runs the demo or tests a stage on it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import osmium
import pyarrow.parquet
import pyogrio
import pystac
import pytest
import rasterio
from builders import cover_of
from pyogrio.errors import FeatureError
from rasterio.windows import Window, from_bounds

from casbah.bands import BANDS
from casbah.errors import InputError, WorldError
from casbah.grid import Grid
from casbah.sample import COLLECTION, END, START, Character, Town, make
from casbah.sample.catalogue import ATTRIBUTION
from casbah.sample.sensor import NOISE_FLOOR, NOISE_SHARE, observe
from casbah.sample.sky import ACQUISITIONS, haze_of, sky, sun
from casbah.sample.spectra import TABLE
from casbah.sample.town import PLACE, classify, grid_of, record, survey
from casbah.sample.truth import FINE, MARGIN, Truth

SIZE = (1.32, 1.32)
CLEAR_DAY, MIXED_DAY, CLOUDY_DAY, SWATH_DAY = "20210624", "20210714", "20210823", "20210803"
CONTAMINATED = (3, 8, 9, 10)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return survey(grid_of(SIZE), 0)[0]


def items(town: Town) -> list[pystac.Item]:
    return list(pystac.Catalog.from_file(str(town.catalog)).get_items(recursive=True))


def item(town: Town, tile: str, day: str) -> pystac.Item:
    (found,) = [i for i in items(town) if f"_{tile}_{day}_" in i.id]
    return found


def pixels(item: pystac.Item, asset: str) -> np.ndarray:
    with rasterio.open(item.assets[asset].get_absolute_href()) as dataset:
        return dataset.read(1)


def test_the_catalogue_opens_with_pystac_and_describes_its_files(town: Town) -> None:
    found = items(town)
    assert len(found) == 2 * len(ACQUISITIONS)
    for one in found:
        assert one.collection_id == COLLECTION
        assert START <= one.datetime.date().isoformat() <= END
        assert set(one.assets) == {band.asset for band in BANDS} | {"scl"}
        for name, resolution in [(band.asset, band.resolution) for band in BANDS] + [("scl", 20)]:
            asset = one.assets[name]
            with rasterio.open(asset.get_absolute_href()) as dataset:
                assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert dataset.crs.to_epsg() == 32631
                assert dataset.res == (resolution, resolution)
                assert list(dataset.shape) == asset.extra_fields["proj:shape"]
                assert list(dataset.transform)[:6] == asset.extra_fields["proj:transform"]
                assert dataset.nodata == 0


def test_it_lies_in_the_bay_of_algiers(town: Town) -> None:
    for one in items(town):
        west, south, east, north = one.bbox
        assert 3.05 < west < east < 3.15
        assert 36.70 < south < north < 36.76


def test_everything_says_that_it_is_simulated(town: Town) -> None:
    catalogue = json.loads(town.catalog.read_text())
    collection = json.loads((town.path / COLLECTION / "collection.json").read_text())
    for about in (catalogue, collection):
        assert about["casbah:simulated"] is True
        assert "SIMULATED" in about["title"]
        assert "SIMULATED" in about["description"]
        assert about["attribution"] == ATTRIBUTION
    for one in items(town):
        assert one.id.startswith("SIM_")
        assert one.properties["casbah:simulated"] is True
        assert one.properties["attribution"] == ATTRIBUTION
        with rasterio.open(one.assets["red"].get_absolute_href()) as dataset:
            assert dataset.tags()["CASBAH_SIMULATED"] == "true"
    assert pyogrio.read_info(town.footprints)["layer_metadata"]["CASBAH_SIMULATED"] == "true"
    parquet = town.path / "footprints.parquet"
    assert pyarrow.parquet.read_schema(parquet).metadata[b"casbah:simulated"] == b"true"
    for table in (geopandas.read_file(town.footprints), geopandas.read_parquet(parquet)):
        assert table["simulated"].all()
        assert set(table["attribution"]) == {ATTRIBUTION}
    for area in (town.aoi, town.labelled_area):
        assert json.loads(area.read_text())["features"][0]["properties"]["casbah:simulated"] is True
    assert "SIMULATED" in osmium.io.Reader(str(town.pbf)).header().get("generator")


def test_two_makes_give_the_same_bytes(town: Town, tmp_path: Path) -> None:
    assert make(tmp_path / "again", size=SIZE, seed=0).digest == town.digest
    assert make(tmp_path / "other", size=SIZE, seed=1).digest != town.digest


def test_a_town_that_is_there_is_reused_and_a_damaged_one_is_made_again(town: Town, tmp_path: Path) -> None:
    copy = tmp_path / "town"
    shutil.copytree(town.path, copy)
    before = (copy / "catalog.json").stat().st_ino
    assert make(copy, size=SIZE, seed=0).digest == town.digest
    assert (copy / "catalog.json").stat().st_ino == before
    (copy / "catalog.json").write_text("{}")
    assert make(copy, size=SIZE, seed=0).digest == town.digest
    assert json.loads((copy / "catalog.json").read_text())["id"] == "casbah-sample"


def test_a_foreign_directory_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something else"):
        make(tmp_path, size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_size_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"500 km is out of range; 1.2 to 12 km"):
        make(tmp_path / "town", size=(500, 5))


def test_the_items_differ_by_the_offset_and_by_nothing_else(town: Town) -> None:
    plain, shifted = item(town, "31SDA", MIXED_DAY), item(town, "31SEA", MIXED_DAY)
    assert plain.properties["s2:processing_baseline"] < "04.00" <= shifted.properties["s2:processing_baseline"]
    assert shifted.properties["earthsearch:boa_offset_applied"] is False
    assert plain.assets["red"].extra_fields["raster:bands"][0]["offset"] == 0
    assert shifted.assets["red"].extra_fields["raster:bands"][0]["offset"] == -0.1
    for band in BANDS:
        without, with_offset = pixels(plain, band.asset).astype(int), pixels(shifted, band.asset).astype(int)
        overlap = with_offset[:, : without.shape[1]]
        assert (overlap - without == 1000).all()
    assert (pixels(plain, "scl") == pixels(shifted, "scl")[:, : pixels(plain, "scl").shape[1]]).all()


def test_an_offset_that_the_catalogue_took_off_is_not_in_the_pixels(town: Town) -> None:
    taken_off, still_there = item(town, "31SEA", "20210912"), item(town, "31SEA", CLEAR_DAY)
    assert taken_off.properties["earthsearch:boa_offset_applied"] is True
    assert taken_off.properties["s2:processing_baseline"] >= "04.00"
    assert np.percentile(pixels(taken_off, "swir22"), 1) < 300
    assert np.percentile(pixels(still_there, "swir22"), 1) > 1000


def test_the_swath_edge_leaves_a_date_that_only_both_tiles_cover(town: Town) -> None:
    west, east = item(town, "31SDA", SWATH_DAY), item(town, "31SEA", SWATH_DAY)
    half, whole = pixels(west, "red"), pixels(east, "red")
    assert (half > 0).all()
    assert half.shape[1] < whole.shape[1]
    assert 0.2 < (whole == 0).mean() < 0.5
    mosaic = whole.copy()
    mosaic[:, : half.shape[1]] = half
    assert (mosaic > 0).all()
    assert ((pixels(east, "scl") == 0) == (pixels(east, "rededge1") == 0)).all()
    assert east.properties["s2:nodata_pixel_percentage"] == pytest.approx(100 * (whole == 0).mean(), abs=1)


@pytest.mark.parametrize("acquisition", ACQUISITIONS, ids=lambda a: f"{a.time:%m%d}")
def test_scl_marks_whatever_clouds_and_shadows_changed(truth: Truth, acquisition) -> None:
    grid = grid_of(SIZE)
    where = sun(acquisition.time, *PLACE)
    clear = replace(acquisition, clouds=0.0, cirrus=0.0)
    overhead = sky(acquisition, grid.shape, where, 0)
    seen = record(truth, acquisition, overhead, 0)
    unclouded = record(truth, clear, sky(clear, grid.shape, where, 0), 0)
    marked = np.isin(classify(truth, acquisition, overhead), CONTAMINATED)
    assert marked.any() == (acquisition.clouds > 0)
    for name, factor in (("B02", 2), ("B04", 2), ("B08", 2), ("B11", 1)):
        changed = np.abs(seen[name] - unclouded[name]) > 1e-6
        assert not (changed & ~np.kron(marked, np.ones((factor, factor), bool))).any()
        if acquisition.clouds > 0.1:
            assert changed.mean() > 0.5 * acquisition.clouds


def test_cloud_cover_of_an_item_is_what_its_scl_says(town: Town) -> None:
    for one in items(town):
        scl = pixels(one, "scl")
        share = 100 * np.isin(scl, (8, 9, 10)).sum() / (scl > 0).sum()
        assert one.properties["eo:cloud_cover"] == pytest.approx(share, abs=0.001)
    covers = [one.properties["eo:cloud_cover"] for one in items(town)]
    assert min(covers) == 0
    assert max(covers) > 40


def test_a_pixel_is_the_area_average_of_the_truth(truth: Truth) -> None:
    fine = truth.reflectance(
        3, truth.surfaces.reflectance(ACQUISITIONS[0].time), truth.shade(ACQUISITIONS[0].time, PLACE)
    )
    margin = round(MARGIN / FINE)
    rng = np.random.default_rng(0)
    for resolution in (10, 20, 60):
        seen = observe(fine, resolution, shift=(2.5, -5.0), blur=False)
        side = round(resolution / FINE)
        for row, col in rng.integers(0, seen.shape[0], (20, 2)):
            # Moved 2.5 m east and 5 m south, the image shows what lies 1 fine pixel west and 2 north of its place.
            top, left = margin + row * side - 2, margin + col * side - 1
            assert seen[row, col] == pytest.approx(fine[top : top + side, left : left + side].mean(), rel=1e-5)


def test_point_spread_keeps_the_energy(truth: Truth) -> None:
    fine = truth.reflectance(3, truth.surfaces.reflectance(ACQUISITIONS[0].time), np.zeros(truth.rows.shape, bool))
    for resolution in (10, 20, 60):
        sharp, spread = observe(fine, resolution, blur=False), observe(fine, resolution)
        assert spread.mean() == pytest.approx(sharp.mean(), rel=0.01)
        assert spread.std() < 0.95 * sharp.std()


def test_published_numbers_are_the_truth_seen_through_the_air_with_the_stated_noise(town: Town, truth: Truth) -> None:
    acquisition = next(a for a in ACQUISITIONS if f"{a.time:%Y%m%d}" == CLEAR_DAY)
    table, shade = truth.surfaces.reflectance(acquisition.time), truth.shade(acquisition.time, PLACE)
    for position, band in enumerate(BANDS):
        fine = truth.reflectance(position, table, shade)
        clean = observe(fine, band.resolution, shift=acquisition.shift)
        clean = clean * acquisition.gain + haze_of(acquisition)[position]
        numbers = pixels(item(town, "31SEA", CLEAR_DAY), band.asset).astype(float) - 1000
        error = (numbers / 10_000 - clean) / np.hypot(NOISE_FLOOR, NOISE_SHARE * clean)
        usable = clean > 0.01  # below, the clipping at 1 shows
        assert abs(error[usable].mean()) < 0.15, band.name
        assert error[usable].std() == pytest.approx(1, abs=0.12), band.name


def test_footprints_cover_what_the_image_shows_as_roofs(town: Town, truth: Truth) -> None:
    grid = grid_of(SIZE)
    buildings = geopandas.read_file(town.footprints)
    assert buildings.geometry.is_valid.all()
    assert buildings.crs.to_epsg() == 4326
    cover = cover_of(buildings.to_crs(grid.crs), grid).astype(float)
    roofs = 100 * observe(truth.built.astype(np.float32), 10, blur=False)
    assert 8 < cover.mean() < 40
    assert abs(cover.mean() - roofs.mean()) < 0.5
    assert np.abs(cover - roofs).mean() < 4
    assert np.corrcoef(cover.ravel(), roofs.ravel())[0, 1] > 0.97


def test_footprints_carry_osm_tags_and_some_have_courtyards(town: Town) -> None:
    buildings = geopandas.read_file(town.footprints)
    assert len(buildings) > 1000
    assert {"yes", "house", "apartments"} <= set(buildings["building"])
    assert buildings["osm_id"].is_unique
    relations = buildings["osm_type"] == "relation"
    assert 0.05 < relations.mean() < 0.5
    assert (buildings.geometry.map(lambda shape: len(shape.interiors) > 0) == relations).all()
    again = geopandas.read_parquet(town.path / "footprints.parquet")
    assert again.geometry.geom_equals_exact(buildings.geometry, 1e-9).all()


def test_the_osm_extract_holds_the_same_buildings(town: Town) -> None:
    buildings = geopandas.read_file(town.footprints).set_index("osm_id")
    found = {}
    for area in osmium.FileProcessor(str(town.pbf)).with_areas():
        if area.is_area() and "building" in area.tags:
            found[area.orig_id()] = (
                area.tags["building"],
                sum(len(list(area.inner_rings(r))) for r in area.outer_rings()),
            )
    assert set(found) == set(buildings.index)
    for osm_id, row in buildings.iterrows():
        assert found[osm_id] == (row["building"], len(row.geometry.interiors))


def test_the_areas_lie_where_imagery_and_map_are_whole(town: Town) -> None:
    grid = grid_of(SIZE)
    aoi = geopandas.read_file(town.aoi).to_crs(grid.crs)
    assert Grid.covering(grid.crs, tuple(aoi.total_bounds)).rows <= grid.rows
    with rasterio.open(item(town, "31SEA", CLEAR_DAY).assets["nir"].get_absolute_href()) as dataset:
        window = from_bounds(*aoi.total_bounds, transform=dataset.transform)
        whole = Window(0, 0, dataset.width, dataset.height)
        assert window.intersection(whole) == window
    labelled = geopandas.read_file(town.labelled_area).to_crs(grid.crs).union_all()
    assert labelled.is_valid
    assert 0.6 < labelled.area / (grid.rows * grid.cols * 100) < 0.97
    buildings = geopandas.read_file(town.footprints).to_crs(grid.crs)
    assert buildings.geometry.centroid.within(labelled.buffer(400)).all()


def test_spectra_are_reflectances_and_vegetation_looks_like_vegetation() -> None:
    from casbah.sample.spectra import index

    assert TABLE.shape[1] == len(BANDS)
    assert ((TABLE > 0) & (TABLE < 1)).all()
    red, nir = 3, 7
    for name in ("grass", "tree", "crop", "orchard"):
        assert TABLE[index(name), nir] > 5 * TABLE[index(name), red]


def test_a_seed_below_zero_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed of a sample town is -1; 0 or a larger"):
        make(tmp_path / "town", size=SIZE, seed=-1)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_no_town(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FeatureError("no such table: buildings")

    monkeypatch.setattr("casbah.sample.footprints.write", full)
    with pytest.raises(WorldError, match=r"town could not be written \(no such table: buildings\): is the disk full"):
        make(tmp_path / "town", size=(1.2, 1.2))
    assert not list(tmp_path.iterdir())


def test_a_town_of_another_character_lies_elsewhere_and_looks_another_way(town: Town, tmp_path: Path) -> None:
    other = make(tmp_path / "hazy", size=SIZE, character=Character(south=6, gain=0.8, haze=0.05, roofs=0.6))
    here, there = (geopandas.read_file(one.labelled_area).to_crs("EPSG:32631").total_bounds for one in (town, other))
    assert np.allclose(here - there, (0, 6000, 0, 6000), atol=1)
    bands = {}
    for name, one in (("plain", town), ("hazy", other)):
        numbers = pixels(item(one, "31SEA", CLEAR_DAY), "blue").astype(float)
        with rasterio.open(item(one, "31SEA", CLEAR_DAY).assets["blue"].get_absolute_href()) as dataset:
            grid = Grid.of(dataset)
        cover = cover_of(geopandas.read_file(one.footprints).to_crs(grid.crs), grid)
        bands[name] = {"ground": numbers[cover == 0].mean(), "roofs": numbers[cover > 80].mean()}
    assert bands["hazy"]["ground"] > bands["plain"]["ground"]
    assert bands["hazy"]["roofs"] < bands["plain"]["roofs"]
    seen = Character(gain=0.8, haze=0.05).seen(ACQUISITIONS[0])
    assert seen.gain == pytest.approx(0.8 * ACQUISITIONS[0].gain)
    assert seen.haze == pytest.approx(0.05 + ACQUISITIONS[0].haze)


@pytest.mark.parametrize("character", [{"south": 90}, {"gain": 0}, {"haze": 1}, {"roofs": float("nan")}])
def test_a_character_out_of_range_is_refused_and_nothing_is_written(
    character: dict[str, float], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(character))} of a sample town is .* is wanted"):
        make(tmp_path / "town", size=SIZE, character=Character(**character))
    assert not (tmp_path / "town").exists()
