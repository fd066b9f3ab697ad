"""Where a block lies on the ground, read from its name, and which blocks of two lattices share ground.

Names are `<epsg>_<side in metres>_<col>_<row>`: columns count east and rows north from the origin of the UTM zone. Two
sets of tiles may be cut into blocks of different sides or of two zones; then equal ground has unequal names, and only
the ground tells whether a model has seen a block.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

from casbah.errors import InputError

Bounds = tuple[float, float, float, float]
"""(west, south, east, north)."""


def named(crs: str, side: float, col: int, row: int) -> str:
    """The name of a block of a zone (`EPSG:n`) and a side in metres."""
    return f"{crs.removeprefix('EPSG:')}_{side:g}_{col}_{row}"


@lru_cache(maxsize=65536)
def place(name: str) -> tuple[int, Bounds]:
    """The EPSG code of a block and its bounds in metres; `InputError` where the name is none of the lattice's."""
    try:
        epsg, side, col, row = name.split("_")
        size = float(side)
        west, south = int(col) * size, int(row) * size
        return int(epsg), (west, south, west + size, south + size)
    except ValueError:
        raise InputError(
            f"{name!r} is no block of the lattice (<epsg>_<side>_<column>_<row>): the product that names it was not "
            "written by Casbah's tile stage"
        ) from None


def seen_among(blocks: Iterable[str], others: Iterable[str]) -> set[str]:
    """Those of `blocks` that share ground with any of `others`, whatever lattice either was cut on.

    Across zones the blocks' boxes in degrees are compared, which may call a block shared that only comes close: for a
    check against leakage that is the safe side.
    """
    families: dict[tuple[int, float], set[str]] = defaultdict(set)
    for other in others:
        epsg, (west, _, east, _) = place(other)
        families[epsg, east - west].add(other)
    return {block for block in blocks if any(_shared(block, key, names) for key, names in families.items())}


def _shared(block: str, family: tuple[int, float], names: set[str]) -> bool:
    epsg, bounds = place(block)
    if (epsg, bounds[2] - bounds[0]) == family:
        return block in names
    if epsg == family[0]:
        return any(_overlap(bounds, place(name)[1]) for name in names)
    return any(_overlap(_degrees(block), _degrees(name)) for name in names)


def _overlap(a: Bounds, b: Bounds) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@lru_cache(maxsize=65536)
def _degrees(name: str) -> Bounds:
    from rasterio.warp import transform_bounds

    epsg, bounds = place(name)
    return tuple(transform_bounds(f"EPSG:{epsg}", "EPSG:4326", *bounds, densify_pts=5))
