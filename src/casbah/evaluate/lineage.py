"""What an evaluation rests on: digests from the model back to the scene, and the STAC items of that scene."""

from typing import Any

from casbah.evaluate.cases import Cases


def lineage(cases: Cases) -> dict[str, Any]:
    """Digests of model, tiles, scenes and labels, and the ids of the STAC items that the scenes were made of."""
    tiles = cases.cases[0].tiles
    return {
        "model": cases.model_digest,
        "tiles": cases.tiles_digest,
        "inputs": tiles.manifest.inputs,
        "stac_items": list(tiles.info.stac_items),
    }
