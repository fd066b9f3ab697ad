"""From model to map on real imagery: a model of Pisa draws Pisa, its test blocks marked, and a city it never saw.

The other city is Valencia.

    python studies/maps.py --shared ../shared --output runs/maps

runs the stages by their own commands (each is printed) and skips what is there already; `docs/maps.md` shows what comes
out. Two CPU cores need about three minutes with boosted trees.
"""

import argparse
import json
import sys
from pathlib import Path

from pisa import data_of, scene_and_labels, stage

from casbah.errors import CasbahError

PISA = ("--start", "2018-02-11", "--end", "2018-02-11")
VALENCIA = ("--start", "2017-11-07", "--end", "2017-11-07")
ITEM = "sentinel-2/sentinel-2-l1c/S2_L1C_valencia_20171107/S2_L1C_valencia_20171107.json"
TILE_SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="the folder of real data")
    parser.add_argument("--output", type=Path, default=Path("runs/maps"), help="where everything is written")
    parser.add_argument("--experiment", default="boosted_pixels", metavar="NAME")
    arguments = parser.parse_args()
    try:
        _make(data_of(arguments.shared), arguments.output, arguments.experiment)
    except CasbahError as error:
        print(f"maps: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _make(data: Path, output: Path, experiment: str) -> None:
    pisa, valencia = output / "pisa", output / "valencia"
    scene, labels = scene_and_labels(pisa, data, PISA)
    tiles, model, test = pisa / "tiles", pisa / "model", pisa / "test"
    stage(tiles, "tile", "--scene", scene, "--labels", labels, "--tile-size", TILE_SIZE, "--align")
    stage(model, "finetune", "--config", experiment, "--tiles", tiles, "--resume")
    stage(test, "evaluate", "--model", model, "--tiles", tiles)
    there = valencia / "scene"
    area = _area(data / ITEM, output / "valencia.geojson")
    catalogue = ("--stac", data / "sentinel-2" / "catalog.json", "--level", "L1C")
    stage(there, "ingest", "--aoi", area, *catalogue, *VALENCIA)
    for place, what in ((pisa, scene), (valencia, there)):
        stage(place / "map", "predict", "--model", model, "--scene", what)
    stage(pisa / "footprints", "footprints", "--prediction", pisa / "map", "--labels", labels, "--align")
    stage(valencia / "footprints", "footprints", "--prediction", valencia / "map")
    drawn = ("--prediction", pisa / "map", "--scene", scene)
    stage(pisa / "panels.png", "visualize", *drawn, "--labels", labels, "--tiles", tiles)
    stage(pisa / "map.html", "visualize", *drawn, "--footprints", pisa / "footprints", "--tiles", tiles)
    drawn = ("--scene", there, "--footprints", valencia / "footprints")
    stage(valencia / "footprints.png", "visualize", *drawn)
    stage(valencia / "map.html", "visualize", *drawn, "--prediction", valencia / "map")


def _area(item: Path, target: Path) -> Path:
    """The bounding box of a STAC item as an area of interest."""
    west, south, east, north = json.loads(item.read_text(encoding="utf-8"))["bbox"]
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}) + "\n", encoding="utf-8")
    return target


if __name__ == "__main__":
    main()
