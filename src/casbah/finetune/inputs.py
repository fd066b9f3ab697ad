"""What each backbone saw while it was pretrained (bands, order, units, statistics, sizes), and how it takes dates.

One table, with the source of each figure, since wrong units cost dozens of points and raise no error of their own. A
network that starts from pretrained weights gets its input in the units of its row here, or is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from casbah.bands import BAND_NAMES, BOA_OFFSET, TEN_BANDS
from casbah.errors import InputError
from casbah.models.normalisation import Normalisation
from casbah.products.tiles import TileInfo, TileSet

HLS_NAMES = {
    "B01": "COASTAL_AEROSOL",
    "B02": "BLUE",
    "B03": "GREEN",
    "B04": "RED",
    "B05": "RED_EDGE_1",
    "B06": "RED_EDGE_2",
    "B07": "RED_EDGE_3",
    "B08": "NIR_BROAD",
    "B8A": "NIR_NARROW",
    "B09": "WATER_VAPOR",
    "B11": "SWIR_1",
    "B12": "SWIR_2",
}
"""ESA's band names -> TerraTorch's (`terratorch.datasets.utils.HLSBands`)."""

RGB = ("B04", "B03", "B02")
PRITHVI_BANDS = ("B02", "B03", "B04", "B8A", "B11", "B12")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1, as torchvision and timm publish them."""

VISUAL = {"L1C": 3558.0, "L2A": 2000.0}
"""Reflectance x 10000 that is 255 in ESA's 8-bit true-colour images (Sentinel-2 products specification, TCI)."""

UNKNOWN_MONTH = 6
"""June: what Galileo's own inference takes where the month is not known (arXiv 2502.09356's code, month index 5)."""

TRAIN, IMAGENET = "train", "imagenet"


@dataclass(frozen=True)
class Pretraining:
    """What one backbone was pretrained on.

    `mean` and `std` per band in the published units: reflectance x 10000 plus `offset`, or, where `deviations` or
    `visual` say so, of the stretched image in 0..1. `level` is that of the images the figures are of, None where nobody
    says. `size` (of an image) and `patch` in pixels.
    """

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    size: int
    patch: int
    offset: int = 0
    deviations: float = 0.0
    """The backbone saw (x - (mean - d std)) / (2 d std), with this d, and not (x - mean) / std."""
    levels: int = 0
    """That many steps from 0 to 1, cut off at both ends, where it saw 8-bit images of it (0: neither)."""
    visual: bool = False
    """It saw 8-bit true-colour images: reflectance up to `VISUAL` as 0 to 1."""
    level: str | None = None


PRETRAINING: dict[str, tuple[Pretraining, ...]] = {
    "prithvi_v1": (
        Pretraining(
            PRITHVI_BANDS,
            (775.0, 1081.0, 1229.0, 2497.0, 2204.0, 1611.0),
            (1282.0, 1270.0, 1399.0, 1368.0, 1292.0, 1155.0),
            "Prithvi-EO-1.0 (PRITHVI_V1_MEAN, _STD in terratorch.models.backbones.prithvi_vit): HLS surface "
            "reflectance x 10000",
            size=224,
            patch=16,
            level="L2A",
        ),
    ),
    "prithvi_v2": (
        Pretraining(
            PRITHVI_BANDS,
            (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0),
            (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0),
            "Prithvi-EO-2.0 (PRITHVI_V2_MEAN, _STD in terratorch.models.backbones.prithvi_vit): HLS surface "
            "reflectance x 10000",
            size=224,
            patch=16,
            level="L2A",
        ),
    ),
    "terramind_v1": (
        Pretraining(
            BAND_NAMES,
            (
                1390.458,
                1503.317,
                1718.197,
                1853.91,
                2199.1,
                2779.975,
                2987.011,
                3083.234,
                3132.22,
                3162.988,
                2424.884,
                1857.648,
            ),
            (
                2106.761,
                2141.107,
                2038.973,
                2134.138,
                2085.321,
                1889.926,
                1820.257,
                1871.918,
                1753.829,
                1797.379,
                1434.261,
                1334.311,
            ),
            "TerraMind 1.0 (S2L2A in terratorch's terramind_register): digital numbers that carry the +1000 offset",
            size=224,
            patch=16,
            offset=BOA_OFFSET,
            level="L2A",
        ),
        Pretraining(
            BAND_NAMES,
            (
                2357.089,
                2137.385,
                2018.788,
                2082.986,
                2295.651,
                2854.537,
                3122.849,
                3040.56,
                3306.481,
                1473.847,
                2472.825,
                1838.929,
            ),
            (
                1624.683,
                1675.806,
                1557.708,
                1833.702,
                1823.738,
                1733.977,
                1732.131,
                1679.732,
                1727.26,
                1024.687,
                1331.411,
                1160.419,
            ),
            "TerraMind 1.0 (S2L1C in terratorch's terramind_register, without B10): digital numbers that carry the "
            "+1000 offset",
            size=224,
            patch=16,
            offset=BOA_OFFSET,
            level="L1C",
        ),
    ),
    "satmae": (
        Pretraining(
            TEN_BANDS,
            (
                1184.3824625,
                1120.77120066,
                1136.26026392,
                1263.73947144,
                1645.40315151,
                1846.87040806,
                1762.59530783,
                1972.62420416,
                1732.16362238,
                1247.91870117,
            ),
            (
                650.2842772,
                712.12507725,
                965.23119807,
                948.9819932,
                1108.06650639,
                1258.36394548,
                1233.1492281,
                1364.38688993,
                1310.36996126,
                1087.6020813,
            ),
            "SatMAE (arXiv 2207.08051, fMoW-Sentinel): digital numbers from two deviations below the mean to two above "
            "as 8-bit images, in 0..1",
            size=96,
            patch=8,
            deviations=2.0,
            levels=255,
        ),
    ),
    "scalemae": (
        Pretraining(
            RGB,
            IMAGENET_MEAN,
            IMAGENET_STD,
            "Scale-MAE (arXiv 2212.14532, fMoW-RGB): 8-bit true-colour images, standardised by ImageNet's statistics",
            size=224,
            patch=16,
            levels=255,
            visual=True,
        ),
    ),
    "galileo": (
        Pretraining(
            TEN_BANDS,
            (
                1395.3408730676722,
                1338.4026921784578,
                1343.09883810357,
                1543.8607982512297,
                2186.2022069512263,
                2525.0932853316694,
                2410.3377187373408,
                2750.2854646886753,
                2234.911100061487,
                1474.5311266077113,
            ),
            (
                917.7041440370853,
                913.2988423581528,
                1092.678723527555,
                1047.2206083460424,
                1048.0101611156767,
                1143.6903026819996,
                1098.979177731649,
                1204.472755085893,
                1145.9774063078878,
                980.2429840007796,
            ),
            "Galileo (arXiv 2502.09356, config/normalization.json): level 1C reflectance x 10000 without offset, from "
            "two deviations below the mean to two above as 0..1, not cut off",
            size=96,
            patch=8,
            deviations=2.0,
            level="L1C",
        ),
    ),
}
"""Names that `TileDataModule(normalisation=…)` takes beside `train` and `imagenet`."""


@dataclass(frozen=True)
class Family:
    """Backbones whose names begin alike, and how they take several dates.

    `frames`: their own temporal input, as so many frames; `months`: the same, with the month of each; `each`: one date
    at a time, the features of all dates stacked (TerraTorch's TemporalWrapper).
    """

    prefix: str
    normalisation: str
    dates: Literal["frames", "months", "each"]


FAMILIES = (
    Family("prithvi_eo_v1", "prithvi_v1", "frames"),
    Family("prithvi_eo_v2", "prithvi_v2", "frames"),
    Family("terramind_v1", "terramind_v1", "each"),
    Family("satmae", "satmae", "each"),
    Family("scalemae", "scalemae", "each"),
    Family("galileo", "galileo", "months"),
)


def family(backbone: str) -> Family | None:
    """The family of a backbone by its name in an experiment; None for one that this table does not know."""
    bare = backbone.removeprefix("terratorch_")
    return next((one for one in FAMILIES if bare.startswith(one.prefix)), None)


def pretraining(name: str, level: str) -> Pretraining:
    """The row of a normalisation's name for tiles of a level (L1C, L2A); its first where it has none of that level."""
    rows = PRETRAINING[name]
    return next((row for row in rows if row.level == level), rows[0])


def of_backbone(name: str, bands: Sequence[str], periods: int, level: str) -> Normalisation:
    """A row of the table for some of its bands; `InputError` naming those that it has no statistics for."""
    row = pretraining(name, level)
    lacking = [band for band in bands if band not in row.bands]
    if lacking:
        raise InputError(
            f"normalisation {name} has no statistics for {', '.join(lacking)}; it knows {', '.join(row.bands)}: "
            "name those under data.init_args.bands, or leave bands out"
        )
    index = [row.bands.index(band) for band in bands]
    mean, std = (np.array(values, np.float64)[index] for values in (row.mean, row.std))
    if row.visual:
        return _tiled(mean, std, row, periods, low=np.zeros(len(index)), high=np.full(len(index), VISUAL[level]))
    mean -= row.offset
    if row.deviations:
        low, high = mean - row.deviations * std, mean + row.deviations * std
        if row.levels:
            return _tiled(np.zeros_like(mean), np.ones_like(std), row, periods, low=low, high=high, fill=0.5)
        return _tiled(low, high - low, row, periods, fill=0.5)
    return _tiled(mean, std, row, periods)


def _tiled(
    mean: np.ndarray,
    std: np.ndarray,
    row: Pretraining,
    periods: int,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    fill: float = 0.0,
) -> Normalisation:
    """The same numbers for each period; `fill` is what the published mean becomes."""

    def each(values: np.ndarray) -> np.ndarray:
        return np.tile(values, (periods, 1))

    return Normalisation(
        each(mean).astype(np.float32),
        each(std).astype(np.float32),
        row.source,
        low=None if low is None else each(low),
        high=None if high is None else each(high),
        levels=row.levels,
        fill=fill,
    )


def of_tiles(tiles: TileSet, bands: Sequence[str]) -> Normalisation:
    """Mean and deviation of the training tiles; `InputError` where a band has none."""
    index = [tiles.info.bands.index(name) for name in bands]
    found = {key: np.asarray(tiles.statistics[key], np.float32)[:, index] for key in ("mean", "std")}
    if not all(np.isfinite(values).all() for values in found.values()) or (found["std"] <= 0).any():
        raise InputError(
            f"{tiles.path / 'statistics.json'} holds a band without a finite mean and a positive "
            "deviation over the training tiles: a band that never varies teaches nothing, so leave it out or make "
            "the tiles again"
        )
    return Normalisation(found["mean"], found["std"], "training tiles")


def of_imagenet(tiles: TileSet, bands: Sequence[str]) -> Normalisation:
    """Red, green and blue as the 8-bit true-colour image that ImageNet's weights expect, every other band by the
    statistics of the training tiles; `InputError` where one of the three is not among `bands`."""
    if lacking := [name for name in RGB if name not in bands]:
        raise InputError(
            f"normalisation imagenet needs red, green and blue (B04, B03, B02), and {', '.join(lacking)} is not among "
            "data.init_args.bands"
        )
    own = of_tiles(tiles, bands)
    shape, white = own.mean.shape, VISUAL[tiles.info.level]
    low, high = np.full(shape, np.nan), np.full(shape, np.nan)
    mean, std = own.mean.copy(), own.std.copy()
    for name, middle, spread in zip(RGB, IMAGENET_MEAN, IMAGENET_STD, strict=True):
        column = list(bands).index(name)
        mean[:, column], std[:, column], low[:, column], high[:, column] = middle, spread, 0.0, white
    source = f"ImageNet's for red, green and blue (0 to {white:g} as 0..1), training tiles for the others"
    return Normalisation(mean, std, source, low=low, high=high)


def caveats(normalisation: str, backbone: str, info: TileInfo) -> list[str]:
    """What a person has to know of the input of a backbone on these tiles, a sentence each."""
    found = []
    row = pretraining(normalisation, info.level) if normalisation in PRETRAINING else None
    if row and row.level not in (None, info.level):
        found.append(f"the figures of {normalisation} are of level {row.level}, the tiles of level {info.level}")
    known = family(backbone)
    if known and known.dates == "months" and not all(info.months or (None,)):
        found.append(f"the tiles do not say one month for each date, so {backbone} is told June where it is not known")
    return found


def units_in_doubt(tiles: TileSet) -> list[str]:
    """A sentence where no band of the training tiles is dark anywhere, as when the offset of baseline 04.00 is left on.

    It is no error: bright sand under haze looks the same.
    """
    darkest = float(np.nanmin(np.asarray(tiles.statistics["low"], np.float64)))
    if tiles.info.normalise != "none" or darkest < BOA_OFFSET:
        return []
    return [
        f"even the darkest band of {tiles.path} has its 1st percentile at {darkest:g}: is the offset of {BOA_OFFSET} "
        "(processing baseline 04.00) left on? `casbah ingest` takes it off, and --offset settles a dispute"
    ]


def check_as_seen(tiles: TileSet, normalisation: str) -> None:
    """`InputError` where published figures would be taken for scenes that were brought to a common mean."""
    if normalisation != TRAIN and tiles.info.normalise != "none":
        raise InputError(
            f"{tiles.path} was made with --normalise {tiles.info.normalise}, and data.init_args.normalisation "
            f"{normalisation} expects reflectance as it was seen: set it to {TRAIN}, or make the tiles without it"
        )


def check_units(tiles: TileSet) -> None:
    """`InputError` where what the tiles hold is no reflectance x 10000: an 8-bit image, or reflectance in 0..1."""
    # Scenes that were brought to a common mean are judged by what they were before.
    scenes = [scene["high"] for scene in tiles.statistics.get("scenes", {}).values() if "high" in scene]
    highs = [np.nanmax(np.asarray(high, np.float64)) for high in scenes or [tiles.statistics["high"]]]
    brightest = float(min(highs))
    if brightest <= 255:
        raise InputError(
            f"the brightest band of {tiles.path} has its 99th percentile at {brightest:g}: that is an 8-bit image or "
            "an unscaled one, and reflectance x 10000 (some hundreds to thousands) is wanted; ingest the scene again"
        )


def check_pretrained(model_factory: str, model_args: Mapping[str, Any], normalisation: str, where: str) -> None:
    """`InputError` where a network that starts from pretrained weights would see its input in other units."""
    if model_factory == "SMPModelFactory":
        if model_args.get("pretrained", True) and normalisation != IMAGENET:
            raise _other_units("ImageNet's", normalisation, IMAGENET, "model_args.pretrained", where)
        return
    known = family(str(model_args.get("backbone")))
    if known and model_args.get("backbone_pretrained") and normalisation != known.normalisation:
        backbone = f"{model_args['backbone']}'s"
        raise _other_units(backbone, normalisation, known.normalisation, "model_args.backbone_pretrained", where)


def _other_units(whose: str, found: str, wanted: str, switch: str, where: str) -> InputError:
    return InputError(
        f"{where}: data.init_args.normalisation is {found}, and {whose} pretrained weights expect their input by "
        f"{wanted}: set it to {wanted}, or {switch} to false"
    )
