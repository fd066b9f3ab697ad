"""The stage itself: find, choose, decide offsets, composite block by block, write the scene."""

import json
import os
import shutil
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.ndimage import minimum_filter

import casbah
from casbah.addresses import shown
from casbah.bands import LEVELS, NODATA, band, select
from casbah.darkness import CHECKED_BANDS, dark_percentiles
from casbah.errors import InputError, WorldError
from casbah.grid import Grid
from casbah.ingest import cells
from casbah.ingest.area import Area, read_area
from casbah.ingest.assets import SCL, Item, resolve, solar_day
from casbah.ingest.catalogue import AROUND, Found, find, newest_processing, one_level
from casbah.ingest.choose import (
    Span,
    below_cloud,
    describe,
    greedy,
    parse_dates,
    split,
)
from casbah.ingest.cogs import write_cogs
from casbah.ingest.composite import block_edge, composite
from casbah.ingest.describe import scene_info, stac_item
from casbah.ingest.glance import ALL_WATER, Glance
from casbah.ingest.offset import Decision, decide
from casbah.ingest.places import Buckets
from casbah.ingest.reading import CACHE_BYTES, Files, Layer, UnreadableAsset
from casbah.ingest.selection import FILE, Choice, ChosenItem, ChosenPeriod, Selection, read_selection, source_of
from casbah.patience import REMOTE, Patience
from casbah.products.manifest import MANIFEST, check_target, read_manifest
from casbah.products.scene import Scene
from casbah.progress import say, task
from casbah.workplace import Workplace, writing

DEFAULT_CLOUD = 20.0
WORKERS = 4
SAMPLE = 400
"""Side of the sample of an item on which its offset is checked, in values: about a COG's smallest overview."""

CLOUDS = (1, 8, 9, 10, 11)
"""SCL classes that are bright and would hide the dark pixels of an item: saturated, cloud, cirrus, snow."""


def ingest(
    *,
    aoi: str | Path,
    output: str | Path,
    start: str | None = None,
    end: str | None = None,
    stac: str | Path | None = None,
    collection: str | None = None,
    max_cloud: float | None = None,
    bands: list[str] | tuple[str, ...] | None = None,
    periods: int | None = None,
    level: str | None = None,
    items: str | Path | None = None,
    offset: int | None = None,
    exclude: Collection[str] = (),
    cell: str = "",
    cell_margin: float = 0.0,
    workers: int = WORKERS,
    patience: Patience | None = None,
) -> Scene:
    """Make a scene: cloud-free median composites of Sentinel-2 over an area, on one 10 m UTM grid.

    Args:
        aoi: polygons as GeoJSON, GeoPackage or any vector file in any CRS; an s3:// or http(s):// address of one; or a
            built-in name (see `casbah.ingest.area.read_area`).
        output: the directory of the scene. A killed run leaves nothing there, and a rerun goes on from its blocks.
        start: first day, ISO (YYYY-MM-DD).
        end: last day, ISO, inclusive.
        stac: a STAC API or a static catalogue: path (of the JSON, or of the directory of a `catalog.json`), http(s)://
            or s3:// address. Passwords and signatures in it reach no message and no file.
        collection: the collection's id, where the catalogue has several of a level.
        max_cloud: percent of an item that may be cloud (0-100), 20 by default; items that do not say pass.
        bands: names in any spelling; all twelve by default.
        periods: time steps, the dates cut into equal parts; 1 by default.
        level: L1C or L2A, where the catalogue has both.
        items: an `items.json` (or the scene that holds it) to make again in place of a search: all that says
            what to search for comes from it, and none of it may be given beside it.
        offset: 0 or 1000, for items of which neither metadata nor pixels tell, or whose pixels dispute an old baseline.
        exclude: ids of items to leave out, for example because a file of theirs is damaged for good.
        cell: name of a grid cell: only what of the area lies in it is read (`casbah.ingest.cells.plan` lists them).
        cell_margin: metres around the cell that are read too.
        workers: threads that read.
        patience: timeouts in seconds and how often to try again.

    Returns the `Scene`: reflectance x 10000 with the baseline offset taken off, 0 where nothing was clear.
    Raises `InputError` for every fault of these inputs, with nothing written; `WorldError` where the network, a store
    or the disk failed. Finished blocks are kept for the next run after that, and after an asset that can't be read.
    """
    patience = patience or Patience()
    output = Path(output)
    stac = None if stac is None else str(stac)
    with writing(output):
        check_target(output, Scene.schema)
    names = select(bands)
    searched = {
        "start": start,
        "end": end,
        "stac": stac,
        "collection": collection,
        "max_cloud": max_cloud,
        "periods": periods,
        "level": level,
        "offset": offset,
    }
    if items is not None:
        _refuse_beside_items(searched)
    max_cloud = DEFAULT_CLOUD if max_cloud is None else max_cloud
    periods = 1 if periods is None else periods
    _check_numbers(max_cloud, workers, level, offset)
    area = cells.part(read_area(aoi, patience), cell, cell_margin)
    request = {
        "aoi": area.lonlat.wkb_hex,
        "cell": cell,
        "bands": names,
        "offset": offset,
        "exclude": sorted(exclude),
        "casbah": casbah.__version__,
    }
    search = None
    if items is None:
        if not (start and end and stac):
            raise InputError("start, end and stac are needed where no item list is given (--items)")
        search = Search(
            area=area,
            span=parse_dates(start, end),
            stac=stac,
            collection=collection,
            max_cloud=max_cloud,
            bands=names,
            periods=periods,
            level=level,
            offset=offset,
            exclude=tuple(exclude),
            buckets=Buckets(stac, str(aoi)),
            patience=patience,
        )
        request |= {
            "dates": str(search.span),
            "stac": stac,
            "collection": collection,
            "max_cloud": max_cloud,
            "periods": periods,
            "level": level,
        }
        origin = _origin(search)
    else:
        request |= {"items": read_selection(items).to_geojson()}
        origin = _origin_of(Path(items))
    origin |= {"exclude": sorted(exclude)}
    workplace = Workplace(output, request, "ingest")
    # GDAL's own limit is a share of the machine's memory, whoever else needs it.
    cache = rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES)
    with workplace.held(), cache, Files(patience) as files, ThreadPoolExecutor(workers) as pool:
        _tell_of(workplace.others())
        with workplace.making(Scene.schema, keep=_worth_keeping):
            selection = _selection(workplace, search, items, exclude, files, pool)
            maker = Maker(area, selection, names, workplace, files, pool, workers)
            maker.prepare(output)
            maker.composite_all()
            files.close()
            with Scene.write(workplace.draft, parameters=_parameters(selection, area, names) | origin) as draft:
                maker.write(draft.directory)
    return Scene.open(output, verify=False)


def _worth_keeping(fault: BaseException) -> bool:
    """Whether finished blocks are worth going on from: a file that can't be read may be fetched again, or left out."""
    return isinstance(fault, UnreadableAsset) or not isinstance(fault, InputError)


@dataclass(frozen=True)
class Search:
    """What is looked for."""

    area: Area
    span: Span
    stac: str
    collection: str | None
    max_cloud: float
    bands: tuple[str, ...]
    periods: int
    level: str | None
    offset: int | None
    exclude: tuple[str, ...]
    buckets: Buckets
    patience: Patience

    def find(self) -> Found:
        """The items over the area, each with addresses that can be read."""
        say(f"searching {shown(self.stac)} for {self.span}")
        found = find(
            self.stac,
            self.area,
            self.span.start,
            self.span.end,
            collection=self.collection,
            level=self.level,
            patience=self.patience,
            exclude=self.exclude,
        )
        return replace(found, items=[self.buckets.placed(item, self.bands) for item in found.items])


def _selection(
    workplace: Workplace,
    search: Search | None,
    items: str | Path | None,
    exclude: Collection[str],
    files: Files,
    pool: ThreadPoolExecutor,
) -> Selection:
    """What is composited: what an earlier run chose, what an item list says, or what is chosen now."""
    saved = workplace.path / FILE
    if not saved.exists():
        return choose(search, files, pool) if search else read_selection(str(items)).without(exclude)
    selection = read_selection(saved)
    say(f"going on with what an earlier run of the same ingest left in {workplace.path}")
    # Signatures are kept in no file, and are good for an hour at most.
    return selection if selection.complete or not search else selection.renewed(search.find().items)


def choose(search: Search, files: Files, pool: ThreadPoolExecutor) -> Selection:
    """Find items and choose those of each period; decide what each one's offset is."""
    found = search.find()
    _need_some(found, search)
    of_level, level = one_level(found.items, search.level)
    clear = newest_processing(below_cloud(of_level, search.max_cloud))
    if not clear:
        raise InputError(
            f"none of the {len(of_level)} items over {search.area.name} from {search.span} has at most "
            f"{search.max_cloud:g} % cloud; raise --max-cloud or widen the dates: there are "
            f"{describe(of_level, search.span)}"
        )
    glance = Glance(search.area, files)
    chosen = [(part, _best(items, part, search, glance)) for part, items in split(search.span, clear, search.periods)]
    everything = [item for _, items in chosen for item in items]
    decisions = dict(
        zip(
            (item["id"] for item in everything),
            pool.map(lambda item: _offset(item, search, files), everything),
            strict=True,
        )
    )
    _refuse_sea(everything, decisions, search.area, glance)
    for name, decision in decisions.items():
        if decision.disputed:
            say(f"item {name}: an offset of {decision.offset} is taken off: {decision.reason}")
    return Selection(
        Choice(
            level=level,
            periods=tuple(_chosen_period(part, items, decisions) for part, items in chosen),
            attributions=found.attributions,
            simulated=found.simulated,
        ),
        {item["id"]: item for item in everything},
    )


def _need_some(found: Found, search: Search) -> None:
    if found.items:
        return
    name, stac = search.area.name, shown(search.stac)
    if not found.other_dates:
        nowhere = "at all" if found.everywhen else f"from {search.span}, nor within {AROUND.days} days of it"
        raise InputError(
            f"{stac} has no item over {name} {nowhere}; check the dates, --stac, --collection, and the area's place: "
            "of the open sea there is no imagery"
        )
    raise InputError(
        f"{stac} has no item over {name} from {search.span}; widen the dates: the nearest are "
        f"{describe(found.other_dates, search.span)}"
    )


def _best(items: list[Item], part: Span, search: Search, glance: Glance) -> list[Item]:
    """The items of one period, best first."""
    inside = [glance.covered(item) for item in items]
    picked = [items[i] for i in greedy(items, inside, lambda i: glance.clear(items[i]))]
    if not picked:
        fewer = " or ask for fewer --periods" if search.periods > 1 else ""
        raise InputError(
            f"every item over {search.area.name} from {part} with at most {search.max_cloud:g} % cloud "
            f"is all cloud or empty there ({describe(items, part)}); widen the dates{fewer}"
        )
    return picked


def _refuse_sea(items: list[Item], decisions: dict[str, Decision], area: Area, glance: Glance) -> None:
    """`InputError` where every chosen item shows nothing but water."""
    for item in items:
        share = glance.water(item, decisions[item["id"]].offset)
        if share is None or share < ALL_WATER:
            return
    days = ", ".join(sorted({solar_day(item).isoformat() for item in items}))
    if area.cell:
        say(f"{area.name} is nothing but water on {days}")
        return
    raise InputError(
        f"the area {area.name} lies at sea or on a lake: at least {100 * ALL_WATER:g} % of what is clear there on "
        f"{days} is water; give an area with land"
    )


def _chosen_period(part: Span, items: list[Item], decisions: dict[str, Decision]) -> ChosenPeriod:
    return ChosenPeriod(
        start=part.start.isoformat(),
        end=part.end.isoformat(),
        items=tuple(
            ChosenItem(
                id=item["id"],
                day=solar_day(item).isoformat(),
                offset=decisions[item["id"]].offset,
                reason=decisions[item["id"]].reason,
            )
            for item in items
        ),
    )


def _offset(item: Item, search: Search, files: Files) -> Decision:
    keys = resolve(item)
    checked = [name for name in CHECKED_BANDS if name in keys] or [name for name in search.bands if name in keys]
    wanted = {name: keys[name] for name in (*checked, SCL) if name in keys}
    source = source_of(item, tuple(checked))
    dark = []
    for name in checked:
        values = files.sample(source.layers[name], SAMPLE, search.area.grid).astype(np.uint16, copy=False)
        usable = minimum_filter((values != NODATA).view(np.uint8), 3).astype(bool)
        if source.scl is not None:
            usable &= _not_bright(files.sample(source.scl, SAMPLE, search.area.grid), values.shape)
        percentiles = dark_percentiles(values, usable)
        if percentiles is not None:
            dark.append(percentiles)
    return decide(item, wanted, np.array(dark) if dark else None, search.offset)


def _not_bright(scl: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Where a sampled SCL, brought to another sample's shape, is neither cloud nor snow."""
    rows = (np.arange(shape[0]) * scl.shape[0] // shape[0])[:, None]
    cols = (np.arange(shape[1]) * scl.shape[1] // shape[1])[None, :]
    return ~np.isin(scl[rows, cols], CLOUDS)


class Maker:
    """Composites the chosen items block by block and writes the scene's files."""

    def __init__(
        self,
        area: Area,
        selection: Selection,
        bands: tuple[str, ...],
        workplace: Workplace,
        files: Files,
        pool: ThreadPoolExecutor,
        workers: int,
    ) -> None:
        self.area, self.selection, self.bands = area, selection, bands
        self.workplace, self.files, self.pool, self.workers = workplace, files, pool, workers
        self.steps = selection.steps(bands)
        edge = block_edge(max(len(step.looks) for step in self.steps))
        self.windows = [w for w in area.grid.windows(edge) if self._wanted(w).any()]

    def _wanted(self, window: Window) -> NDArray[np.bool_]:
        return self.area.filled(self._part(window))

    def _part(self, window: Window) -> Grid:
        return self.area.grid.part(window.row_off, window.col_off, window.height, window.width)

    def prepare(self, output: Path) -> None:
        """Save the item list, meet every file once, and say what is going to be read and written."""
        layers = {layer for step in self.steps for source in step.sources for layer in _layers(source)}
        began = time.monotonic()
        list(self.pool.map(self.files.header, sorted(layers, key=lambda layer: (layer.item, layer.band))))
        opened = time.monotonic() - began
        pixels = sum(w.height * w.width for w in self.windows)
        left = sum(w.height * w.width for _, w in self._left())
        to_read = sum(
            2 * w.height * w.width / (band(name).resolution / 10) ** 2
            for t, w in self._left()
            for _ in self.steps[t].sources
            for name in self.bands
        )
        to_write = len(self.steps) * pixels * (2 * len(self.bands) + 1)
        items = len({source.item for step in self.steps for source in step.sources})
        pace = self._pace() * self._readers()
        of_what = "SIMULATED imagery: " if self.selection.choice.simulated else ""
        say(
            f"{of_what}{items} items in {len(self.steps)} period(s) over {self.area.grid.rows} x {self.area.grid.cols} "
            f"pixels ({len(self.windows)} blocks): about {_size(to_read)} of pixels to read, at most "
            f"{_size(to_write)} to write; about {_duration(opened / 10 + to_read / pace)} at the pace of a first read"
        )
        needed = to_write + 2 * (len(self.bands) + 1) * left
        free = shutil.disk_usage(self.workplace.path).free
        if free < needed:
            raise WorldError(
                f"{output.parent} has {_size(free)} free and ingest needs up to {_size(needed)}; "
                "free some or choose another --output"
            )
        saved = self.workplace.path / FILE
        if not saved.exists():
            with writing(output):
                self.save_list(saved)

    def save_list(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self.selection.to_geojson(), indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    def _pace(self) -> float:
        """Bytes of pixels per second that this machine reads from this place, from one band of the first block."""
        source = self.steps[0].sources[0]
        block = self._part(self.windows[0])
        began = time.monotonic()
        values = self.files.read(source.layers[self.bands[-1]], block)
        native = values.nbytes / (band(self.bands[-1]).resolution / 10) ** 2
        return float(native / max(time.monotonic() - began, 1e-3))

    def _readers(self) -> int:
        """How many bands are read at once: from afar as many as there are threads, else at most as there are cores."""
        remote = any(layer.href.startswith(REMOTE) for layer in _layers(self.steps[0].sources[0]))
        return min(self.workers, len(self.bands), self.workers if remote else os.cpu_count() or 1)

    def _left(self) -> list[tuple[int, Window]]:
        """The blocks that no earlier run finished, as period and window."""
        wanted = [(t, w) for t in range(len(self.steps)) for w in self.windows]
        return [(t, w) for t, w in wanted if not self.workplace.block_path(t, w).exists()]

    def composite_all(self) -> None:
        """Make every block that is not there yet."""
        left, wanted = self._left(), len(self.steps) * len(self.windows)
        if len(left) < wanted:
            say(f"{wanted - len(left)} of {wanted} blocks are there from an earlier run")
        with task("ingest", len(left)) as progress:
            for t, window in left:
                self._make(t, window)
                progress.advance(note=f"block {window.row_off},{window.col_off} of period {t}")
        for t, period in enumerate(self.selection.choice.periods):
            self._check_clear(t, f"{period.start} to {period.end}")

    def _make(self, t: int, window: Window) -> None:
        part = self._part(window)
        reflectance, valid = composite(self.steps[t], part, self.files, self.pool)
        filled = self._wanted(window)
        reflectance *= filled
        valid *= filled
        path = self.workplace.block_path(t, window)
        self.workplace.save_block(path, part, [*reflectance, valid.astype(np.uint16)])

    def _check_clear(self, t: int, when: str) -> None:
        """`InputError` where a period has no clear pixel; a word to the person where part of it has none."""
        seen, wanted, anything = 0, 0, False
        for window in self.windows:
            with rasterio.open(self.workplace.block_path(t, window)) as dataset:
                valid = dataset.read(len(self.bands) + 1)
            asked = self.area.inside(self._part(window))
            anything = anything or bool(valid.any())
            seen, wanted = seen + int(((valid > 0) & asked).sum()), wanted + int(asked.sum())
        items = [self.selection.items[source.item] for source in self.steps[t].sources]
        dates = ", ".join(sorted({solar_day(item).isoformat() for item in items}))
        if not anything:
            raise InputError(
                f"there is no clear pixel over {self.area.name} from {when}: all is cloud, shadow or nodata on "
                f"{dates}; widen the dates, raise --max-cloud or ask for fewer --periods"
            )
        if seen < wanted:
            of_what = "SIMULATED imagery: " if self.selection.choice.simulated else ""
            share = 100 * (1 - seen / wanted)
            say(f"{of_what}{share:.2g} % of the area has no clear observation from {when} ({dates})")

    def write(self, directory: Path) -> None:
        """The scene's files: COGs, `item.json` and the item list."""
        blocks = {t: [(self.workplace.block_path(t, w), w) for w in self.windows] for t in range(len(self.steps))}
        info = scene_info(self.selection, self.bands)
        with writing(self.workplace.output):
            for t, parts in blocks.items():
                write_cogs(
                    parts, self.area.grid, self.bands, directory / f"reflectance_{t}.tif", directory / f"valid_{t}.tif"
                )
            self.save_list(directory / FILE)
            (directory / "item.json").write_text(stac_item(info, self.area.grid), encoding="utf-8")


def _layers(source: Any) -> list[Layer]:
    return [*source.layers.values(), *([source.scl] if source.scl else [])]


def _check_numbers(max_cloud: float, workers: int, level: str | None, offset: int | None) -> None:
    if not 0 <= max_cloud <= 100:
        raise InputError(f"max-cloud is {max_cloud:g}; a percentage from 0 to 100 is wanted")
    if workers < 1:
        raise InputError(f"workers is {workers}; at least 1 is wanted")
    if level is not None and level not in LEVELS:
        raise InputError(f"level is {level!r}; {' or '.join(LEVELS)} is wanted")
    if offset not in (None, 0, 1000):
        raise InputError(f"offset is {offset}; 0 or 1000 is wanted")


def _refuse_beside_items(searched: dict[str, Any]) -> None:
    """An item list says all of this itself; to take a flag and not heed it would be a lie."""
    given = [f"--{name.replace('_', '-')}" for name, value in searched.items() if value is not None]
    if given:
        raise InputError(
            f"{', '.join(given)} can't be given with --items: the items, their dates and offsets come from the list; "
            "leave out the one or the other"
        )


def _tell_of(others: list[tuple[Path, int]]) -> None:
    """Say, and not delete: a person may still mean to finish a download of hours with the arguments it began with."""
    for path, size in others:
        say(
            f"{path} ({_size(size)}) is what an unfinished ingest of this output with other arguments (or another "
            "version) left; run that one again to go on from it, or delete the directory"
        )


def _origin(search: Search) -> dict[str, Any]:
    """Where a scene's items were searched for."""
    return {
        "stac": shown(search.stac),
        "collection": search.collection,
        "max_cloud": search.max_cloud,
        "offset": search.offset,
    }


def _origin_of(items: Path) -> dict[str, Any]:
    """The origin of a scene made again: that of the scene which the item list lies in, as far as it is known."""
    folder = items if items.is_dir() else items.parent
    made = read_manifest(folder).parameters if (folder / MANIFEST).is_file() else {}
    names = ("stac", "collection", "max_cloud", "offset")
    return {"again_from": str(items)} | {name: made.get(name) for name in names}


def _parameters(selection: Selection, area: Area, bands: tuple[str, ...]) -> dict[str, Any]:
    return {
        "area": area.name,
        "cell": area.cell,
        "grid": area.grid.to_dict(),
        "bands": list(bands),
        "level": selection.choice.level,
        "periods": [[period.start, period.end] for period in selection.choice.periods],
        "items": sorted(selection.items),
    }


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _duration(seconds: float) -> str:
    return f"{max(seconds, 1):.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
