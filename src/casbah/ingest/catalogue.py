"""Items from where a catalogue lies: a STAC API, or static JSON on disk, on a web server or in the object store."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pystac
import requests
import shapely
from pystac.errors import STACError, STACTypeError
from pystac.stac_io import DefaultStacIO
from pystac.utils import make_absolute_href
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from shapely.errors import ShapelyError

from casbah.addresses import scrubbed, shown
from casbah.errors import CasbahError, InputError, WorldError
from casbah.ingest.area import Area
from casbah.ingest.assets import Item, acquired, baseline_of, level_of, tile_of
from casbah.patience import Patience, causes_of, status_of, why
from casbah.progress import say
from casbah.stac import as_geojson
from casbah.storage import Location, Store

COLLECTIONS = {
    "L2A": ("sentinel-2-l2a", "sentinel-2-c1-l2a", "sentinel-s2-l2a-cogs"),
    "L1C": ("sentinel-2-l1c",),
}
"""What public APIs call the collection of a level, best first."""

MOST_ITEMS = 3000
"""More than eight years of one tile; beyond it a search is a mistake rather than a wish."""

PAGE = 100
AROUND = timedelta(days=180)
"""How far around empty dates a search looks, to tell the person what there is."""


@dataclass(frozen=True)
class Found:
    """Items over the area, in order of time, with what their collections say of attribution and simulation."""

    items: list[Item]
    attributions: tuple[str, ...] = ()
    simulated: bool = False
    other_dates: list[Item] = field(default_factory=list)
    """Items over the area outside of the dates: of all dates, or of `AROUND` where `everywhen` is not set."""
    everywhen: bool = True


class CatalogueIO(StacApiIO):
    """Reads STAC JSON over http, from disk and from the object store, with bounded patience."""

    def __init__(self, patience: Patience) -> None:
        super().__init__(timeout=(patience.connect, patience.read), max_retries=patience.retry())
        self.asked = ""
        """The document that was asked for last: where a fault lies."""

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        self.asked = href = str(source.href if isinstance(source, pystac.Link) else source)
        if href.startswith("s3://"):
            return Store.from_environment().read(Location.parse(href)).decode()
        return super().read_text(source, *args, **kwargs)


class StaticIO(DefaultStacIO):
    """The same for static catalogues, whose collections must not be taken for those of an API."""

    def __init__(self, reader: CatalogueIO) -> None:
        self._reader = reader

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        return self._reader.read_text(source, *args, **kwargs)


def find(
    stac: str,
    area: Area,
    start: date,
    end: date,
    *,
    collection: str | None,
    level: str | None,
    patience: Patience,
    exclude: Collection[str] = (),
    most: int = MOST_ITEMS,
) -> Found:
    """Every item that overlaps the area, from `start` to `end` (both inclusive), whatever its cloud cover.

    An API that has `most` of them or more is refused.
    Items whose id is in `exclude` are left out before anything is asked of them. Raises `InputError` where there is no
    catalogue or no such collection, `WorldError` where it does not answer.
    """
    stac = _document(stac)
    io = CatalogueIO(patience)
    try:
        root = io.read_json(stac)
        read = _search(stac, io, area, start, end, collection, level, most) if _is_api(root) else None
        items, about, everywhen = read or _walk(stac, root, io, collection)
        return _found(_without(items, exclude), about, area, start, end, everywhen)
    except CasbahError:
        raise
    except Exception as error:
        known = _known_fault(stac, io.asked, error, patience)
        if known is None:
            raise
        raise known from None


def _document(stac: str) -> str:
    """The address of the root document; `InputError` where it can't be one."""
    if not stac.strip():
        raise InputError("no catalogue is given; --stac takes a STAC API, or a static catalogue's catalog.json")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", stac)
    if scheme and scheme[1] not in ("http", "https", "s3"):
        raise InputError(
            f"the catalogue {shown(stac)} is at an address of the kind {scheme[1]}://, which ingest does not read; a "
            "path, http(s):// or s3:// is wanted"
        )
    if not scheme and Path(stac).is_dir():
        if not (Path(stac) / "catalog.json").is_file():
            raise InputError(
                f"the catalogue {stac} is a directory without a catalog.json; give the path of a static catalogue's "
                "JSON, or the address of a STAC API"
            )
        return str(Path(stac) / "catalog.json")
    return stac


def _without(items: list[Item], exclude: Collection[str]) -> list[Item]:
    unknown = sorted(set(exclude) - {str(item["id"]) for item in items})
    if unknown:
        say(f"{', '.join(unknown)} of --exclude is not among the items found")
    return [item for item in items if item["id"] not in exclude]


def _known_fault(stac: str, asked: str, error: Exception, patience: Patience) -> CasbahError | None:
    """The sentence for a fault of a catalogue, looked for under what pystac wraps around it; None for a defect."""
    name = shown(stac)
    for cause in causes_of(error):
        if isinstance(cause, CasbahError):
            return cause
        if isinstance(cause, FileNotFoundError):
            return InputError(f"the catalogue {name} lacks {cause.filename or cause}; check --stac")
        if isinstance(cause, APIError | requests.RequestException):
            return _refused(name if asked == stac else f"{name} ({shown(asked)})", cause, patience)
        if isinstance(cause, OSError):
            return InputError(f"the catalogue {name} can't be read: {cause.strerror or cause}; check --stac")
    if isinstance(error, ValueError | STACError | STACTypeError | KeyError | TypeError):
        reason = scrubbed(f"{type(error).__name__}: {error}")
        return InputError(f"{name} is no STAC catalogue that can be read ({reason})")
    return None


def _refused(place: str, error: BaseException, patience: Patience) -> CasbahError:
    status = status_of(error)
    if status in (400, 404, 422):
        return InputError(
            f"the STAC catalogue {place} answered {status}: {scrubbed(str(error)) or 'no reason given'}; check --stac "
            "and --collection"
        )
    if status in (401, 403):
        return WorldError(
            f"the STAC catalogue {place} refused to answer ({status}); check the user, password or token in --stac"
        )
    return WorldError(
        f"the STAC catalogue {place} did not answer after {patience.attempts} attempts ({why(error)}); try again later"
    )


def _is_api(root: dict[str, Any]) -> bool:
    links = root.get("links", [])
    return "conformsTo" in root and any(link.get("rel") == "search" for link in links)


Read = tuple[list[Item], list[dict[str, Any]], bool]
"""Items, what is said of their collections, and whether items of every date are among them."""


def _search(
    stac: str,
    io: CatalogueIO,
    area: Area,
    start: date,
    end: date,
    collection: str | None,
    level: str | None,
    most: int,
) -> Read:
    # Without it, opening would take the timeout off `io` again.
    client = Client.open(stac, stac_io=io, timeout=io.timeout)
    chosen = collection or _collection(client, stac, level or "L2A")
    shape = area.lonlat if shapely.get_num_coordinates(area.lonlat) < 500 else shapely.convex_hull(area.lonlat)
    when = f"{start.isoformat()}T00:00:00Z/{end.isoformat()}T23:59:59Z"
    search = client.search(
        collections=[chosen], intersects=as_geojson(shape), datetime=when, limit=PAGE, max_items=most
    )
    items = [_absolute(item, _self_href(item) or stac) for item in search.items_as_dicts()]
    if len(items) >= most:
        raise InputError(f"{shown(stac)} holds more than {most} items from {start} to {end}; narrow the dates")
    if not items:
        around = f"{(start - AROUND).isoformat()}T00:00:00Z/{(end + AROUND).isoformat()}T23:59:59Z"
        search = client.search(
            collections=[chosen], intersects=as_geojson(shape), datetime=around, limit=PAGE, max_items=2 * PAGE
        )
        items = list(search.items_as_dicts())
    about = client.get_collection(chosen)
    entries = [about.to_dict(include_self_link=False, transform_hrefs=False)] if about else []
    return items, entries, False


def _collection(client: Client, stac: str, level: str) -> str:
    ids = sorted(collection.id for collection in client.get_collections())
    for known in COLLECTIONS[level]:
        if known in ids:
            return known
    of_level = [name for name in ids if level.lower() in name.lower()]
    if len(of_level) == 1 or len(ids) == 1:
        return (of_level or ids)[0]
    raise InputError(
        f"{shown(stac)} has no collection that is plainly Sentinel-2 {level}; name one with --collection: "
        f"{', '.join(ids)}"
    )


def _walk(stac: str, root: dict[str, Any], io: CatalogueIO, collection: str | None) -> Read:
    kind, name = root.get("type"), shown(stac)
    if kind == "FeatureCollection":
        items, about = _listed(stac, root["features"]), []
    elif kind in ("Catalog", "Collection"):
        catalogue = (pystac.Collection if kind == "Collection" else pystac.Catalog).from_file(
            stac, stac_io=StaticIO(io)
        )
        found = list(catalogue.get_items(recursive=True))
        items = [_absolute(item.to_dict(transform_hrefs=False), item.get_self_href() or stac) for item in found]
        parents = [catalogue, *(parent for parent, _, _ in catalogue.walk())]
        about = [parent.to_dict(include_self_link=False, transform_hrefs=False) for parent in parents]
    else:
        raise InputError(
            f"{name} is a STAC {kind or 'document of no type'}; a catalogue, a collection or an API is wanted"
        )
    if collection is not None:
        ids = sorted({str(item.get("collection")) for item in items})
        items = [item for item in items if item.get("collection") == collection]
        if not items:
            raise InputError(
                f"{name} has no item of collection {collection!r}; it has {', '.join(ids) or 'none at all'}"
            )
    used = {item.get("collection") for item in items}
    return items, [entry for entry in about if entry["id"] in used], True


def _listed(stac: str, features: list[dict[str, Any]]) -> list[Item]:
    """The items of a FeatureCollection, whose relative addresses count from where each item says that it lies."""
    items = [feature for feature in features if "stac_version" in feature or "assets" in feature]
    if features and not items:
        raise InputError(
            f"{shown(stac)} is a FeatureCollection without a STAC item; a catalogue, a collection or an API is wanted "
            "(an area goes to --aoi)"
        )
    place = stac if "://" in stac else str(Path(stac).absolute())
    return [_absolute(item, make_absolute_href(_self_href(item) or place, place)) for item in items]


def _found(
    items: list[Item], about: Iterable[dict[str, Any]], area: Area, start: date, end: date, everywhen: bool
) -> Found:
    bare = sorted(str(item["id"]) for item in items if not item.get("geometry") or not item.get("assets"))
    if bare:
        say(f"{len(bare)} of {len(items)} items have no geometry or no assets: left out ({named_few(bare)})")
    over = [item for item in items if item["id"] not in bare and _overlaps(item, area)]
    over.sort(key=lambda item: (acquired(item), item["id"]))
    inside = [item for item in over if start <= acquired(item).date() <= end]
    entries = {entry["id"]: entry for entry in about}.values()
    attributions = tuple(dict.fromkeys(str(entry["attribution"]) for entry in entries if entry.get("attribution")))
    marks = [*entries, *(item["properties"] for item in inside)]
    simulated = any(mark.get("casbah:simulated") or mark.get("summaries", {}).get("casbah:simulated") for mark in marks)
    return Found(inside, attributions, simulated, [item for item in over if item not in inside], everywhen)


def named_few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _overlaps(item: Item, area: Area) -> bool:
    try:
        footprint = shapely.make_valid(shapely.geometry.shape(item["geometry"]))
    except (ShapelyError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InputError(
            f"item {item['id']} has a geometry that can't be read ({scrubbed(str(error))}); take it out of the "
            f"catalogue or leave it out with --exclude {item['id']}"
        ) from None
    return bool(shapely.intersects(footprint, area.lonlat))


def one_level(items: list[Item], level: str | None) -> tuple[list[Item], str]:
    """The items of one level, and which one that is; `InputError` where they mix or do not say."""
    said = {item["id"]: level_of(item) for item in items}
    if level is not None:
        kept = [item for item in items if said[item["id"]] in (level, None)]
        if not kept:
            others = ", ".join(sorted({str(value) for value in said.values()}))
            raise InputError(
                f"no item of level {level} was found, only {others}; leave --level out or choose another catalogue"
            )
        return kept, level
    counts = {value: sum(1 for other in said.values() if other == value) for value in said.values()}
    if None in counts:
        silent = next(name for name, value in said.items() if value is None)
        raise InputError(f"item {silent} does not say whether it is L1C or L2A; say it with --level")
    if len(counts) > 1:
        listing = " and ".join(f"{count} of {value}" for value, count in sorted(counts.items(), key=str))
        raise InputError(
            f"the catalogue mixes levels ({listing}), and one scene holds one: choose with --level L2A or --level L1C"
        )
    return items, str(next(iter(counts)))


def newest_processing(items: list[Item]) -> list[Item]:
    """Of several processings of one acquisition (same tile, platform and minute), the one of the highest baseline."""
    groups: dict[tuple[Any, ...], list[Item]] = {}
    for item in items:
        moment = acquired(item).replace(second=0, microsecond=0)
        tile = tile_of(item)
        key = (
            (item["id"],)
            if tile is None
            else (tile, item["properties"].get("platform"), moment, item.get("collection"))
        )
        groups.setdefault(key, []).append(item)
    kept = []
    for group in groups.values():
        newest = max(baseline_of(item) or "" for item in group)
        # Two of one baseline are two data strips of one overpass: each holds a part, and both are wanted.
        kept += [item for item in group if (baseline_of(item) or "") == newest]
    if len(kept) < len(items):
        say(f"left out {len(items) - len(kept)} items that are older processings of the same acquisition")
    return kept


def _self_href(item: Item) -> str | None:
    hrefs = {link.get("rel"): link.get("href") for link in item.get("links", [])}
    return hrefs.get("self") or hrefs.get("canonical")


def _absolute(item: Item, base: str) -> Item:
    """The item with absolute asset hrefs and without links, which a replay needs not and which age."""
    assets = {
        key: asset | {"href": make_absolute_href(asset["href"], base)} for key, asset in item.get("assets", {}).items()
    }
    return {key: value for key, value in item.items() if key != "links"} | {"assets": assets, "links": []}
