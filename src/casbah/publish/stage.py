"""The publish stage: what was made becomes a STAC collection that others read from one address.

    collection.json                        what it is, where, when, by which model, whom to name
    <prefix>/items/prediction.json         the map, footprints.json the polygons: assets as relative links
    <prefix>/prediction/, …/footprints/    the products themselves

The prefix follows from what lies below it, so that another map never touches the files of the one before. The items
come first: they tell whose the files beside them are. The collection comes last: what it links to is there.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from casbah.errors import CasbahError, InputError
from casbah.products.footprints import FootprintSet
from casbah.products.manifest import MANIFEST, Product
from casbah.products.prediction import Prediction
from casbah.progress import say
from casbah.publish.places import Place, place_of
from casbah.stac import STAC_VERSION
from casbah.storage import Store

COLLECTION = "collection.json"
MEDIA = "application/json"
ITEM = "application/geo+json"
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")
"""How an address begins that leads out of a product: a URL or a URN."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

KIND = "prediction|footprints"
LINK = re.compile(rf"\./(?P<prefix>(?:[0-9a-f]{{16}}/)?)items/(?P<kind>{KIND})\.json")
"""How a collection of ours links to an item. Without a prefix, as Casbah published once, the root itself is one."""

ITEM_FILE = re.compile(rf"(?P<prefix>(?:[0-9a-f]{{16}}/)?)items/(?P<kind>{KIND})\.json")
PRODUCT_FILE = re.compile(rf"(?P<prefix>(?:[0-9a-f]{{16}}/)?)(?:(?P<kind>{KIND})/|\.(?P<cut>{KIND})\.partial-).*")
UNFINISHED = re.compile(rf"\.collection\.json\.partial|[0-9a-f]{{16}}/(?:items/(?:\.(?:{KIND})\.json\.partial)?)?")
"""What a killed publishing to a folder leaves beside items and products: small files half written, empty folders."""


def publish(
    *,
    prediction: str | Path,
    to: str | Path,
    footprints: str | Path | None = None,
    name: str | None = None,
    store: Store | None = None,
) -> str:
    """Put a prediction, and the footprints drawn from it, under one address as a STAC collection.

    Args:
        prediction: The `Prediction`.
        to: `s3://bucket/prefix`, or a directory, for one publishing at a time. Readers see the collection of an
            earlier publishing or the new one, at every moment; the earlier one's files are removed afterwards, so who
            still holds that collection may find them gone, and has to read `collection.json` again.
        footprints: The `FootprintSet` of this prediction.
        name: Id of the collection; the last part of `to` by default.
        store: The object store; that of the environment by default.

    Returns the address of `collection.json`. `InputError` where the footprints are of another prediction, the name is
    none of a collection or something else lies there; `WorldError` where the store or the disk fails: run it again,
    the products that arrived whole are kept. That earlier files can't be removed is said and no fault of the
    publishing: the next one removes them.
    """
    opened = Prediction.open(prediction)
    drawn = None if footprints is None else FootprintSet.open(footprints)
    if drawn is not None and drawn.manifest.inputs.get("prediction") != opened.digest:
        raise InputError(f"the footprints {drawn.path} were drawn from another prediction than {opened.path}")
    place = place_of(str(to), store)
    name = name or place.name
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name of a collection; up to a hundred letters, digits, dots, dashes and underscores are "
            "wanted: give --name"
        )
    products: dict[str, Product] = {"prediction": opened} | ({"footprints": drawn} if drawn is not None else {})
    items = {kind: json.loads((one.path / "item.json").read_text(encoding="utf-8")) for kind, one in products.items()}
    texts = {kind: _text(_item(item, kind, name)) for kind, item in items.items()}
    prefix = _prefix(products, texts)
    earlier = check_place(place)
    for kind, text in texts.items():
        _write(place, f"{prefix}/items/{kind}.json", text)
    for kind, product in products.items():
        place.put(f"{prefix}/{kind}", product)
    _write(place, COLLECTION, _text(collection(name, opened, items, prefix)))
    say(f"{name} is published at {place.address(COLLECTION)}")
    _remove_earlier(place, prefix, earlier)
    return place.address(COLLECTION)


def collection(name: str, prediction: Prediction, items: Mapping[str, dict[str, Any]], prefix: str) -> dict[str, Any]:
    """The STAC collection (version 1.1.0) of a map whose items lie below `prefix`."""
    info = prediction.info
    boxes = [item["bbox"] for item in items.values()]
    bbox = [min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)]
    properties = items["prediction"]["properties"]
    times = [properties.get("start_datetime") or properties.get("datetime"), properties.get("end_datetime")]
    what = "SIMULATED imagery: not a map of any place. " if info.simulated else ""
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "id": name,
        "title": f"Buildings by {info.model.name}",
        "description": f"{what}Probability of building by {info.model.name} from Sentinel-2 "
        f"{info.level}, {prediction.grid.resolution:g} m, and what it calls building from {info.threshold:.2f} on. "
        + " ".join(f"{sentence.rstrip('.')}." for sentence in info.attribution),
        "license": "other",
        "providers": [{"name": sentence, "roles": ["licensor"]} for sentence in info.attribution],
        "extent": {"spatial": {"bbox": [bbox]}, "temporal": {"interval": [[times[0], times[1] or times[0]]]}},
        "summaries": {"casbah:model": [info.model.digest], "casbah:simulated": [info.simulated]},
        "links": [
            {"rel": "root", "href": f"./{COLLECTION}", "type": MEDIA},
            *({"rel": "item", "href": f"./{prefix}/items/{kind}.json", "type": ITEM} for kind in items),
        ],
    }


def _item(item: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """An item as it stands in its product, its assets seen from `items/`, and the collection that it is of."""
    made = copy.deepcopy(item)
    made["collection"] = name
    kept = [link for link in made.get("links", []) if link["rel"] not in ("root", "parent", "collection", "self")]
    for link in kept:
        if not ELSEWHERE.match(link["href"]):
            # The one product that lies beside another one: polygons know where their map lay.
            link["href"] = "./prediction.json"
    here = {"href": f"../../{COLLECTION}", "type": MEDIA}
    made["links"] = [{"rel": rel, **here} for rel in ("root", "parent", "collection")] + kept
    for asset in made["assets"].values():
        if not ELSEWHERE.match(asset["href"]):
            asset["href"] = f"../{kind}/{asset['href'].removeprefix('./')}"
    return made


def _prefix(products: Mapping[str, Product], items: Mapping[str, bytes]) -> str:
    """Sixteen hexadecimal digits of the sha256 over the products' digests and their items: other files, another one."""
    content = {kind: [product.digest, items[kind].decode()] for kind, product in products.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def check_place(place: Place) -> dict[str, Any] | None:
    """The collection of an earlier publishing; None where there is none.

    `InputError` where something else lies there than what publishings write: somebody else's is not to be written over.
    """
    content = place.read(COLLECTION)
    if content is not None:
        found = _parsed(content)
        summaries = found.get("summaries")
        if not isinstance(summaries, dict) or "casbah:model" not in summaries:
            raise InputError(f"{place.address(COLLECTION)} is no collection that Casbah published; name another place")
        return found
    names = []
    for name in place.names():
        # The first name that can't be ours is enough: there may be millions.
        if not any(shape.fullmatch(name) for shape in (ITEM_FILE, PRODUCT_FILE, UNFINISHED)):
            raise _occupied(place, name)
        names.append(name)
    ours = set(_ours(place, names))
    for name in names:
        if name not in ours:
            raise _occupied(place, name)
    return None


def _occupied(place: Place, name: str) -> InputError:
    return InputError(
        f"{place.address('').rstrip('/')} already holds something else than a published map ({name}); name another "
        "place or empty it"
    )


def _remove_earlier(place: Place, prefix: str, earlier: dict[str, Any] | None) -> None:
    """Remove what earlier publishings left, finished or not."""
    hrefs = [link.get("href") for link in (earlier or {}).get("links", []) if isinstance(link, dict)]
    linked = {(found["prefix"], found["kind"]) for href in hrefs if (found := LINK.fullmatch(str(href)))}
    kept = re.compile(rf"{prefix}/(?:{KIND}|items)/[^.].*")
    try:
        for name in _ours(place, [name for name in place.names() if not kept.fullmatch(name)], linked):
            place.remove(name)
    except CasbahError as error:
        say(f"what earlier publishings left could not all be removed ({error}); publish once more to remove it")


def _ours(place: Place, names: Iterable[str], linked: Iterable[tuple[str, str]] = ()) -> list[str]:
    """The names that publishings wrote, in the order in which they may be removed: a removal that is cut off leaves
    what tells the next one whose the rest is. `linked` are prefixes and kinds that are known to be ours."""
    known = dict.fromkeys(linked, True)
    ranked = []
    for name in names:
        if UNFINISHED.fullmatch(name):
            ranked.append((0, name))
        elif found := PRODUCT_FILE.fullmatch(name) or ITEM_FILE.fullmatch(name):
            part = found.groupdict()
            key = (part["prefix"], part["kind"] or part["cut"])
            if key not in known:
                known[key] = _is_item(place.read(f"{key[0]}items/{key[1]}.json"))
            if known[key]:
                ranked.append((2 if found.re is ITEM_FILE else int(name.endswith(f"/{MANIFEST}")), name))
    return [name for _, name in sorted(ranked)]


def _is_item(content: bytes | None) -> bool:
    """Whether this is an item that Casbah published."""
    item = _parsed(content or b"")
    properties = item.get("properties")
    return "collection" in item and isinstance(properties, dict) and "casbah" in properties


def _parsed(content: bytes) -> dict[str, Any]:
    """A JSON object; an empty one where the content is none."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(place: Place, name: str, content: bytes) -> None:
    if place.read(name) != content:
        place.write(name, content)


def _text(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
