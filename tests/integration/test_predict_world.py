"""Maps by real models, of rasters that lie elsewhere, and by models of a registry."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from builders import make_scene, make_tiles
from catalogues import Site, serve
from predictors import Lopsided, bundle, pixels, training, use, write_raster
from scored_models import predicting, submit, use_predictor

from casbah import models, stack
from casbah.cli import main
from casbah.errors import InputError, WorldError
from casbah.finetune import finetune
from casbah.grid import Grid
from casbah.models import torchvision_cure
from casbah.patience import Patience
from casbah.predict import blended, predict
from casbah.predict.imagery import open_imagery
from casbah.predict.passes import made_ready
from casbah.products.model import ModelBundle
from casbah.products.prediction import Prediction
from casbah.products.tiles import TileSet
from casbah.storage import Location, Store

torchvision_cure.apply()  # before the first import of lightning, which imports torchvision

pytestmark = pytest.mark.integration

QUICK = Patience(connect=2, read=5, attempts=2, pause=0.01)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    made: TileSet = make_tiles(tmp_path_factory.mktemp("tiles") / "tiles")
    return made


@pytest.fixture(scope="module")
def trained(tiles: TileSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelBundle]:
    """A small network, a forest with a first stage's context, and a blend of both."""
    place = tmp_path_factory.mktemp("models")
    unet = finetune(
        config="unet_scratch_small", tiles=tiles.path, output=place / "unet", overrides=["trainer.max_epochs=12"]
    )
    trees = finetune(config="boosted_pixels", tiles=tiles.path, output=place / "trees")
    return {"unet": unet, "trees": trees}


@pytest.mark.parametrize("name", ["unet", "trees"])
def test_the_map_of_a_real_model_is_what_it_says_of_overlapping_windows(
    name: str, trained: dict[str, ModelBundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casbah.predict.plan.PANEL", 300)
    monkeypatch.setattr("casbah.predict.plan.BLOCK", 200)
    scene = make_scene(tmp_path / "scene", Grid("EPSG:32631", 500_000.0, 4_060_000.0, 330, 480), seed=3)
    made = predict(trained[name].path, scene.path, tmp_path / "map", values="uint16")
    predictor = models.load(trained[name])
    index = models.band_index(predictor.training, scene.bands)
    images = np.ascontiguousarray(scene.reflectance()[None][:, :, index])
    # What evaluates computes every step of a network, what maps makes some of them one: in float32 both are the same.
    for one in (predictor, *getattr(predictor, "members", ())):
        one.mixed_precision = False
    np.testing.assert_allclose(made.probability(), blended(predictor, images)[0], atol=1e-2)
    predictor = models.load(trained[name])
    made_ready(predictor, "auto")
    np.testing.assert_allclose(made.probability(), blended(predictor, images)[0], atol=1e-4)
    if name == "trees":
        np.testing.assert_allclose(made.probability(), predictor.probabilities(images)[0], atol=1e-4)
    assert made.info.threshold == trained[name].training.threshold
    assert made.info.unlike["share"] < 0.2
    assert 0 < (made.mask() == 1).mean() < 1


def test_the_spread_of_a_networks_flips_is_over_its_own_eight_opinions(
    trained: dict[str, ModelBundle], tmp_path: Path
) -> None:
    """`flips_at_test` of the experiment already averages: the map stays what it was, and its spread is not zero."""
    scene = make_scene(tmp_path / "scene", Grid("EPSG:32631", 500_000.0, 4_060_000.0, 64, 96), seed=3)
    plain = predict(trained["unet"].path, scene.path, tmp_path / "plain", values="uint16")
    spread = predict(trained["unet"].path, scene.path, tmp_path / "spread", values="uint16", uncertainty=True)
    assert plain.info.flips
    assert spread.info.flips
    assert abs(plain.probability() - spread.probability()).max() < 1e-2
    with pytest.raises(InputError, match="holds something else"):
        predict(trained["unet"].path, scene.path, scene.path)
    import rasterio

    with rasterio.open(spread.path / "uncertainty.tif") as dataset:
        assert 0 < dataset.read(1).mean() < 5000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    with serve(tmp_path / "site") as site:
        yield site


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (503, r"town.tif could not be read after 2 attempts: its server answers 503; .*parts are kept"),
        (403, r"town.tif could not be read: its server refused it \(403\); check the credentials, .*parts are kept"),
    ],
)
def test_a_raster_at_an_address_is_read_in_place_and_a_server_that_fails_midway_loses_nothing(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    sentence: str,
) -> None:
    # As in many an image for servers of tiles: with several threads GDAL hands out what it could not read.
    monkeypatch.setenv("GDAL_NUM_THREADS", "2")
    monkeypatch.setattr("casbah.predict.plan.PANEL", 300)
    monkeypatch.setattr("casbah.predict.plan.BLOCK", 200)
    use(monkeypatch, Lopsided)
    raster = write_raster(tmp_path / "site" / "town.tif", pixels(1800, 1800))
    model = bundle(tmp_path / "model").path
    here = predict(model, raster, tmp_path / "here", values="uint16")
    url = f"{site.url}/town.tif?signature=secret"

    class Breaking(Lopsided):
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            found = super().probabilities(images)
            if self.windows > 7:
                site.faults["town.tif"] = status
            return found

    use(monkeypatch, Breaking)
    with pytest.raises(WorldError, match=sentence) as error:
        predict(model, url, tmp_path / "map", values="uint16", patience=QUICK)
    assert "secret" not in str(error.value)
    assert not (tmp_path / "map").exists()
    assert 2 <= site.asked["town.tif"] < 20, "attempts are bounded"
    kept = len(list(tmp_path.glob(".map.predict-*/block_*.tif")))
    assert kept >= 1
    site.faults.clear()
    use(monkeypatch, Lopsided)
    made = predict(model, url, tmp_path / "map", values="uint16", patience=QUICK)
    assert f"{kept} of 25 blocks are there from an earlier run" in capsys.readouterr().err
    np.testing.assert_array_equal(made.probability(), here.probability())
    assert "secret" not in (made.path / "manifest.json").read_text() + (made.path / "item.json").read_text()


@pytest.mark.parametrize("what", ["a page", "degrees", "turned"])
def test_what_is_no_raster_of_a_grid_at_an_address_is_bad_input_and_no_secret_is_told(
    site: Site, tmp_path: Path, what: str
) -> None:
    place = tmp_path / "site" / f"{what.replace(' ', '_')}.tif"
    if what == "a page":
        place.write_text("<html>Please log in</html>")
    else:
        turned = {"transform": Affine.translation(500_000, 4_060_000) @ Affine.rotation(10) @ Affine.scale(10, -10)}
        write_raster(place, pixels(64, 64), **({"crs": "EPSG:4326"} if what == "degrees" else turned))
    wanted = {"a page": "it is no raster", "degrees": "its CRS is EPSG:4326; a projected one", "turned": "north-up"}
    with pytest.raises(InputError, match=wanted[what]) as error:
        open_imagery(f"http://user:secret@{site.url[7:]}/{place.name}?signature=secret", training(), QUICK)
    assert "secret" not in str(error.value)


@pytest.fixture
def _nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """GDAL remembers what it read of an address for as long as the process lives."""
    monkeypatch.setenv("CPL_VSIL_CURL_NON_CACHED", "/vsicurl/http://127.0.0.1")


def test_what_is_gone_on_from_is_told_by_the_whole_address_and_by_what_its_server_says(
    site: Site, tmp_path: Path
) -> None:
    write_raster(tmp_path / "site" / "town.tif", pixels(200, 200))

    def identity(query: str, **headers: str) -> str:
        site.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        found = open_imagery(f"{site.url}/town.tif?{query}", training(), QUICK)
        assert found.resumable
        return found.identity

    for headers in ({}, {"ETag": "one"}, {"Last_Modified": "Sat, 10 Jun 2023 10:30:00 GMT"}):
        assert identity("tile=1", **headers) == identity("tile=1", **headers)
        assert identity("tile=1", **headers) != identity("tile=2", **headers), "the query may choose the content"
        assert "tile" not in identity("tile=1", **headers), "and may be a secret"
    assert identity("tile=1", ETag="one") != identity("tile=1", ETag="two")
    name, password = (
        open_imagery(f"http://{who}@{site.url[7:]}/town.tif", training(), QUICK) for who in ("a:b", "a:c")
    )
    assert name.identity == password.identity, "a password is in no digest that it could be guessed from"


@pytest.mark.usefixtures("_nothing_cached")
@pytest.mark.parametrize("form", ["{}", "/vsicurl/{}"])
@pytest.mark.parametrize(("compress", "place"), [("none", 600), ("deflate", 300)])
def test_other_content_at_the_same_address_is_seen_where_its_server_says_nothing(
    form: str, compress: str, place: int, site: Site, tmp_path: Path
) -> None:
    """In a place that is looked at (600), or, since tiles are compressed, in any."""
    data = pixels(1800, 1800)
    address = form.format(f"{site.url}/town.tif")
    write_raster(tmp_path / "site" / "town.tif", data, compress=compress)
    first, again = (open_imagery(address, training(), QUICK) for _ in range(2))
    assert first == again
    assert first.datetime is None
    data[:, place : place + 20, place : place + 20] += 1
    write_raster(tmp_path / "site" / "town.tif", data, compress=compress)
    assert open_imagery(address, training(), QUICK).identity != first.identity


@pytest.mark.usefixtures("_nothing_cached")
def test_what_can_not_be_told_from_other_content_is_begun_anew(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("casbah.predict.plan.PANEL", 300)
    monkeypatch.setattr("casbah.predict.plan.BLOCK", 200)
    data = np.zeros((4, 1800, 1800), np.uint16)
    data[:, 200:500, 200:500] = pixels(300, 300)  # none of it where a raster is looked at
    write_raster(tmp_path / "site" / "town.tif", data)
    model = bundle(tmp_path / "model").path

    class Broken(Lopsided):
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            if self.windows > 3:
                raise KeyboardInterrupt
            return super().probabilities(images)

    use(monkeypatch, Broken)
    with pytest.raises(KeyboardInterrupt):
        predict(model, f"{site.url}/town.tif", tmp_path / "map", patience=QUICK)
    assert "a run that breaks off begins anew" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob(".map.*")), "nothing that nobody goes on from stays"
    use(monkeypatch, Lopsided)
    made = [predict(model, f"{site.url}/town.tif", tmp_path / name, patience=QUICK) for name in ("map", "again")]
    assert made[0].digest == made[1].digest


def test_the_item_of_a_raster_says_when_its_server_says_it_was_changed_or_that_nobody_knows(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    write_raster(tmp_path / "site" / "town.tif", pixels(100, 100))
    model = bundle(tmp_path / "model").path
    found = []
    for name, headers in (
        ("said", {"Last-Modified": "Sat, 10 Jun 2023 10:30:00 GMT"}),
        ("no_date", {"Last-Modified": "last summer"}),
        ("silent", {}),
    ):
        site.headers = headers
        properties = predict(model, f"{site.url}/town.tif", tmp_path / name, patience=QUICK).item["properties"]
        found.append((properties["datetime"], properties["casbah:datetime_of"].split()[0]))
    nobody = ("1970-01-01T00:00:00Z", "nothing:")
    assert found == [("2023-06-10T10:30:00+00:00", "last"), nobody, nobody]


def test_an_address_that_is_not_there_or_refuses_is_one_sentence(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    model = bundle(tmp_path / "model").path
    with pytest.raises(InputError, match=r"absent\.tif does not exist"):
        predict(model, f"{site.url}/absent.tif", tmp_path / "map", patience=QUICK)
    write_raster(tmp_path / "site" / "shut.tif", pixels(64, 64))
    site.faults["shut.tif"] = 403
    with pytest.raises(WorldError, match=r"its server refused it \(403\); check the credentials"):
        predict(model, f"{site.url}/shut.tif", tmp_path / "map", patience=QUICK)
    with pytest.raises(WorldError, match=r"could not be reached \(connection refused, 2 attempts\)"):
        predict(model, "http://127.0.0.1:9/a.tif", tmp_path / "map", patience=QUICK)
    assert not (tmp_path / "map").exists()


def test_a_raster_in_the_object_store_is_mapped_with_the_stores_own_credentials(
    served: stack.Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    raster, model = write_raster(tmp_path / "town.tif", pixels(300, 300)), bundle(tmp_path / "model").path
    store, place = Store.from_environment(), Location("casbah", "inputs/town.tif")
    store.ensure_bucket()
    store.put(raster, place)
    made = predict(model, str(place), tmp_path / "map", patience=QUICK)
    np.testing.assert_array_equal(made.probability(), predict(model, raster, tmp_path / "here").probability())
    with pytest.raises(InputError, match=r"s3://casbah/inputs/absent.tif does not exist in the object store"):
        predict(model, "s3://casbah/inputs/absent.tif", tmp_path / "other", patience=QUICK)


def test_the_champion_of_a_registry_maps_a_scene_and_its_version_is_named(
    served: stack.Stack,
    tiles: TileSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_predictor(monkeypatch, predicting(0.75))
    model, _, _ = submit(tmp_path, tiles, "good", "mapped")
    scene = make_scene(tmp_path / "scene", Grid("EPSG:32631", 500_000.0, 4_060_000.0, 64, 64))
    words = ["predict", "--scene", str(scene.path), "--output", str(tmp_path / "map")]
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--model", "models:/mapped@champion"])
    made = Prediction.open(tmp_path / "map")
    assert made.info.model.registered == "mapped version 1"
    assert made.info.model.digest == model.digest
    assert "mapped version 1 on scene: 100.00 % of 0.00 million" in capsys.readouterr().out
    assert predict("models:/mapped/1", scene.path, tmp_path / "again").digest == made.digest
    for address, sentence in (
        ("models:/mapped@challenger", "mapped has no version with the alias challenger"),
        ("models:/mapped/7", "mapped has no version 7"),
        ("models:/nobody@champion", "nobody has no version with the alias champion"),
    ):
        with pytest.raises(InputError, match=sentence):
            predict(address, scene.path, tmp_path / "other")


def test_no_code_that_lies_in_the_registry_is_run(
    served: stack.Stack, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    use_predictor(monkeypatch, predicting(0.75))
    download = mlflow.artifacts.download_artifacts

    def poisoned(*given: Any, **named: Any) -> str:
        root = Path(download(*given, **named))
        for file in root.rglob("*.py"):
            file.write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nraise SystemExit(1)\n")
        return str(root)

    submit(tmp_path, tiles, "good", "poisoned")
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", poisoned)
    scene = make_scene(tmp_path / "scene", Grid("EPSG:32631", 500_000.0, 4_060_000.0, 64, 64))
    made = predict("models:/poisoned/1", scene.path, tmp_path / "map")
    assert made.info.model.registered == "poisoned version 1"
    assert not (tmp_path / "run").exists()
    shutil.rmtree(made.path)
