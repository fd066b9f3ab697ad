"""What a prediction says of itself: `prediction.json`, `item.json` (STAC) and the tags of its rasters."""

import hashlib
import json
from collections.abc import Sequence
from datetime import date
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

import casbah
from casbah.grid import Grid
from casbah.products.prediction import NODATA, Prediction, PredictionInfo
from casbah.stac import COG, EXTENSIONS, STAC_VERSION, as_geojson, outline, projection
from casbah.workplace import TILE

ITEM = "urn:casbah:item:"
"""What a link to a source item begins with: catalogues move, ids stay."""

UNKNOWN = "1970-01-01T00:00:00Z"
"""The time of imagery of which nobody says one: STAC wants a time, and the same run gives the same item."""


def dates_of(info: PredictionInfo) -> str:
    """The acquisition dates of the imagery, for people, or the span of a period that does not list them; empty where
    nobody knows."""
    return ", ".join(day for period in info.periods for day in (period.dates or (f"{period.start} to {period.end}",)))


def tags_of(info: PredictionInfo) -> dict[str, str]:
    """Tags that every raster of the prediction carries: it may be passed on alone."""
    tags = {
        "CASBAH_VERSION": casbah.__version__,
        "CASBAH_MODEL": info.model.name,
        "CASBAH_MODEL_DIGEST": info.model.digest,
        "CASBAH_EXPERIMENT": info.model.experiment,
        "CASBAH_SCENE": info.scene,
        "CASBAH_DATES": dates_of(info),
        "CASBAH_LEVEL": info.level,
        "CASBAH_THRESHOLD": f"{info.threshold:g}",
        "CASBAH_SIMULATED": str(info.simulated).lower(),
        "CASBAH_ATTRIBUTION": "; ".join(info.attribution),
    }
    return {name: value for name, value in tags.items() if value}


def stac_item(
    info: PredictionInfo, grid: Grid, sources: Sequence[str], scene: str, changed: str | None = None
) -> dict[str, Any]:
    """The STAC item. `sources` are the ids of the items behind the imagery, `scene` is the digest of that, `changed`
    (ISO) when a raster without dates was last changed, where that is known; nothing in the item differs between two
    equal runs."""
    footprint = outline(grid)
    properties = {
        **_when(info, changed),
        "gsd": grid.resolution,
        "constellation": "sentinel-2",
        "processing:software": {"casbah": casbah.__version__},
        "processing:lineage": f"P(building) by {info.model.name} from {info.scene}",
        **projection(grid),
        "attribution": "; ".join(info.attribution),
        "casbah": json.loads(info.model_dump_json()),
    }
    identity = json.dumps([info.model_dump(mode="json"), scene, grid.to_dict()], sort_keys=True)
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EXTENSIONS[name] for name in ("projection", "raster", "processing")],
        "id": f"casbah-prediction-{hashlib.sha256(identity.encode()).hexdigest()[:16]}",
        "geometry": as_geojson(footprint),
        "bbox": list(footprint.bounds),
        "properties": properties,
        "links": [
            _derived(f"urn:casbah:scene:{_part(info.scene)}", f"Scene {info.scene}"),
            *(_derived(f"{ITEM}{_part(source)}", f"Source item {source}") for source in sources),
            _derived(f"urn:casbah:model:{info.model.digest}", f"Model {info.model.name}"),
        ],
        "assets": _assets(info),
    }


def sources_of(item: dict[str, Any]) -> list[str]:
    """The ids of the items behind the imagery of a prediction, from its own STAC item."""
    return [unquote(link["href"].removeprefix(ITEM)) for link in item["links"] if link["href"].startswith(ITEM)]


def _derived(href: str, title: str) -> dict[str, str]:
    return {"rel": "derived_from", "href": href, "title": title}


def _part(text: str) -> str:
    """A name as a part of a URN."""
    return quote(text, safe="")


def _when(info: PredictionInfo, changed: str | None) -> dict[str, Any]:
    """STAC wants a time of everything: where a raster says none, it is when the raster was last changed."""
    if not info.periods and changed in (None, UNKNOWN):
        return {
            "datetime": UNKNOWN,
            "casbah:datetime_of": "nothing: neither the raster says a date, nor its server when it was last changed",
        }
    if not info.periods:
        return {
            "datetime": changed,
            "casbah:datetime_of": "last change of the raster, which says no date",
        }
    days = sorted(day for p in info.periods for day in (p.start, p.end, *p.dates))
    first, last = date.fromisoformat(days[0][:10]), date.fromisoformat(days[-1][:10])
    return {
        "datetime": None,
        "start_datetime": f"{first.isoformat()}T00:00:00Z",
        "end_datetime": f"{last.isoformat()}T23:59:59Z",
    }


def _assets(info: PredictionInfo) -> dict[str, Any]:
    values = {"data_type": info.values, "nodata": info.nodata, "raster:scale": 1 / info.steps, "raster:offset": 0}
    classes = {"data_type": "uint8", "nodata": 255}
    found = {
        "probability": _asset("probability.tif", "Probability of building", ["data"], values),
        "mask": _asset("mask.tif", f"Building at a threshold of {info.threshold:g}", ["data"], classes),
        "unlike": _asset("unlike.tif", "Cells that look unlike the training data", ["metadata"], classes),
    }
    if info.uncertainty:
        title = f"Standard deviation of the probability over {info.uncertainty}"
        found["uncertainty"] = _asset("uncertainty.tif", title, ["metadata"], values)
    found["prediction"] = {
        "href": "./prediction.json",
        "type": "application/json",
        "title": "How it was made",
        "roles": ["metadata"],
    }
    return found


def _asset(name: str, title: str, roles: list[str], values: dict[str, Any]) -> dict[str, Any]:
    return {"href": f"./{name}", "type": COG, "title": title, "roles": roles, **values}


def summary(made: Prediction) -> str:
    """What a map shows, and where its rasters lie, as lines for a person."""
    building = observed = 0
    for window in made.grid.windows(TILE):
        values = made.mask(window)
        building += int(np.count_nonzero(values == 1))
        observed += int(np.count_nonzero(values != NODATA["uint8"]))
    info, share = made.info, 100 * building / max(observed, 1)
    facts = (
        f"{'SIMULATED  ' if info.simulated else ''}{info.model.name} on {info.scene}: {share:.2f} % "
        f"of {observed / 1e6:.2f} million observed pixels are building at {info.threshold:.3f}; "
        f"{100 * info.unlike['share']:.1f} % look unlike the training data"
    )
    return "\n".join([facts, *(str(path) for path in (made.probability_path, made.mask_path))])
