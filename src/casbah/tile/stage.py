"""The stage itself: checks its arguments, decides on lattice, tiles and splits, and writes the product."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
from shapely.geometry import box

from casbah.errors import InputError, WorldError
from casbah.products.manifest import Draft, check_target
from casbah.products.scene import Scene
from casbah.products.tiles import SPLITS, TileFolds, TileInfo, TileSet
from casbah.progress import say
from casbah.tile import radiometry, splitting
from casbah.tile.alignment import Alignment, MovableLabels
from casbah.tile.geotiff import write_geotiff
from casbah.tile.lattice import Lattice, lattice
from casbah.tile.plan import IN_TEST_SCENE, Plan, plan
from casbah.tile.sources import Source, check_apart, open_sources
from casbah.tile.splitting import Assignment
from casbah.tile.statistics import statistics
from casbah.tile.store import TileWriter, write_tiles
from casbah.tile.summary import summarise

TEST_FRACTION = 0.2
"""Share of blocks to test on."""

MAX_IGNORE = 0.5
"""Share of a tile's pixels that may be ignored, or unobserved in a period, before it is dropped."""

LOW_USE = 0.6
"""Share of a block's area under tiles below which the person is told which block size would waste less."""


@dataclass(frozen=True)
class Choices:
    """The arguments of `tile` that shape a split."""

    test_fraction: float | None
    """None where folds or a scene decide what is tested."""
    val_fraction: float
    folds: int
    seed: int
    test_scene: str | None
    align: bool
    layout: str
    max_ignore: float
    few_labels: float
    """Share of the test scene's blocks that are trained on."""
    normalise: str


@dataclass(frozen=True)
class Cut:
    """One TileSet to write: where below the output (empty: the output itself), and who is in which split."""

    name: str
    assign: Mapping[int, Assignment]
    fold: int | None = None
    refit: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that may not be empty."""
        return ("train", "val") if self.refit else SPLITS


def tile(
    *,
    scenes: Sequence[str | Path],
    labels: Sequence[str | Path],
    output: str | Path,
    tile_size: int = 224,
    stride: int | None = None,
    block_size: float | None = None,
    guard: float | None = None,
    test_fraction: float | None = None,
    val_fraction: float = 0.1,
    folds: int = 1,
    align: bool = False,
    seed: int = 0,
    test_scene: str | None = None,
    layout: str = "npy",
    max_ignore: float = MAX_IGNORE,
    few_labels: float = 0.0,
    normalise: str = "none",
) -> TileSet | TileFolds:
    """Cut scenes and their labels into train, val and test tiles that are spatially apart.

    `scenes` and `labels` are paired in order. `tile_size` and `stride` are pixels, `block_size` and `guard` metres
    (defaults in `casbah.tile.lattice`). Blocks of the fixed UTM lattice take their split from a hash of their name and
    the seed (`casbah.tile.splitting`), so that they keep it when the area or the labels grow; tiles of different blocks
    are at least `guard` apart. `test_fraction` of the blocks (by default `TEST_FRACTION`) are tested. With `folds`
    K > 1 the result is a `TileFolds` instead: `fold_0` to `fold_<K-1>`, in which each block is tested exactly once, and
    `refit`. `test_scene` makes one whole scene the test split, but for the share `few_labels` of its blocks, which are
    trained on. `align` moves the footprints of each split by the shift that its own blocks show. `normalise="scene"`
    brings every scene to the same mean and deviation (`casbah.tile.radiometry`: a test scene by its own images).
    `layout="geotiff"` also writes the folders that TerraTorch's `GenericNonGeoSegmentationDataModule` reads, below
    `geotiff/`. A tile with more than `max_ignore` of its pixels ignored, or unobserved in a period, is dropped and
    counted.

    Raises `InputError` where scenes and labels do not fit each other, an argument is out of range, a tile fits no block
    or scene, or a split would be empty; nothing is written then.
    """
    _check_needless(test_fraction, folds, test_scene)
    if test_fraction is None and folds == 1 and test_scene is None:
        test_fraction = TEST_FRACTION
    choices = Choices(
        test_fraction, val_fraction, folds, seed, test_scene, align, layout, max_ignore, few_labels, normalise
    )
    _check(choices)
    check_target(Path(output), TileFolds.schema if folds > 1 else TileSet.schema)
    sources = open_sources(scenes, labels)
    sizes: dict[str, Any] = {"tile_size": tile_size, "stride": stride, "block_size": block_size, "guard": guard}
    lattices = [lattice(source.grid, **sizes) for source in sources]
    check_apart(sources, lattices[0].guard * lattices[0].resolution)
    _tell_of_waste(lattices[0])
    found = plan(sources, lattices, max_ignore)
    cuts = _cuts(choices, sources, lattices, found)
    for cut in cuts:
        _check_filled(cut, found, lattices, choices)
    movable = [MovableLabels(source) for source in sources]
    alignments = [Alignment.of(cut.assign, movable, lattices, found.blocks) if align else None for cut in cuts]
    parameters = {"scenes": [s.name for s in sources], **sizes, **vars(choices)}
    inputs = _inputs(sources)
    write = _Writing(Path(output), cuts, alignments, sources, lattices, found, choices, parameters, inputs)
    say(f"{found.tiles} tiles in {len(found.blocks)} blocks; {write.megabytes:.0f} MB to write")
    return write.folds() if folds > 1 else write.single()


def _check_needless(test_fraction: float | None, folds: int, test_scene: str | None) -> None:
    """`InputError` where two arguments say what is tested, and one of them would be passed over."""
    if folds > 1 and test_scene is not None:
        raise InputError("--folds tests every block once and --test-scene tests one scene; give one of them")
    if test_fraction is not None and (folds > 1 or test_scene is not None):
        other = "--folds" if folds > 1 else "--test-scene"
        raise InputError(
            f"{other} says what is tested, so --test-fraction {test_fraction:g} changes nothing: leave it out"
        )


def _check(choices: Choices) -> None:
    test = choices.test_fraction
    for name, value in (("test", test), ("val", choices.val_fraction)):
        if value is not None and not 0 < value < 1:
            raise InputError(f"the {name} fraction is {value:g}; more than 0 and less than 1 is wanted")
    if test is not None and test + choices.val_fraction >= 1:
        raise InputError(
            f"the test fraction {test:g} and the val fraction {choices.val_fraction:g} leave nothing "
            "to train on; their sum must be less than 1"
        )
    if choices.folds < 1:
        raise InputError(f"the number of folds is {choices.folds}; 1 (no folds) or more is wanted")
    if choices.folds > 1 and choices.val_fraction >= 1 - 1 / choices.folds:
        raise InputError(
            f"with {choices.folds} folds, a val fraction of {choices.val_fraction:g} leaves nothing to train on; "
            f"less than {1 - 1 / choices.folds:g} is wanted"
        )
    if not 0 <= choices.few_labels < 1:
        raise InputError(f"the share of few labels is {choices.few_labels:g}; 0 or more and less than 1 is wanted")
    if choices.few_labels and choices.test_scene is None:
        raise InputError("--few-labels is a share of the blocks of --test-scene, and none is named: give both or none")
    if choices.normalise not in ("none", "scene"):
        raise InputError(f"the normalisation {choices.normalise!r} is unknown; choose none or scene")
    if choices.layout not in ("npy", "geotiff"):
        raise InputError(f"the layout {choices.layout!r} is unknown; choose npy or geotiff")
    if not 0 <= choices.max_ignore < 1:
        raise InputError(f"the largest ignored share is {choices.max_ignore:g}; 0 or more and less than 1 is wanted")


def _tell_of_waste(lattice: Lattice) -> None:
    if lattice.used >= LOW_USE:
        return
    tiles = max(1, round((lattice.block - lattice.guard) / lattice.tile))
    # A small block is mostly guard, however well its tiles fit.
    while (tiles * lattice.tile / (tiles * lattice.tile + lattice.guard)) ** 2 < LOW_USE:
        tiles += 1
    side = tiles * lattice.tile + lattice.guard
    say(
        f"tiles use {100 * lattice.used:.0f} % of each {lattice.block * lattice.resolution:g} m block; a --block-size "
        f"of {side * lattice.resolution:g} would use {100 * ((side - lattice.guard) / side) ** 2:.0f} %"
    )


def _cuts(choices: Choices, sources: Sequence[Source], lattices: Sequence[Lattice], found: Plan) -> list[Cut]:
    def each(make: Callable[[Lattice], Assignment]) -> dict[int, Assignment]:
        return {number: make(lattice) for number, lattice in enumerate(lattices)}

    seed, val = choices.seed, choices.val_fraction
    if choices.test_scene is not None:
        return [Cut("", _whole_scene(choices, sources, lattices, found))]
    if (test := choices.test_fraction) is not None:
        return [Cut("", each(lambda lat: splitting.hold_out(lat, seed=seed, test_fraction=test, val_fraction=val)))]

    def of_fold(number: int) -> Callable[[Lattice], Assignment]:
        return lambda lat: splitting.fold(lat, seed=seed, folds=choices.folds, number=number, val_fraction=val)

    cuts = [Cut(f"fold_{number}", each(of_fold(number)), fold=number) for number in range(choices.folds)]
    return [*cuts, Cut("refit", each(lambda lat: splitting.refit(lat, seed=seed, val_fraction=val)), refit=True)]


def _number(name: str, sources: Sequence[Source]) -> int:
    matches = [n for n, source in enumerate(sources) if name in (source.name, source.scene.path.name)]
    if len(matches) != 1:
        raise InputError(f"the test scene {name!r} is not one of {', '.join(source.name for source in sources)}")
    return matches[0]


def _whole_scene(
    choices: Choices, sources: Sequence[Source], lattices: Sequence[Lattice], found: Plan
) -> dict[int, Assignment]:
    """The blocks of the test scene are test, but for few; others' tiles in any of them are left out of the plan."""
    name = str(choices.test_scene)
    chosen = _number(name, sources)
    if len(sources) == 1:
        raise InputError(
            f"the test scene {name!r} is the only one, which leaves none to train on: give a second --scene with its "
            "--labels, or leave out --test-scene"
        )
    taken = {lattices[chosen].name(plan.block) for plan in found.blocks if plan.source == chosen}
    kept = [p for p in found.blocks if p.source == chosen or lattices[p.source].name(p.block) not in taken]
    lost = found.tiles - sum(len(p.tiles) for p in kept)
    if lost:
        found.dropped[IN_TEST_SCENE] += lost
        found.blocks = kept
    assign: dict[int, Assignment] = {
        number: splitting.refit(lattice, seed=choices.seed, val_fraction=choices.val_fraction)
        for number, lattice in enumerate(lattices)
    }
    few = splitting.few(lattices[chosen], seed=choices.seed, share=choices.few_labels)
    if choices.few_labels and not any(p.source == chosen and few(p.block) == "train" for p in kept):
        blocks = sum(p.source == chosen for p in kept)
        raise InputError(
            f"--few-labels {choices.few_labels:g} of the {blocks} blocks of {name!r} with tiles is none of them: give "
            "a larger share, or another --seed"
        )
    return assign | {chosen: few}


def _check_filled(cut: Cut, found: Plan, lattices: Sequence[Lattice], choices: Choices) -> None:
    blocks = {(lattices[p.source].name(p.block), cut.assign[p.source](p.block)) for p in found.blocks}
    counts = {split: sum(other == split for _, other in blocks) for split in SPLITS}
    empty = [split for split in cut.splits if not counts[split]]
    if not empty:
        return
    size = lattices[0].block * lattices[0].resolution
    where = f" of {cut.name}" if cut.name else ""
    if not blocks:
        left_out = ", ".join(f"{count} had {reason}" for reason, count in found.dropped.items()) or "none fits"
        raise InputError(f"no tile could be cut ({left_out}); give a smaller --tile-size, more labels or a larger area")
    raise InputError(
        f"the {' and the '.join(empty)} split{where} would be empty: {len(blocks)} blocks of {size:g} m hold tiles "
        f"({', '.join(f'{split} {n}' for split, n in counts.items())}); give a smaller --block-size or --tile-size, "
        f"another --seed than {choices.seed}, other fractions, or a larger area"
    )


def _inputs(sources: Sequence[Source]) -> dict[str, str]:
    if len(sources) == 1:
        return {"scene": sources[0].scene.digest, "labels": sources[0].labels.digest}
    scenes = {f"scene {source.name}": source.scene.digest for source in sources}
    return scenes | {f"labels {source.name}": source.labels.digest for source in sources}


@dataclass(frozen=True)
class _Writing:
    """Everything decided, ready to be written."""

    output: Path
    cuts: Sequence[Cut]
    alignments: Sequence[Alignment | None]
    sources: Sequence[Source]
    lattices: Sequence[Lattice]
    plan: Plan
    choices: Choices
    parameters: dict[str, Any]
    inputs: dict[str, str]

    @property
    def megabytes(self) -> float:
        """About how much the arrays take, in every fold."""
        scene = self.sources[0].scene
        a_pixel = 2 * scene.periods * len(scene.bands) + (4 if self.choices.align else 2)
        twice = 2 if self.choices.layout == "geotiff" else 1
        return self.plan.tiles * self.lattices[0].tile ** 2 * a_pixel * len(self.cuts) * twice / 1e6

    def single(self) -> TileSet:
        with TileSet.write(self.output, parameters=self.parameters, inputs=self.inputs) as draft:
            self._all([draft])
        return TileSet.open(self.output, verify=False)

    def folds(self) -> TileFolds:
        given: dict[str, Any] = {"parameters": self.parameters, "inputs": self.inputs}
        with TileFolds.write(self.output, **given) as whole, ExitStack() as stack:
            drafts = []
            for cut in self.cuts:
                parameters = self.parameters | {"cut": cut.name}
                part = TileSet.write(whole.directory / cut.name, parameters=parameters, inputs=self.inputs)
                drafts.append(stack.enter_context(part))
            self._all(drafts)
            whole.write_json("folds.json", {"folds": self.choices.folds})
            stack.close()
        return TileFolds.open(self.output, verify=False)

    def _all(self, drafts: Sequence[Draft]) -> None:
        writers = [
            TileWriter(draft.directory, cut.assign, alignment)
            for draft, cut, alignment in zip(drafts, self.cuts, self.alignments, strict=True)
        ]
        try:
            write_tiles(writers, self.sources, self.lattices, self.plan.blocks)
        except OSError as error:
            raise WorldError(
                f"{self.output} could not be written: {error.strerror or error}; its arrays take about "
                f"{self.megabytes:.0f} MB, and nothing was left there: make room or name another --output"
            ) from error
        for draft, cut, writer in zip(drafts, self.cuts, writers, strict=True):
            table = _table(writer.rows)
            table.to_parquet(draft.directory / "tiles.parquet", index=False)
            scenes = self._normalised(draft, writer)
            numbers = statistics(draft.directory / "train") | ({"scenes": scenes} if scenes else {})
            info = self._info(cut, writer, table)
            draft.write_json("statistics.json", numbers)
            draft.write_json("tileset.json", info.model_dump(mode="json"))
            if self.choices.layout == "geotiff":
                write_geotiff(draft.directory, info, numbers, writer.rows)

    def _normalised(self, draft: Draft, writer: TileWriter) -> dict[str, Any]:
        """What the scenes' statistics were, where they are brought to the same ones."""
        if self.choices.normalise == "none":
            return {}
        return radiometry.normalise(draft.directory, self.sources[0].scene.bands, writer.rows)

    def _info(self, cut: Cut, writer: TileWriter, table: geopandas.GeoDataFrame) -> TileInfo:
        first, lattice = self.sources[0], self.lattices[0]
        splits = summarise(table, lattice.tile)
        if writer.alignment is not None:
            for split in SPLITS:
                splits[split]["shifts"] = writer.alignment.summary(split)
        labelled = self.plan.labelled
        said = [s.scene.info.attribution for s in self.sources] + [s.labels.info.credit for s in self.sources]
        return TileInfo(
            bands=first.scene.bands,
            periods=first.scene.periods,
            level=first.scene.info.level,
            tile_size=lattice.tile,
            stride=lattice.stride,
            resolution=lattice.resolution,
            block_size=lattice.block * lattice.resolution,
            guard=lattice.guard * lattice.resolution,
            seed=self.choices.seed,
            building_cover=first.labels.info.building_cover,
            fold=cut.fold,
            folds=self.choices.folds,
            refit=cut.refit,
            aligned=writer.alignment is not None,
            align_period=None if writer.alignment is None else writer.alignment.period,
            max_ignore=self.choices.max_ignore,
            scenes=tuple(source.name for source in self.sources),
            stac_items=tuple(sorted({str(item.get("id")) for s in self.sources for item in s.scene.info.sources})),
            months=_months([source.scene for source in self.sources]),
            test_scene=self.choices.test_scene,
            normalise=self.choices.normalise,
            simulated=any(s.scene.info.simulated or s.labels.info.simulated for s in self.sources),
            attribution=tuple(dict.fromkeys(said)),
            blocks={split: tuple(sorted(set(table.loc[table["split"] == split, "block"]))) for split in SPLITS},
            summary={
                "splits": splits,
                "dropped": dict(self.plan.dropped),
                "labelled_pixels_used": round(self.plan.used / labelled, 4) if labelled else None,
                "block_area_used": round(lattice.used, 4),
            },
        )


def _months(scenes: Sequence[Scene]) -> tuple[int | None, ...]:
    """The month of each period, where all scenes agree in it."""
    of_period = zip(*([period.month for period in scene.info.periods] for scene in scenes), strict=True)
    return tuple(months[0] if len(set(months)) == 1 else None for months in of_period)


def _table(rows: Sequence[dict[str, Any]]) -> geopandas.GeoDataFrame:
    """One row a tile; in the scenes' UTM zone, or in WGS 84 degrees where they lie in several."""
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "grid"}
    zones = [row["grid"].crs for row in rows]
    shapes = geopandas.GeoSeries([box(*row["grid"].bounds) for row in rows])
    if len(set(zones)) == 1:
        return geopandas.GeoDataFrame(columns, geometry=shapes, crs=zones[0])
    for zone in set(zones):
        inside = np.array(zones) == zone
        shapes[inside] = shapes[inside].set_crs(zone).to_crs("EPSG:4326").to_numpy()
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs="EPSG:4326")
