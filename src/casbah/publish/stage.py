"""The publish stage: what was made becomes a STAC collection that others read from one address.

    collection.json            what it is, where, when, by which model, whom to name
    items/prediction.json      the map, items/footprints.json the polygons: assets as relative links
    prediction/, footprints/   the products themselves

The collection is written last: what it links to is there.
"""

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casbah.errors import InputError, unwritable
from casbah.products.footprints import FootprintSet
from casbah.products.manifest import Product
from casbah.products.prediction import Prediction
from casbah.progress import say
from casbah.publishing import upload
from casbah.storage import Location, Store

COLLECTION = "collection.json"
MEDIA = "application/json"
ITEM = "application/geo+json"
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")
"""How an address begins that leads out of a product: a URL or a URN."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


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
        to: `s3://bucket/prefix`, or a directory. What an earlier publishing left there is replaced, file by file:
            readers see the old collection or the new one.
        footprints: The `FootprintSet` of this prediction.
        name: Id of the collection; the last part of `to` by default.
        store: The object store; that of the environment by default.

    Returns the address of `collection.json`. `InputError` where the footprints are of another prediction, the name is
    none of a collection or something else lies there; `WorldError` where the store or the disk fails: run it again,
    what was uploaded is kept.
    """
    opened = Prediction.open(prediction)
    drawn = None if footprints is None else FootprintSet.open(footprints)
    if drawn is not None and drawn.manifest.inputs.get("prediction") != opened.digest:
        raise InputError(f"the footprints {drawn.path} were drawn from another prediction than {opened.path}")
    target = _target(str(to), store)
    name = name or target.name
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name of a collection; up to a hundred letters, digits, dots, dashes and underscores are "
            "wanted: give --name"
        )
    products: dict[str, Product] = {"prediction": opened} | ({"footprints": drawn} if drawn is not None else {})
    items = {kind: json.loads((one.path / "item.json").read_text(encoding="utf-8")) for kind, one in products.items()}
    target.check()
    for kind, product in products.items():
        target.place(kind, product)
    for kind, item in items.items():
        target.write(f"items/{kind}.json", _item(item, kind, name))
    target.write(COLLECTION, collection(name, opened, items))
    say(f"{name} is published at {target.address(COLLECTION)}")
    return target.address(COLLECTION)


def collection(name: str, prediction: Prediction, items: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The STAC collection (version 1.1.0) of a map."""
    info = prediction.info
    boxes = [item["bbox"] for item in items.values()]
    bbox = [min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)]
    properties = items["prediction"]["properties"]
    times = [properties.get("start_datetime") or properties.get("datetime"), properties.get("end_datetime")]
    what = "SIMULATED imagery: not a map of any place. " if info.simulated else ""
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
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
            *({"rel": "item", "href": f"./items/{kind}.json", "type": ITEM} for kind in items),
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
    here = {"href": f"../{COLLECTION}", "type": MEDIA}
    made["links"] = [{"rel": rel, **here} for rel in ("root", "parent", "collection")] + kept
    for asset in made["assets"].values():
        if not ELSEWHERE.match(asset["href"]):
            asset["href"] = f"../{kind}/{asset['href'].removeprefix('./')}"
    return made


@dataclass(frozen=True)
class _Target:
    """Where a collection goes."""

    name: str
    address: Callable[[str], str]
    check: Callable[[], None]
    place: Callable[[str, Product], object]
    write: Callable[[str, dict[str, Any]], None]


def _target(to: str, store: Store | None) -> _Target:
    if to.startswith(("s3://", "minio://")):
        return _in_store(Location.parse(to), store or Store.from_environment())
    return _in_folder(Path(to))


def _in_store(root: Location, store: Store) -> _Target:
    if not root.key.strip("/"):
        raise InputError(f"{root} is a whole bucket; an address in it is wanted, such as {root}maps/pisa")
    root = Location(root.bucket, root.key.strip("/"))

    def check() -> None:
        if store.exists(root / COLLECTION):
            _check_ours(store.read(root / COLLECTION), str(root / COLLECTION))

    return _Target(
        root.key.rsplit("/", 1)[-1],
        lambda name: str(root / name),
        check,
        lambda kind, product: upload(product, root / kind, store),
        lambda name, value: store.write(_text(value), root / name),
    )


def _in_folder(root: Path) -> _Target:
    def check() -> None:
        file = root / COLLECTION
        if file.is_file():
            _check_ours(file.read_bytes(), str(file))
        elif root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise InputError(
                f"{root} already holds something else than a published map; name another place or empty it"
            )

    def place(kind: str, product: Product) -> None:
        product.copy_to(root / kind)

    def write(name: str, value: dict[str, Any]) -> None:
        file = root / name
        partial = file.with_name(f".{file.name}.partial")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(_text(value))
            partial.replace(file)
        except OSError as error:
            raise unwritable(error)(f"{file} can't be written: {error.strerror}") from None
        finally:
            partial.unlink(missing_ok=True)

    return _Target(root.resolve().name, lambda name: str(root / name), check, place, write)


def _check_ours(content: bytes, where: str) -> None:
    """`InputError` where another collection lies there: somebody else's is not to be written over."""
    try:
        found = json.loads(content)
        ours = "casbah:model" in found.get("summaries", {})
    except (ValueError, AttributeError):
        ours = False
    if not ours:
        raise InputError(f"{where} is no collection that Casbah published; name another place")


def _text(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
