"""The stage itself: a model and imagery are checked against each other, windows stream through, a map is written."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import rasterio
from numpy.typing import NDArray

import casbah
from casbah import models
from casbah.addresses import shown
from casbah.errors import InputError, WorldError
from casbah.lanes import ahead, behind
from casbah.patience import Patience
from casbah.predict import maps, unlike
from casbah.predict.blending import add_row, sizes, unobserved
from casbah.predict.describe import stac_item, tags_of
from casbah.predict.imagery import CACHE_BYTES, Imagery, open_imagery, reading
from casbah.predict.passes import Passes, made_ready
from casbah.predict.plan import Block, Plan
from casbah.products.manifest import check_target
from casbah.products.model import ModelBundle, Training
from casbah.products.prediction import NODATA, STEPS, Prediction, PredictionInfo, Predictor, Values
from casbah.progress import say, task
from casbah.registered import opened
from casbah.scoring import called_building
from casbah.sources import digest_of_sources
from casbah.workplace import Workplace, no_bad_input, writing

AHEAD = 2
"""Rows of windows that are read before they are asked for."""

BEHIND = 2
"""Blocks that wait to be written."""


def predict(
    model: str | Path,
    scene: str | Path,
    output: str | Path,
    *,
    window: int | None = None,
    overlap: int | None = None,
    values: str = "uint8",
    threshold: float | None = None,
    flips: bool = False,
    uncertainty: bool = False,
    device: str = "auto",
    tracking_uri: str | None = None,
    registered: str | None = None,
    patience: Patience | None = None,
) -> Prediction:
    """Map a whole scene with a model, in memory that stays flat whatever the scene's size.

    Args:
        model: a bundle's directory, or `models:/<name>@<alias>` or `models:/<name>/<version>` in MLflow.
        scene: a scene's directory, or a raster of reflectance x 10000 (uint16, 0 = nodata) whose band descriptions are
            ESA's names, period after period: a path, or an s3:// or http(s):// address, which is read in place.
        output: the directory of the prediction. A killed run leaves nothing there, and a rerun goes on from its blocks.
        window: side in pixels of the windows that go through the model; by default as many of its tiles
            as fit in 256, or in 512 for a network of convolutions alone.
        overlap: pixels that neighbouring windows share; by default a quarter of the window, at least 64, or 64 for a
            network of convolutions alone.
        values: uint8 (steps of 1/200) or uint16 (of 1/10000) in `probability.tif`.
        threshold: probability from which on the mask is building; the model's own, chosen on validation, by default.
        flips: average over the eight symmetries of each window: eight times the work, and better.
        uncertainty: write `uncertainty.tif` too: the standard deviation over an ensemble's members, or over the eight
            symmetries of any other model (which are then averaged as well).
        device: auto, cpu or cuda, for networks.
        tracking_uri: the MLflow of `models:/` addresses; `MLFLOW_TRACKING_URI` by default.
        registered: which registered version a bundle's directory is, where somebody fetched it: `NAME version 3`.
        patience: timeouts in seconds and how often to try again, for remote rasters.

    Raises `InputError` for every fault of these inputs, with nothing written; `WorldError` where the network, a store
    or the disk failed. Finished blocks are kept for the next run after that.
    """
    output = Path(output)
    patience = patience or Patience()
    with writing(output):
        check_target(output, Prediction.schema)
    if values not in STEPS:
        raise InputError(f"values is {values!r}; {' or '.join(STEPS)} is wanted")
    if threshold is not None and not 0 < threshold <= 1:
        raise InputError(f"threshold is {threshold:g}; a probability above 0 and up to 1 is wanted")
    with opened(model, tracking_uri) as (bundle, version):
        training = bundle.training
        imagery = open_imagery(scene, training, patience)
        predictor = models.load(bundle)
        window, overlap = sizes(predictor, window, overlap)
        made_ready(predictor, device)
        passes = Passes(predictor, flips=flips, uncertainty=uncertainty)
        known = cast("Values", values)
        info = _info(bundle, version or registered, imagery, threshold, known, (window, overlap), passes)
        return _predict(bundle, imagery, output, info, passes, patience)


def _info(
    bundle: ModelBundle,
    registered: str | None,
    imagery: Imagery,
    threshold: float | None,
    values: Values,
    sizes: tuple[int, int],
    passes: Passes,
) -> PredictionInfo:
    training = bundle.training
    return PredictionInfo(
        model=Predictor(
            digest=bundle.digest,
            experiment=training.experiment,
            registered=registered,
            blocks=training.blocks,
        ),
        scene=imagery.name,
        periods=imagery.periods,
        level=imagery.level,
        bands=training.bands,
        threshold=training.threshold if threshold is None else threshold,
        building_cover=training.building_cover,
        values=values,
        window=sizes[0],
        overlap=sizes[1],
        flips=passes.flips,
        uncertainty=passes.of,
        attribution=tuple(dict.fromkeys((*imagery.attribution, *training.attribution))),
        simulated=training.simulated or imagery.simulated,
    )


def _predict(
    bundle: ModelBundle,
    imagery: Imagery,
    output: Path,
    info: PredictionInfo,
    passes: Passes,
    patience: Patience,
) -> Prediction:
    request = {
        "info": info.model_dump(mode="json"),
        "scene": imagery.identity if imagery.resumable else uuid.uuid4().hex,
        "grid": imagery.grid.to_dict(),
        "casbah": casbah.__version__,
        "code": code(),
    }
    workplace = Workplace(output, request, "predict")
    with workplace.held(), rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        for path, size in workplace.others():
            say(
                f"{path} ({size / 1e6:.0f} MB) is what an unfinished prediction of this output with another model, "
                "other imagery or other settings left; run that one again to go on from it, or delete the directory"
            )
        maker = Maker(imagery, bundle.training, workplace, info, passes, patience)
        with workplace.making(Prediction.schema, keep=lambda fault: imagery.resumable and no_bad_input(fault)):
            _check_room(workplace, imagery, info)
            maker.make_all()
            cells = maker.cells()
            if not cells.pixels.any():
                raise InputError(
                    f"{shown(imagery.place)} holds nothing but nodata (0 in all bands): there is nothing to map"
                )
            looks = {"share": round(cells.share(), 4), "bands": cells.shares(bundle.training)}
            info = info.model_copy(update={"unlike": looks})
            parameters = {"model": info.model.name, "scene": shown(imagery.place)} | {
                name: getattr(info, name)
                for name in ("window", "overlap", "values", "threshold", "flips", "uncertainty")
            }
            inputs = {"model": bundle.digest, "scene": imagery.digest}
            sources = [str(source["id"]) for source in imagery.sources]
            with writing(output), Prediction.write(workplace.draft, parameters=parameters, inputs=inputs) as draft:
                maker.write_maps(draft.directory, cells, info)
                draft.write_json("prediction.json", info.model_dump(mode="json"))
                item = stac_item(info, imagery.grid, sources, imagery.digest, imagery.datetime)
                draft.write_json("item.json", item)
    if info.unlike["share"] > unlike.MUCH:
        say(
            f"{100 * info.unlike['share']:.0f} % of {info.scene} looks unlike what {info.model.name} was trained on "
            "(see unlike.tif): do not trust the map there"
        )
    return Prediction.open(output, verify=False)


PACKAGE = Path(casbah.__file__).parent
DECIDES = tuple(
    PACKAGE / name for name in ("predict", "models", "bands.py", "scoring.py", "workplace.py", "products/prediction.py")
)
"""Folders and files whose code decides what a block holds."""


def code() -> str:
    """The digest of that code: blocks of an older checkout are not gone on from."""
    return digest_of_sources(DECIDES)


def _check_room(workplace: Workplace, imagery: Imagery, info: PredictionInfo) -> None:
    """`WorldError` where the disk can't hold the blocks that are still to be made, and the map beside them."""
    layers = 3 if info.uncertainty else 2
    size = 2 if info.values == "uint16" else 1
    # Blocks lie uncompressed; the joined raster and its overviews come on top of them.
    needed = max(imagery.grid.rows * imagery.grid.cols * size * (layers + 2) - workplace.kept(), 0)
    free = shutil.disk_usage(workplace.path).free
    if free < needed:
        raise WorldError(
            f"{workplace.output.absolute().parent} has {free / 1e6:,.0f} MB free and the prediction needs up to "
            f"{needed / 1e6:,.0f} MB more while it is made; free some or choose another output"
        )


@dataclass(frozen=True)
class Row:
    """One row of a block's windows as it was read: images (periods, bands, rows, cols) from the block's first column
    on; which of the pixels that it settles were `observed`, and their sums."""

    block: Block
    number: int
    images: NDArray[np.uint16]
    observed: NDArray[np.bool_]
    cells: unlike.Cells


@dataclass(frozen=True)
class Made:
    """A block that is ready to be written: layers (layers, rows, cols), NaN where nothing was observed; sums of cells;
    what it hands to the block below and to the panel on the right."""

    block: Block
    layers: NDArray[np.float32]
    cells: unlike.Cells
    carry: NDArray[np.float32]
    seam: NDArray[np.float32]


class Maker:
    """Leads imagery through a model block by block, and writes the maps."""

    def __init__(
        self,
        imagery: Imagery,
        training: Training,
        workplace: Workplace,
        info: PredictionInfo,
        passes: Passes,
        patience: Patience,
    ) -> None:
        self.imagery, self.training, self.workplace = imagery, training, workplace
        self.info, self.passes, self.patience = info, passes, patience
        self.plan = Plan.of(*imagery.grid.shape, info.window, info.overlap)
        self.blocks = self.plan.blocks()
        self._placed = {(block.panel, block.number): block for block in self.blocks}
        self.corner = unlike.corner(imagery.grid)

    def _path(self, block: Block) -> Path:
        return self.workplace.block_path(block.panel, block.window)

    def _in_cells(self, row: int, col: int) -> tuple[int, int]:
        """A pixel of the imagery, counted from the first pixel of the cell that the imagery begins in."""
        return self.corner[0] + row, self.corner[1] + col

    def _beside(self, block: Block, what: str) -> Path:
        return self._path(block).with_suffix(f".{what}.npz")

    def make_all(self) -> None:
        """Make every block that is not there yet."""
        done = 0
        while done < len(self.blocks) and self._path(self.blocks[done]).exists():
            done += 1
        left = self.blocks[done:]
        of_what = "SIMULATED imagery: " if self.info.simulated else ""
        rows, cols = self.imagery.grid.shape
        passes = " eight times each" if self.info.flips else ""
        say(
            f"{of_what}{self.info.model.name} maps {rows} x {cols} pixels of {self.info.scene} in {self.plan.windows} "
            f"windows of {self.plan.rows.size} x {self.plan.cols.size}{passes}"
        )
        if done:
            say(f"{done} of {len(self.blocks)} blocks are there from an earlier run")
        if not left:
            return
        windows = [len(block.rows) * len(block.cols) for block in self.blocks]
        with (
            behind(self._save, BEHIND) as save,
            ahead(self._read_all(left), AHEAD) as rows_read,
            task("predict", sum(windows), sum(windows[:done])) as progress,
        ):
            seams, carry = self._taken_up(done)
            for block in left:
                made = self._make(block, rows_read, carry if block.number else None, seams.pop(block.number, None))
                seams[block.number], carry = made.seam, made.carry
                save(made)
                progress.advance(len(block.rows) * len(block.cols), note=f"block {self.blocks.index(block) + 1}")

    def _taken_up(self, done: int) -> tuple[dict[int, NDArray[np.float32]], NDArray[np.float32] | None]:
        """The seams and the carry that an earlier run left for the blocks after the first `done` ones."""
        if not done:
            return {}, None
        last = self.blocks[done - 1]
        # Of the panel before, what lies below the last block is still to be used; above it, this panel's is next.
        places = ((last.panel, False), (last.panel - 1, True))
        kept = [block for block in self.blocks[:done] if (block.panel, block.number > last.number) in places]
        seams = {block.number: np.load(self._beside(block, "seam"))["seam"] for block in kept}
        return seams, np.load(self._beside(last, "carry"))["carry"]

    def _read_all(self, blocks: list[Block]) -> Iterator[Row]:
        """Every row of windows of some blocks in order; rows of pixels that two of them share are read once."""
        rows = self.plan.rows
        with reading(self.imagery, self.patience) as pixels:
            before: NDArray[np.uint16] | None = None
            for block in blocks:
                if not block.number:
                    before = None
                left, width = block.window.col_off, block.edge - block.window.col_off
                for number in block.rows:
                    top = rows.starts[number]
                    known = 0 if before is None else rows.end(number - 1) - top
                    images = pixels.read(top + known, rows.size - known, left, width)
                    if before is not None:
                        images = np.concatenate([before[:, :, rows.size - known :], images], axis=2)
                    before = images
                    settled = images[:, :, : rows.settled(number) - top, : block.window.width]
                    observed = ~unobserved(settled[None])[0]
                    cells = unlike.count(settled, observed, self.training, *self._in_cells(top, left))
                    yield Row(block, number, images, observed, cells)

    def _make(
        self,
        block: Block,
        rows_read: Iterator[Row],
        carry: NDArray[np.float32] | None,
        seam: NDArray[np.float32] | None,
    ) -> Made:
        """Lead a block's windows through the model; `carry` and `seam` are what the blocks before have said of it."""
        top, height, width = block.window.row_off, block.window.height, block.window.width
        sums = np.zeros((self.passes.count, 1, block.reach - top, block.edge - block.window.col_off), np.float32)
        observed = np.zeros((height, width), bool)
        start = self._in_cells(top, block.window.col_off)
        cells = unlike.Cells.none(height, width, len(self.training.bands), *start)
        if carry is not None:
            sums[:, 0, : carry.shape[1]] += carry
        for number in block.rows:
            row = next(rows_read)
            assert (row.block, row.number) == (block, number), "rows come in the order of the plan"
            start = self.plan.rows.starts[number] - top
            place = (..., slice(start, start + self.plan.rows.size), slice(None))
            weight = self.plan.rows.weights[number]
            add_row(self.passes.layers, row.images[None], weight, self.plan.cols, block.cols, sums[place])
            observed[start : start + len(row.observed)] = row.observed
            cells.add(row.cells)
        settled = sums[:, 0, :height]
        if seam is not None:
            settled[:, :, : seam.shape[2]] += seam
        layers = settled[:, :, :width].copy()
        layers[:, ~observed] = np.nan
        return Made(block, layers, cells, sums[:, 0, height:].copy(), settled[:, :, width:].copy())

    def _save(self, made: Made) -> None:
        """Write a block; once its raster is there, all that goes on from it is."""
        block, info = made.block, self.info
        probability = made.layers[0]
        mask = called_building(probability, info.threshold).astype(np.uint8)
        mask[np.isnan(probability)] = NODATA["uint8"]
        planes = [maps.quantised(layer, info.values) for layer in made.layers]
        with writing(self.workplace.output):
            np.savez(
                self._beside(block, "cells"),
                outside=made.cells.outside,
                known=made.cells.known,
                pixels=made.cells.pixels,
            )
            np.savez(self._beside(block, "seam"), seam=made.seam)
            np.savez(self._beside(block, "carry"), carry=made.carry)
        part = self.imagery.grid.part(
            block.window.row_off, block.window.col_off, block.window.height, block.window.width
        )
        self.workplace.save_block(self._path(block), part, [*planes, mask.astype(planes[0].dtype)])
        for panel, number, spent in ((block.panel - 1, block.number, "seam"), (block.panel, block.number - 1, "carry")):
            if before := self._placed.get((panel, number)):
                self._beside(before, spent).unlink(missing_ok=True)

    def cells(self) -> unlike.Cells:
        """The sums of all blocks."""
        total = unlike.Cells.none(*self.imagery.grid.shape, len(self.training.bands), *self.corner)
        for block in self.blocks:
            with closing(np.load(self._beside(block, "cells"))) as found:
                row, col = self._in_cells(block.window.row_off, block.window.col_off)
                first = (row // unlike.CELL, col // unlike.CELL)
                total.add(unlike.Cells(found["outside"], found["known"], found["pixels"], *first))
        return total

    def write_maps(self, directory: Path, cells: unlike.Cells, info: PredictionInfo) -> None:
        """Join the blocks to the rasters of the prediction."""
        blocks = [(self._path(block), block.window) for block in self.blocks]
        grid, tags = self.imagery.grid, tags_of(info)
        with task("write maps", self.passes.count + 2) as progress:
            maps.write_layers(
                blocks, grid, directory, info, tags, cells.flagged(), lambda file: progress.advance(note=file)
            )
