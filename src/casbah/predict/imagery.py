"""What a model is shown: a scene or a single raster, checked at the door, then read part by part.

A remote raster is read in place (GDAL's /vsis3 and /vsicurl), each part once: memory and disk stay as they are whatever
its size, a map can begin at once, and what was read before a fault is kept as finished blocks.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
import rasterio.warp
import requests
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from casbah.addresses import authorization, shown
from casbah.bands import BOA_OFFSET, NODATA
from casbah.darkness import CHECKED_BANDS, dark_percentiles, read_pixels
from casbah.errors import CasbahError, InputError, WorldError
from casbah.grid import Grid, utm_crs
from casbah.models import band_index
from casbah.models.reflectance import BRIGHTEST, EIGHT_BITS, too_dim, water_bands
from casbah.patience import REFUSED, REMOTE, Patience, Result, complaint, gdal_status, why
from casbah.products.manifest import sha256_of
from casbah.products.model import Training
from casbah.products.scene import Period, Scene
from casbah.progress import say
from casbah.raster_tags import band_name, lower_case, told_level, told_simulated, whole_periods
from casbah.storage import Location, Store

STRETCHED = 0.02
"""By how much a CRS may stretch lengths; UTM does by 0.001, a national grid by less than 0.01, and web maps by half."""

CACHE_BYTES = 256 * 2**20
"""GDAL's cache of decoded tiles: what two rows of windows share of them stays in it."""

SAMPLES, SAMPLE_SIDE = 4, 96
"""A raster is looked at in so many places across and down, of so many pixels each, before a model is shown it."""

NO_RASTER = "not recognized as being in a supported file format"
"""What GDAL says of a file that is something else, such as the page of a portal."""

APPLIED = "boa_offset_applied"
"""Tag of a raster whose pixels are said to be free of the offset, though they do not look it."""


@dataclass(frozen=True)
class Imagery:
    """A scene or a raster that fits a model.

    `files` are what GDAL opens, per period, with the numbers of the model's bands in each; `identity` tells this
    content from any other, and is nothing to go on from where that can't be told (not `resumable`); `digest` is a
    scene's own, or that of a raster's identity. `datetime` is when
    a raster without dates was last changed (ISO), None where nobody says.
    """

    name: str
    place: str
    identity: str
    digest: str
    level: str
    periods: tuple[Period, ...]
    grid: Grid
    attribution: tuple[str, ...]
    simulated: bool
    sources: tuple[dict[str, Any], ...]
    files: tuple[tuple[str, tuple[int, ...]], ...]
    datetime: str | None = None
    resumable: bool = True

    @property
    def remote(self) -> bool:
        return self.place.startswith(REMOTE)


def open_imagery(given: str | Path, training: Training, patience: Patience) -> Imagery:
    """Look at a scene's directory or at a raster (a path, an s3:// or http(s):// address).

    `InputError` where the model was not trained on the like of it, `WorldError` where it can't be reached.
    """
    check_model(training)
    text = str(given)
    if not text.startswith(REMOTE) and Path(text).is_dir():
        return _of_scene(Scene.open(text), training)
    return _of_raster(text, training, patience)


def check_model(training: Training) -> None:
    """`InputError` for a model that no imagery as it is can be shown to."""
    if training.normalise != "none":
        raise InputError(
            f"{training.experiment} was trained on tiles of `--normalise {training.normalise}`, which brings whole "
            "scenes to one mean and deviation, and a map is made of reflectance as it is: train it on tiles without it"
        )


def _of_scene(scene: Scene, training: Training) -> Imagery:
    index = band_index(training, scene.bands)
    _check_fit(str(scene.path), training, scene.info.level, scene.periods, scene.grid.resolution)
    for period in range(scene.periods):
        with rasterio.open(scene.reflectance_path(period)) as dataset:
            _check_type(dataset)
            if Grid.of(dataset) != scene.grid:
                raise InputError(f"{dataset.name} lies on another grid than the scene's first period: ingest it again")
    return Imagery(
        name=str(scene.item.get("id", scene.path.name)),
        place=str(scene.path),
        identity=scene.digest,
        digest=scene.digest,
        level=scene.info.level,
        periods=scene.info.periods,
        grid=scene.grid,
        attribution=(scene.info.attribution,),
        simulated=scene.info.simulated,
        sources=scene.info.sources,
        files=tuple((str(scene.reflectance_path(t)), tuple(i + 1 for i in index)) for t in range(scene.periods)),
    )


def _check_fit(what: str, training: Training, level: str, periods: int, resolution: float) -> None:
    facts = (
        ("level", training.level, level),
        ("number of periods", training.periods, periods),
    )
    for fact, wanted, found in facts:
        if wanted != found:
            raise InputError(
                f"{what} does not fit {training.experiment}: its {fact} is {found} and the model was trained on "
                f"{wanted}; ingest such imagery, or take a model of it"
            )
    if not math.isclose(training.resolution, resolution, rel_tol=1e-6):
        raise InputError(
            f"{what} has pixels of {resolution:g} m and {training.experiment} was trained on {training.resolution:g} "
            "m: resample it, or take a model of its resolution"
        )


def _check_type(dataset: Any) -> None:
    kinds = sorted(set(dataset.dtypes))
    if kinds != ["uint16"]:
        hint = "multiply reflectance of 0 to 1 by 10000 and write it as uint16, 0 for nodata"
        raise InputError(
            f"{shown(dataset.name)} holds {', '.join(kinds)}; uint16 reflectance x 10000 is wanted: {hint}"
        )


def _of_raster(text: str, training: Training, patience: Patience) -> Imagery:
    remote = text.startswith(REMOTE)
    if not remote and not Path(text).is_file():
        raise InputError(f"{text} does not exist; a scene's directory, a raster or an address of one is wanted")
    if not remote and Path(f"{text}.msk").exists():
        raise InputError(
            f"{text} has a mask beside it ({Path(text).name}.msk), and files beside a raster are not read: put the "
            "mask into the file (GDAL_TIFF_INTERNAL_MASK=YES), or 0 into the pixels that it hides"
        )
    content = _content(text, patience)
    path = opened_by_gdal(text)
    with faults_named(text, patience, opening=True), rasterio.Env(**_options(patience)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # it is refused below, in a sentence
            dataset = _patiently(text, lambda: rasterio.open(path, sharing=False), patience)
        with dataset:
            if dataset.transform.is_identity:
                raise InputError(f"{shown(text)} has no georeference, so its map could not be placed: give it one")
            grid = Grid.of(dataset)
            _check_metres(dataset.crs, grid, shown(text))
            bands = _bands(dataset, shown(text), training)
            tags = lower_case(dataset.tags())
            level = _level(tags, shown(text), training)
            _check_fit(shown(text), training, level, training.periods, grid.resolution)
            _check_type(dataset)
            _check_scale(dataset, shown(text))
            names, checked = _checked(bands, training)
            sample = _patiently(text, lambda: _sample(dataset, checked), patience)
            _check_values(sample, names, shown(text), tags)
            # Of a raster that is empty where it was looked at, the sample tells nothing.
            resumable = content.certain or bool((sample != NODATA).any())
            identity = content.identity if content.certain else f"{content.identity} {_fingerprint(dataset, sample)}"
    if not resumable:
        say(
            f"{shown(text)} is empty where it was looked at and its server says neither ETag nor Last-Modified, so "
            "that a change of it would not be seen: a run that breaks off begins anew"
        )
    attribution = tags.get("attribution")
    return Imagery(
        name=Path(shown(text)).name,
        place=text,
        identity=identity,
        digest=identity if content.sha256 else hashlib.sha256(identity.encode()).hexdigest(),
        level=level,
        periods=(),
        grid=grid,
        attribution=(attribution,) if attribution else (),
        simulated=told_simulated(tags),
        sources=(),
        files=tuple((path, numbers) for numbers in bands),
        datetime=content.changed,
        resumable=resumable,
    )


def opened_by_gdal(text: str) -> str:
    """The name that GDAL opens; /vsis3/ rather than s3://, for which rasterio would want boto3."""
    return text.replace("s3://", "/vsis3/", 1) if text.startswith("s3://") else text


def _options(patience: Patience) -> dict[str, Any]:
    return patience.gdal() | {"GDAL_CACHEMAX": CACHE_BYTES}


@dataclass(frozen=True)
class Content:
    """What is said of a raster's content without a look into it: an `identity`, which is `certain` where it changes
    with the content, and when that was last `changed` (ISO, None where nobody says)."""

    identity: str
    certain: bool
    changed: str | None = None
    sha256: bool = False
    """Whether the identity is the file's own."""


def _content(text: str, patience: Patience) -> Content:
    if text.startswith("s3://") and Store.configured():
        found = Store.from_environment().version(Location.parse(text))
        identity = f"{_of_whole_address(text)} etag {found['etag']} of {found['size']} bytes"
        return Content(identity, True, found["modified"] or None)
    if text.startswith(("http://", "https://")):
        return _content_of_address(text, patience)
    if text.startswith(REMOTE):
        return Content(_of_whole_address(text), False)
    changed = datetime.fromtimestamp(Path(text).stat().st_mtime, UTC).isoformat(timespec="seconds")
    return Content(sha256_of(Path(text)), True, changed, sha256=True)


def _of_whole_address(text: str) -> str:
    """The digest of an address with its query, which may choose the content, and may hold a secret.

    A password is left out: it chooses no content, and one that is short could be guessed from a digest.
    """
    parts = urlsplit(text)
    user, separator, host = parts.netloc.rpartition("@")
    whole = parts._replace(netloc=f"{user.partition(':')[0]}{separator}{host}").geturl()
    return f"address {hashlib.sha256(whole.encode()).hexdigest()}"


def _fingerprint(dataset: Any, sample: NDArray[np.uint16]) -> str:
    """The digest of a raster's header and of the pixels that were looked at.

    A TIFF's header holds the size of every tile: where they are compressed, hardly any change leaves all as they were.
    """
    rows, cols = (-(-side // step) for side, step in zip(dataset.shape, dataset.block_shapes[0], strict=True))
    # Tiles of pixels hold all bands, tiles of bands one.
    bands = [1] if str(dataset.interleaving).lower().endswith("pixel") else dataset.indexes
    header = [
        dataset.driver,
        dataset.shape,
        dataset.dtypes,
        tuple(dataset.transform),
        dataset.crs.to_wkt(),
        dataset.descriptions,
        str(dataset.nodatavals),
        sorted(dataset.tags().items()),
    ]
    digest = hashlib.sha256(repr(header).encode())
    if dataset.driver == "GTiff":
        for band_number in bands:
            for row in range(rows):
                sizes = [dataset.get_tag_item(f"BLOCK_SIZE_{c}_{row}", "TIFF", bidx=band_number) for c in range(cols)]
                digest.update(repr(sizes).encode())
    digest.update(sample.tobytes())
    return f"fingerprint {digest.hexdigest()}"


def _content_of_address(text: str, patience: Patience) -> Content:
    try:
        with patience.session() as session:
            answer = session.head(
                text,
                headers=authorization(text),
                timeout=(patience.connect, patience.read),
                allow_redirects=True,
            )
    except requests.RequestException as error:
        raise WorldError(
            f"{shown(text)} could not be reached ({why(error)}, {patience.attempts} attempts): run the same command "
            "again, finished parts are kept"
        ) from None
    if answer.status_code == requests.codes.not_found:
        raise InputError(f"{shown(text)} does not exist (its server answered 404): check the address")
    # A server that takes no HEAD says nothing here; whether the file can be read, GDAL finds out.
    names = ("ETag", "Last-Modified", "Content-Length")
    said = {name: answer.headers[name] for name in names if answer.ok and name in answer.headers}
    changed = None
    with suppress(KeyError, ValueError):  # nothing was said, or no date
        changed = parsedate_to_datetime(said["Last-Modified"]).replace(tzinfo=UTC).isoformat(timespec="seconds")
    identity = " ".join([_of_whole_address(text), *(f"{name} {value}" for name, value in said.items())])
    return Content(identity, "ETag" in said or "Last-Modified" in said, changed)


def _bands(dataset: Any, where: str, training: Training) -> tuple[tuple[int, ...], ...]:
    """Per period, the numbers of the model's bands in a raster whose descriptions name them."""
    named = list(dataset.descriptions)
    wanted = ", ".join(training.bands)
    if not all(named):
        raise InputError(
            f"{where} does not say which bands it holds: describe each of its {len(named)} bands by ESA's name "
            f"({wanted} are wanted, period after period)"
        )
    whole = whole_periods([band_name(text) for text in named])
    if whole is None:
        raise InputError(
            f"{where} holds the bands {', '.join(named)}, which are no whole periods one after the other: the same "
            "bands in the same order are wanted for each"
        )
    own, periods = whole
    lacking = [name for name in training.bands if name not in own]
    if lacking:
        raise InputError(
            f"{where} lacks {', '.join(lacking)}, and {training.experiment} takes {wanted} (it holds "
            f"{', '.join(named)})"
        )
    if periods != training.periods:
        raise InputError(
            f"{where} holds {periods} period(s) of {', '.join(own)} and {training.experiment} takes "
            f"{training.periods}: stack as many, or take a model of {periods}"
        )
    return tuple(tuple(t * len(own) + own.index(name) + 1 for name in training.bands) for t in range(periods))


def _level(tags: dict[str, str], where: str, training: Training) -> str:
    if (told := told_level(tags)) is not None:
        return told
    say(f"{where} does not say its level (a tag LEVEL would); it is taken for {training.level}, as the model wants it")
    return training.level


def _check_metres(crs: Any, grid: Grid, where: str) -> None:
    """`InputError` unless a metre of the CRS is a metre on the ground: pixels would have another size than they say."""
    unit, metres = crs.linear_units_factor
    if not math.isclose(metres, 1.0, rel_tol=1e-6):
        raise InputError(f"{where} is in {grid.crs}, which counts in {unit}; a CRS in metres is wanted, such as UTM")
    larger = _stretch(crs, grid)
    if larger is None:
        raise InputError(
            f"{where} lies where {grid.crs} has no ground (its first pixel at {grid.west:g}, {grid.north:g} m): give "
            "it the georeference that it was made with"
        )
    if not abs(larger - 1) <= STRETCHED:
        raise InputError(
            f"{where} is in {grid.crs}, where {grid.resolution:g} m are {grid.resolution / larger:.3g} m on this "
            "ground; a CRS that keeps lengths is wanted, such as UTM"
        )


def _stretch(crs: Any, grid: Grid) -> float | None:
    """Metres of a CRS in a metre of UTM, which keeps lengths, amid a grid: the root of the ratio of areas. None where
    the CRS is not made for that place: its metres lead to no degrees that lead back to them."""
    west, south, east, north = grid.bounds
    x, y, step = (west + east) / 2, (south + north) / 2, 100.0
    corners = [x, x + step, x], [y, y, y + step]
    if not np.isfinite(corners).all():
        return None
    try:
        lonlat = rasterio.warp.transform(crs, "EPSG:4326", *corners)
        back = rasterio.warp.transform("EPSG:4326", crs, *lonlat)
        if not np.isfinite(lonlat).all() or not np.allclose(back, corners, rtol=0, atol=step):
            return None
        (x0, x1, x2), (y0, y1, y2) = rasterio.warp.transform(crs, utm_crs(lonlat[0][0], lonlat[1][0]), *corners)
    except CPLE_BaseError:
        return None
    return step / math.sqrt(abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)))


def _check_scale(dataset: Any, where: str) -> None:
    offsets = {round(value, 6) for value in dataset.offsets} - {0.0}
    if offsets:
        raise InputError(
            f"{where} says that {', '.join(f'{value:g}' for value in sorted(offsets))} must be added to its values "
            "(the offset of its bands); take it off the pixels, so that they are reflectance x 10000"
        )
    scales = {round(value, 8) for value in dataset.scales} - {1.0, 0.0001}
    if scales:
        raise InputError(
            f"{where} is scaled by {', '.join(f'{value:g}' for value in sorted(scales))}; reflectance x 10000 (a scale "
            "of 0.0001) is wanted"
        )


def _sample(dataset: Any, bands: Sequence[Sequence[int]]) -> NDArray[np.uint16]:
    """Values (periods, bands, pixels) of places spread over a raster, nodata as 0."""
    parts = []
    for row in _spread(dataset.height):
        for col in _spread(dataset.width):
            window = Window(col, row, min(SAMPLE_SIDE, dataset.width), min(SAMPLE_SIDE, dataset.height))
            parts.append(_read(dataset, bands, window).reshape(len(bands), len(bands[0]), -1))
    return np.concatenate(parts, axis=2)


def _checked(bands: Sequence[Sequence[int]], training: Training) -> tuple[tuple[str, ...], list[list[int]]]:
    """Names and numbers of the bands that tell of an offset or a scale: all where the model takes none of the first."""
    some = any(name in CHECKED_BANDS for name in training.bands)
    telling = {*CHECKED_BANDS, *(water_bands(training.bands) or ())} if some else training.bands
    chosen = [i for i, name in enumerate(training.bands) if name in telling]
    return tuple(training.bands[i] for i in chosen), [[period[i] for i in chosen] for period in bands]


def _spread(length: int) -> list[int]:
    return sorted({int(start) for start in np.linspace(0, max(length - SAMPLE_SIDE, 0), SAMPLES)})


def _read(dataset: Any, bands: Sequence[Sequence[int]], window: Window) -> NDArray[np.uint16]:
    """(periods, bands, rows, cols) of one file, its own nodata and what its mask (or an alpha band) hides as 0."""
    numbers = [number for period in bands for number in period]
    values = dataset.read(numbers, window=window)
    for place, number in enumerate(numbers):
        if dataset.nodatavals[number - 1] not in (None, NODATA):
            values[place][values[place] == dataset.nodatavals[number - 1]] = NODATA
        if MaskFlags.per_dataset in dataset.mask_flag_enums[number - 1]:
            values[place][dataset.read_masks(number, window=window) == 0] = NODATA
    return values.reshape(len(bands), len(bands[0]), *values.shape[1:])


def _check_values(sample: NDArray[np.uint16], names: Sequence[str], where: str, tags: dict[str, str]) -> None:
    """`InputError` for values (periods, bands, pixels) of the bands named that are no reflectance x 10000."""
    seen = sample[sample != NODATA]
    if not seen.size:
        return  # of the rest of a raster this says nothing
    if seen.max() <= EIGHT_BITS[1]:
        raise InputError(
            f"{where} holds no value above {seen.max()} where it was looked at, as 8-bit images do; reflectance x "
            "10000 is wanted"
        )
    if wrong := too_dim(sample, names):
        raise InputError(f"{where} {wrong}; reflectance x 10000 is wanted")
    middle = float(np.median(seen))
    if middle > BRIGHTEST:
        raise InputError(
            f"half of the values of {where} lie above {middle:.0f}, which is no reflectance x 10000 (snow is about "
            "10000): scale it"
        )
    if tags.get(APPLIED, "").lower() in ("true", "yes", "1"):
        return
    telling = [i for i, name in enumerate(names) if name in CHECKED_BANDS] or list(range(len(names)))
    for period in sample[:, telling]:
        found = [dark_percentiles(values, np.ones(values.shape, bool)) for values in period]
        dark = [percentiles for percentiles in found if percentiles is not None]
        offset, words = read_pixels(np.array(dark) if dark else None)
        if offset == BOA_OFFSET:
            raise InputError(
                f"the values of {where} look as if they still held the +{BOA_OFFSET} of processing baseline 04.00 "
                f"({words}): take {BOA_OFFSET} off, nodata staying 0; or, where that was done, give it the tag "
                f"{APPLIED.upper()}=true"
            )


def _patiently(place: str, act: Callable[[], Result], patience: Patience) -> Result:
    """Call `act` again where it failed on a remote raster, unless its server refuses it: asking changes nothing."""

    def attempt() -> Result:
        try:
            return act()
        except RasterioError as error:
            if gdal_status(error) in REFUSED:
                raise _fault(place, error, patience) from None
            raise

    return patience.insist(attempt, RasterioError) if place.startswith(REMOTE) else attempt()


class Pixels:
    """An open imagery; for one thread."""

    def __init__(self, imagery: Imagery, patience: Patience) -> None:
        self._imagery, self._patience = imagery, patience
        self._open: dict[str, Any] = {}

    def read(self, row: int, rows: int, col: int, cols: int) -> NDArray[np.uint16]:
        """Reflectance x 10000 (periods, bands, rows, cols), 0 = nodata.

        `WorldError` after bounded attempts where it is remote, `InputError` where a file here is damaged.
        """
        window = Window(col, row, cols, rows)
        with faults_named(self._imagery.place, self._patience):
            # The periods of one raster are read in one go.
            if len({path for path, _ in self._imagery.files}) == 1:
                return self._insist(self._imagery.files[0][0], [bands for _, bands in self._imagery.files], window)
            return np.concatenate([self._insist(path, [bands], window) for path, bands in self._imagery.files])

    def _insist(self, path: str, bands: Sequence[Sequence[int]], window: Window) -> NDArray[np.uint16]:
        def attempt() -> NDArray[np.uint16]:
            try:
                if path not in self._open:
                    self._open[path] = rasterio.open(path, sharing=False)
                return _read(self._open[path], bands, window)
            except RasterioError:
                self._close(path)  # so that the next attempt starts afresh
                raise

        return _patiently(self._imagery.place, attempt, self._patience)

    def _close(self, path: str) -> None:
        if path in self._open:
            self._open.pop(path).close()

    def close(self) -> None:
        for path in list(self._open):
            self._close(path)


@contextmanager
def reading(imagery: Imagery, patience: Patience) -> Iterator[Pixels]:
    """Open an imagery for as long as the block lasts, in the thread that reads."""
    with rasterio.Env(**_options(patience)):
        pixels = Pixels(imagery, patience)
        try:
            yield pixels
        finally:
            pixels.close()


@contextmanager
def faults_named(place: str, patience: Patience, *, opening: bool = False) -> Iterator[None]:
    """Say what GDAL complains of in one sentence, and whose fault that is."""
    try:
        yield
    except RasterioError as error:
        raise _fault(place, error, patience, opening=opening) from error


def _fault(place: str, error: Exception, patience: Patience, *, opening: bool = False) -> CasbahError:
    if not place.startswith(REMOTE):
        return _damaged(place, error)
    status = gdal_status(error) or _status(place, patience)
    if status in REFUSED:
        return WorldError(
            f"{shown(place)} could not be read: its server refused it ({status}); check the credentials, or have a new "
            "address signed; finished parts are kept"
        )
    if opening and NO_RASTER in str(error) and status in (requests.codes.ok, requests.codes.partial_content):
        return _damaged(place, error)
    # What GDAL says of a file that its server does not give is that it is none.
    refused = status is not None and status >= requests.codes.bad_request
    reason = f"its server answers {status}" if refused else complaint(error)
    return WorldError(
        f"{shown(place)} could not be read after {patience.attempts} attempts: {reason}; run the same command again, "
        "finished parts are kept"
    )


def _damaged(place: str, error: Exception) -> InputError:
    return InputError(
        f"{shown(place)} could not be read: {complaint(error).rstrip('.')}; it is no raster, cut short or damaged: "
        "make or fetch it again"
    )


def _status(place: str, patience: Patience) -> int | None:
    """What a web server answers now, asked once for a few bytes: GDAL does not say of a read that broke off, and calls
    no raster what it got no byte of."""
    if not place.startswith(("http://", "https://")):
        return None
    asked = {**authorization(place), "Range": "bytes=0-15"}
    try:
        with requests.get(place, headers=asked, timeout=(patience.connect, patience.read), stream=True) as answer:
            return answer.status_code
    except requests.RequestException:
        return None
