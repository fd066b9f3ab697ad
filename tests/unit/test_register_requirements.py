"""What a registered version asks for is enough to have its model: everything else on this machine is out of reach."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import make_tiles
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from casbah.finetune import finetune
from casbah.models import load
from casbah.predict import blended
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileSet
from casbah.register.logged import requirements

ALONE = """
import sys
from importlib.machinery import PathFinder

hidden = set(sys.argv[4:])


class Visible:
    find_distributions = staticmethod(PathFinder.find_distributions)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)


sys.meta_path[:] = [Visible() if finder is PathFinder else finder for finder in sys.meta_path]
sys.path.insert(0, sys.argv[1])
import numpy as np

import casbah.predict.served  # which MLflow runs to have the model
from casbah.models import load
from casbah.predict.blending import blended
from casbah.products.model import ModelBundle

images = np.load(sys.argv[3], allow_pickle=False)
np.save(sys.argv[3], blended(load(ModelBundle.open(sys.argv[2])), images))
"""


def asked_for(wanted: list[str]) -> set[str]:
    """Names of the packages that pip would install, by what those that are here say of themselves."""
    found: set[str] = set()
    waiting, seen = [Requirement(line) for line in wanted], set()
    while waiting:
        one = waiting.pop()
        name, extras = canonicalize_name(one.name), frozenset(one.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            needs = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        for line in needs:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append(need)
    return found


def hidden_from(model: ModelBundle) -> list[str]:
    """Modules of this machine that belong to no package which the model's version asks for, nor to Python."""
    asked = asked_for(requirements(model)) | {"casbah"}  # whose code travels in the version
    return [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if module not in sys.stdlib_module_names and not {canonicalize_name(owner) for owner in owners} & asked
    ]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("requirements") / "tiles")


@pytest.mark.parametrize(
    ("config", "settings", "out_of_reach"),
    [
        ("unet_scratch_small", ["trainer.max_epochs=1"], {"torch_geometric", "kfp"}),
        ("boosted_pixels", ["trees.rounds=5"], {"torch", "pyproj"}),
    ],
)
def test_a_model_answers_by_the_packages_that_its_version_asks_for(
    config: str, settings: list[str], out_of_reach: set[str], tiles: TileSet, tmp_path: Path
) -> None:
    model = finetune(config=config, tiles=tiles.path, output=tmp_path / "model", overrides=settings)
    hidden = hidden_from(model)
    assert out_of_reach <= set(hidden)
    images = np.asarray(tiles.split("test").images[:2])
    np.save(tmp_path / "images.npy", images)
    source = Path(sys.modules["casbah"].__file__ or "").parents[1]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, source, model.path, tmp_path / "images.npy", *hidden],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), blended(load(model), images), atol=1e-5)
