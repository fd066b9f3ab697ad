"""What is to be mapped: the parameters of a map held against the model, and the area cut into grid cells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from casbah.addresses import shown
from casbah.errors import InputError
from casbah.grid import RESOLUTION
from casbah.pipeline import inputs
from casbah.pipeline.preflight import check_store, check_variables
from casbah.predict.unlike import CELL
from casbah.products.model import ModelBundle

BLOCK = CELL * RESOLUTION
"""Metres: a cell's side is a whole number of these, so that what is flagged by squares of pixels is not cut."""


def cells(values: Mapping[str, Any], model: Path, folder: Path) -> list[str]:
    """The grid cells that an area is read in (`casbah.ingest.cells`).

    `values` are the parameters of the pipeline, `folder` is for the area. `InputError` for a parameter that a later
    step would refuse, for a place that is taken, and for a model that takes other dates than are asked for or tiles
    that were normalised; `WorldError` where the store or, asked about several cells, the catalogue does not answer.
    """
    from casbah.ingest import cells as grid_cells
    from casbah.ingest.area import read_area
    from casbah.predict.imagery import check_model
    from casbah.publish.places import place_of
    from casbah.publish.stage import check_place

    inputs.check(values)
    check_variables(registers=False)
    check_store()
    check_place(place_of(inputs.text(values["to"])))
    training = ModelBundle.open(model).training
    check_model(training)
    if training.periods != values["periods"]:
        raise InputError(
            f"periods is {values['periods']}, and the model {training.experiment} learned from {training.periods}: "
            f"give periods={training.periods}"
        )
    aoi = inputs.text(values["aoi"])
    area = read_area(inputs.area(aoi, folder), name=shown(aoi))
    found = grid_cells.plan(area, block=BLOCK, side=values["cell_size"] or None, margin=values["cell_margin"])
    return grid_cells.with_imagery(area, found, **inputs.search(values))
