"""A map to pan and zoom as one HTML file: pictures inside as data URIs, a little JavaScript, no network at all."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from casbah.figures.charts import BlockOutline
from casbah.figures.colour import (
    FALSE_ALARM,
    FOUND,
    MISSED,
    OUTLINE,
    TRUTH,
    UNKNOWN,
    data_uri,
    jpeg,
    png,
    split_colours,
)

BACKDROP = (223, 228, 232)
"""Where no tile lies: the colour of the page behind the map."""

MAXIMUM_SIDE = 2048
"""Pixels: a larger area is thinned for the map, so that the file stays small enough to be mailed."""


@dataclass
class Canvas:
    """One scene's layers, filled patch by patch at a reduced resolution; memory is bounded by `MAXIMUM_SIDE`."""

    name: str
    left: int
    top: int
    cols: int
    rows: int
    resolution: float
    """Metres of a source pixel."""
    blocks: list[BlockOutline] = field(default_factory=list)
    pictured: bool = True
    """Whether there is imagery below the layers."""
    geo: dict[str, Any] | None = None
    """Where it lies, as `page.places` says it; None: the map shows no coordinates."""
    footprints: dict[str, Any] | None = None
    """Outlines to click, as `page` packs them."""

    def __post_init__(self) -> None:
        self.step = max(1, -(-max(self.rows, self.cols) // MAXIMUM_SIDE))
        shape = (-(-self.rows // self.step), -(-self.cols // self.step))
        self.colour = np.full((*shape, 3), BACKDROP, np.uint8)
        self.layers = {name: np.zeros((*shape, 4), np.uint8) for name in ("truth", "probability", "error")}

    @classmethod
    def over(cls, name: str, blocks: Sequence[BlockOutline], resolution: float) -> "Canvas":
        """A canvas over the extent of some blocks, which become its outlines."""
        left, top = round(min(b.left for b in blocks)), round(min(b.top for b in blocks))
        right, bottom = round(max(b.left + b.cols for b in blocks)), round(max(b.top + b.rows for b in blocks))
        return cls(name, left, top, right - left, bottom - top, resolution, list(blocks))

    def paint(self, layer: str, left: int, top: int, picture: NDArray[np.uint8]) -> None:
        """Put a picture (rows, cols, 3 or 4) whose first pixel is (`left`, `top`) of the scene onto a layer."""
        target = self.colour if layer == "colour" else self.layers[layer]
        rows = np.arange(top - self.top, top - self.top + picture.shape[0])
        cols = np.arange(left - self.left, left - self.left + picture.shape[1])
        kept = picture[rows % self.step == 0][:, cols % self.step == 0]
        r, c = -(-rows[0] // self.step), -(-cols[0] // self.step)
        target[r : r + kept.shape[0], c : c + kept.shape[1]] = kept

    def data(self) -> dict[str, Any]:
        """What the map's script reads."""
        return {
            "name": self.name,
            "width": self.cols,
            "height": self.rows,
            "resolution": self.resolution,
            "layers": {
                **({"colour": data_uri(jpeg(self.colour), "jpeg")} if self.pictured else {}),
                **{name: data_uri(png(picture), "png") for name, picture in self.layers.items() if picture.any()},
            },
            "blocks": [
                {"name": b.name, "x": b.left - self.left, "y": b.top - self.top, "w": b.cols, "h": b.rows}
                | {"split": b.split, "iou": b.score}
                for b in self.blocks
            ],
            "geo": self.geo,
            "footprints": self.footprints,
        }


def render_map(
    canvases: Iterable[Canvas],
    *,
    title: str,
    attribution: Sequence[str],
    simulated: bool,
    note: str = "",
    start: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The whole page. Every text is escaped; the page forbids itself any request (Content-Security-Policy).

    `start` says which layers are shown at first and how opaque, where that is not as in the report of an evaluation:
    `show` and `opacity`, layer -> number.
    """
    areas = [canvas.data() for canvas in canvases]
    layers = {name for area in areas for name in area["layers"]}
    names = sorted({block["split"] for area in areas for block in area["blocks"]})
    return (
        environment()
        .get_template("map.html.j2")
        .render(
            title=title,
            data={
                "areas": areas,
                "splits": {name: _css(colour) for name, colour in split_colours(names).items()},
                "start": start or {},
                "outline": _css(OUTLINE),
            },
            attribution=list(attribution),
            simulated=simulated,
            note=note,
            colours={
                "found": _css(FOUND),
                "alarm": _css(FALSE_ALARM),
                "missed": _css(MISSED),
                "truth": _css(TRUTH),
                "outline": _css(OUTLINE),
                "unknown": _css(UNKNOWN),
            },
            layers=layers,
            has_footprints=any(area["footprints"] for area in areas),
        )
    )


def environment(package: str = "casbah.figures", markdown: bool = False) -> Environment:
    """Jinja2 that escapes everything and fails on a missing name; templates from the package's own folder, and the
    style of all reports from that of `casbah.figures`.

    In `markdown` only what would open an HTML tag is escaped, since viewers let tags through.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("casbah.figures")]),
        autoescape=not markdown,  # noqa: S701 - Markdown is no HTML, and `_no_tags` keeps it so
        finalize=_no_tags if markdown else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _no_tags(value: Any) -> Any:
    return value.replace("<", "&lt;") if isinstance(value, str) else value


def _css(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
