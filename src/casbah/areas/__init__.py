"""The areas that come with Casbah: one GeoJSON polygon each (EPSG:4326), found by name anywhere Casbah is installed."""

from pathlib import Path

from casbah.errors import InputError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The built-in areas, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.geojson"))


def find(name: str) -> Path:
    """The GeoJSON of a built-in area; `InputError` where there is none of that name."""
    if name not in names():
        raise InputError(f"there is no built-in area {name!r}; choose from {', '.join(names())}, or give a GeoJSON")
    return FOLDER / f"{name}.geojson"
