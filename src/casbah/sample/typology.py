"""How each kind of district is built: its streets, lots, houses, roofs and trees. Lengths are in metres."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Typology:
    """One kind of district.

    Blocks are `block` long, `rows` lots deep, and parted by streets of `street` (range). A lot is `lot` wide and
    `depth` deep. Of a lot, `front`, `rear` and `side` are kept free. `empty` is the share of lots without a
    building, `court` of buildings with a courtyard, `ell` of L-shaped ones. `roofs`, `yards` and `streets` give
    materials with weights; `green` is the range of plant cover of a yard, `trees` counts trees per hectare.
    `tags` are the values of OSM's building tag with weights. `bend` is how far streets stray from straight lines; no
    building is thinner than `least` unless its lot is.
    """

    block: tuple[float, float]
    rows: int
    street: tuple[float, float]
    lot: tuple[float, float]
    depth: tuple[float, float]
    front: tuple[float, float]
    rear: tuple[float, float]
    side: tuple[float, float]
    height: tuple[float, float]
    roofs: dict[str, float]
    yards: dict[str, float]
    streets: dict[str, float]
    tags: dict[str, float]
    empty: float = 0.05
    court: float = 0.0
    ell: float = 0.0
    green: tuple[float, float] = (0.0, 0.1)
    trees: float = 5.0
    bend: float = 3.0
    least: float = 6.0


BUILT: dict[str, Typology] = {
    "medina": Typology(
        block=(28, 60), rows=3, street=(2.0, 4.5), lot=(8, 13), depth=(8, 12),
        front=(0, 0.2), rear=(0, 0.2), side=(0, 0.1), height=(7, 11),
        roofs={"white roof": 0.35, "concrete roof": 0.25, "weathered roof": 0.15, "brick terrace": 0.25},
        yards={"stone paving": 0.7, "rubble": 0.3}, streets={"stone paving": 1.0},
        tags={"yes": 0.6, "house": 0.4}, empty=0.09, court=0.45, trees=4, bend=9,
    ),
    "grid": Typology(
        block=(60, 130), rows=2, street=(9, 16), lot=(13, 26), depth=(19, 28),
        front=(0, 0.3), rear=(5, 11), side=(0, 0.2), height=(12, 20),
        roofs={"tile roof": 0.30, "concrete roof": 0.25, "white roof": 0.20, "bitumen roof": 0.12,
               "weathered roof": 0.13},
        yards={"concrete paving": 0.45, "stone paving": 0.25, "terra rossa": 0.15, "dry grass": 0.15},
        streets={"asphalt": 0.6, "worn asphalt": 0.4},
        tags={"yes": 0.45, "apartments": 0.4, "residential": 0.1, "commercial": 0.05},
        empty=0.10, court=0.16, ell=0.12, green=(0.0, 0.35), trees=14,
    ),
    "estate": Typology(
        block=(150, 260), rows=1, street=(10, 16), lot=(42, 80), depth=(38, 62),
        front=(9, 18), rear=(12, 24), side=(4, 12), height=(15, 34),
        roofs={"bitumen roof": 0.35, "concrete roof": 0.35, "white roof": 0.15, "weathered roof": 0.15},
        yards={"pale soil": 0.3, "dry grass": 0.3, "worn asphalt": 0.2, "concrete paving": 0.2},
        streets={"asphalt": 0.5, "worn asphalt": 0.5}, tags={"apartments": 0.8, "yes": 0.2},
        empty=0.14, ell=0.2, green=(0.0, 0.5), trees=22, least=12,
    ),
    "suburb": Typology(
        block=(70, 140), rows=2, street=(7, 11), lot=(15, 25), depth=(18, 28),
        front=(3, 7), rear=(4, 10), side=(1.2, 3.8), height=(4, 8),
        roofs={"tile roof": 0.45, "concrete roof": 0.2, "white roof": 0.2, "weathered roof": 0.15},
        yards={"dry grass": 0.3, "terra rossa": 0.3, "concrete paving": 0.2, "stone paving": 0.2},
        streets={"asphalt": 0.4, "worn asphalt": 0.6}, tags={"house": 0.7, "yes": 0.25, "detached": 0.05},
        empty=0.13, ell=0.35, green=(0.1, 0.75), trees=30,
    ),
    "informal": Typology(
        block=(40, 90), rows=2, street=(3, 6), lot=(8, 13), depth=(9, 14),
        front=(0, 0.5), rear=(0, 2.5), side=(0, 0.6), height=(4, 9),
        roofs={"brick terrace": 0.4, "concrete roof": 0.35, "fibre cement": 0.15, "weathered roof": 0.1},
        yards={"pale soil": 0.4, "terra rossa": 0.3, "rubble": 0.3},
        streets={"terra rossa": 0.3, "worn asphalt": 0.4, "pale soil": 0.3}, tags={"yes": 0.85, "house": 0.15},
        empty=0.16, ell=0.1, green=(0.0, 0.2), trees=6, bend=7,
    ),
    "industrial": Typology(
        block=(140, 260), rows=1, street=(12, 18), lot=(45, 100), depth=(50, 85),
        front=(6, 16), rear=(3, 10), side=(3, 10), height=(6, 11),
        roofs={"metal roof": 0.45, "fibre cement": 0.3, "bitumen roof": 0.1, "weathered roof": 0.15},
        yards={"concrete paving": 0.4, "worn asphalt": 0.3, "rubble": 0.3},
        streets={"asphalt": 0.4, "worn asphalt": 0.6}, tags={"industrial": 0.7, "warehouse": 0.2, "yes": 0.1},
        empty=0.2, ell=0.1, green=(0.0, 0.15), trees=3, least=18,
    ),
}  # fmt: skip

OPEN: tuple[str, ...] = ("park", "fields", "bare")
"""Districts without buildings."""

RINGS: tuple[tuple[float, dict[str, float]], ...] = (
    (0.12, {"medina": 0.85, "grid": 0.15}),
    (0.42, {"grid": 0.46, "medina": 0.05, "informal": 0.07, "estate": 0.16, "park": 0.12, "bare": 0.14}),
    (
        0.72,
        {"suburb": 0.3, "estate": 0.17, "informal": 0.08, "grid": 0.12, "industrial": 0.1, "bare": 0.13, "park": 0.1},
    ),
    (9.99, {"suburb": 0.28, "fields": 0.26, "bare": 0.14, "industrial": 0.14, "estate": 0.12, "informal": 0.06}),
)
"""Which districts stand at which distance from the old town (as a share of the town's shorter side), with weights."""
