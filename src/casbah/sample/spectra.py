"""What the simulated town is made of: surface reflectance per material in the twelve bands.

The figures are plausible mid-range values, rounded by hand from published libraries and not copied from one sample:
urban surfaces (roof tiles, concrete, asphalt, bitumen, metal, fibre cement, stone) after the London Urban
Micromet data Archive (Kotthaus et al. 2014, ISPRS J. 94, 194-212) and Herold et al. 2004 (Remote Sens. Environ. 91,
304-319); soils, sand, gravel, dry and green vegetation after the ECOSTRESS spectral library (Meerdink et al. 2019,
Remote Sens. Environ. 230, 111196); terra rossa after Mediterranean soils in Escadafal 1993; coastal water after
Sentinel-2 water-leaving reflectance in Pahlevan et al. 2017 (Remote Sens. Environ. 201, 47-56); cloud after the
bright targets in ESA's Sen2Cor ATBD.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#                       B01   B02   B03   B04   B05   B06   B07   B08   B8A   B09   B11   B12
MATERIALS: dict[str, tuple[float, ...]] = {
    "deep sea":        (.022, .024, .019, .009, .007, .005, .005, .004, .004, .004, .003, .002),
    "coastal sea":     (.032, .040, .040, .018, .012, .008, .007, .006, .005, .005, .003, .002),
    "shallow sea":     (.050, .066, .075, .042, .026, .015, .013, .011, .009, .008, .005, .003),
    "wadi water":      (.040, .050, .070, .062, .058, .045, .044, .042, .038, .034, .020, .014),
    "dry sand":        (.150, .190, .255, .320, .340, .352, .365, .378, .384, .385, .450, .410),
    "wet sand":        (.075, .095, .130, .160, .170, .178, .185, .190, .190, .180, .160, .115),
    "rock":            (.095, .115, .145, .180, .190, .198, .205, .212, .216, .218, .255, .225),
    "asphalt":         (.080, .090, .107, .122, .127, .131, .136, .141, .145, .147, .175, .165),
    "worn asphalt":    (.110, .125, .148, .170, .178, .183, .189, .195, .199, .201, .232, .215),
    "concrete paving": (.160, .190, .230, .265, .278, .285, .292, .298, .302, .304, .338, .305),
    "stone paving":    (.140, .170, .215, .258, .272, .280, .288, .295, .300, .302, .335, .292),
    "terra rossa":     (.062, .078, .115, .195, .222, .238, .252, .266, .276, .281, .365, .315),
    "pale soil":       (.115, .145, .195, .255, .275, .288, .300, .312, .320, .324, .405, .350),
    "rubble":          (.135, .160, .200, .245, .260, .270, .279, .287, .292, .294, .350, .312),
    "gravel":          (.115, .138, .172, .210, .220, .228, .234, .240, .245, .247, .285, .250),
    "grass":           (.028, .035, .075, .045, .105, .265, .325, .355, .375, .370, .210, .105),
    "dry grass":       (.065, .082, .122, .168, .195, .218, .240, .260, .275, .280, .345, .255),
    "stubble":         (.075, .098, .142, .198, .222, .242, .262, .280, .295, .300, .395, .295),
    "crop":            (.024, .030, .068, .034, .098, .320, .405, .440, .460, .445, .220, .100),
    "orchard":         (.024, .029, .055, .038, .080, .215, .270, .295, .312, .308, .175, .085),
    "tree":            (.019, .023, .044, .027, .066, .200, .258, .285, .305, .302, .150, .065),
    "reeds":           (.026, .032, .062, .042, .090, .210, .255, .280, .295, .290, .165, .085),
    "tile roof":       (.055, .064, .094, .205, .248, .262, .274, .284, .291, .294, .352, .322),
    "white roof":      (.290, .350, .405, .440, .450, .456, .460, .463, .464, .460, .435, .370),
    "concrete roof":   (.140, .165, .200, .232, .243, .249, .255, .260, .264, .266, .300, .272),
    "weathered roof":  (.095, .112, .136, .162, .171, .177, .183, .188, .192, .194, .222, .205),
    "bitumen roof":    (.058, .066, .077, .088, .092, .096, .100, .105, .108, .110, .132, .126),
    "brick terrace":   (.080, .096, .130, .205, .235, .246, .256, .265, .271, .274, .330, .300),
    "metal roof":      (.245, .280, .310, .328, .332, .333, .333, .330, .325, .320, .295, .255),
    "fibre cement":    (.120, .140, .168, .193, .200, .205, .210, .215, .219, .221, .238, .216),
    "cloud":           (.560, .570, .575, .585, .590, .595, .600, .605, .605, .560, .420, .310),
}  # fmt: skip
"""Surface reflectance, 0-1, in the order of `casbah.bands.BANDS`."""

NAMES: tuple[str, ...] = tuple(MATERIALS)

TABLE: NDArray[np.float64] = np.array(list(MATERIALS.values()))
"""(materials, 12)."""

DIFFUSE = np.array((0.42, 0.38, 0.31, 0.25, 0.23, 0.22, 0.21, 0.19, 0.18, 0.17, 0.12, 0.09))
"""Share of the sunlit radiance left in a cast shadow, per band: skylight is blue, and soon nothing in the infrared."""

WATER = frozenset({"deep sea", "coastal sea", "shallow sea", "wadi water"})

ROOFS = (
    "tile roof",
    "white roof",
    "concrete roof",
    "weathered roof",
    "bitumen roof",
    "brick terrace",
    "metal roof",
    "fibre cement",
)
"""What buildings are covered with."""


def index(name: str) -> int:
    """The row of a material in `TABLE`."""
    return NAMES.index(name)


def indices(names: Sequence[str]) -> NDArray[np.int64]:
    """The rows of several materials in `TABLE`."""
    return np.array([index(name) for name in names])
