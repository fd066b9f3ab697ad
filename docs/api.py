"""Writes the API reference from the docstrings of the public modules.

    python docs/api.py build/api

`PUBLIC` is what a person may import: names in a module's `__all__`, or, where it has none, those that it defines
itself and that do not begin with an underscore. All else may change from one version to the next.
"""

import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

PUBLIC = (
    "casbah.sample",
    "casbah.ingest",
    "casbah.ingest.area",
    "casbah.ingest.cells",
    "casbah.label",
    "casbah.tile",
    "casbah.experiments",
    "casbah.finetune",
    "casbah.tune",
    "casbah.models",
    "casbah.evaluate",
    "casbah.compare",
    "casbah.predict",
    "casbah.footprints",
    "casbah.publish",
    "casbah.register",
    "casbah.figures.visualize",
    "casbah.products",
    "casbah.products.manifest",
    "casbah.products.scene",
    "casbah.products.labels",
    "casbah.products.tiles",
    "casbah.products.model",
    "casbah.products.evaluation",
    "casbah.products.comparison",
    "casbah.products.prediction",
    "casbah.products.footprints",
    "casbah.bands",
    "casbah.grid",
    "casbah.blocks",
    "casbah.storage",
    "casbah.errors",
)
"""In the order in which a first reader meets them."""


def public_names(module: ModuleType) -> set[str]:
    """What a person may import from a module."""
    if (listed := getattr(module, "__all__", None)) is not None:
        return set(listed)
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", module.__name__) == module.__name__
    }


def loaded(name: str) -> ModuleType:
    """A module with all of `__all__` in place: some packages import a name only when it is asked for."""
    module = import_module(name)
    for each in public_names(module):
        vars(module).setdefault(each, getattr(module, each))
    return module


def main(folder: Path) -> None:
    """Write the reference below `folder`, from `index.html` on."""
    import pdoc

    for name in PUBLIC:
        loaded(name)
    pdoc.render.configure(docformat="google", search=True, show_source=False)
    # Pdoc walks by itself into packages that do not list their names; what is not public stays out of it.
    walked = {name for name in PUBLIC if not hasattr(import_module(name), "__all__")}
    tops = [name for name in PUBLIC if name.rpartition(".")[0] not in walked]
    others = f"!^(?!(?:{'|'.join(map(re.escape, PUBLIC))})$)"
    pdoc.pdoc(*tops, others, output_directory=folder)
    print(folder / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
