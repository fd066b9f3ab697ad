"""The image of a component runs with the extras that its README names, and needs no others."""

import subprocess
import sys

import pytest

BEYOND_BASE = (
    "rasterio", "geopandas", "pyogrio", "shapely", "pyproj", "scipy", "PIL", "matplotlib", "jinja2", "torch", "sklearn",
    "terratorch", "mlflow", "kfp", "psutil",
)  # fmt: skip
BEYOND_GEO = ("torch", "torchvision", "terratorch", "lightning", "sklearn", "mlflow", "kfp", "matplotlib", "jinja2", "psutil")  # fmt: skip # noqa: E501


@pytest.mark.parametrize(
    ("brought", "absent"),
    [
        ("from casbah.evaluate import select", BEYOND_BASE),
        ("from casbah.ingest import ingest", BEYOND_GEO),
        ("from casbah.label import label", BEYOND_GEO),
        ("from casbah.tile import tile", BEYOND_GEO),
        ("from casbah.footprints import footprints", BEYOND_GEO),
    ],
)
def test_a_step_imports_nothing_that_its_image_lacks(brought: str, absent: tuple[str, ...]) -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"from casbah.pipeline import steps\n{brought}\nprint('imported')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr
