"""Makes torchvision importable beside a torch that its compiled operators were not built for.

The only torchvision wheel of some package indexes is a CUDA build. Beside a CPU torch its `_C` library can't be loaded,
so the operators that torchvision's Python code refers to while it is imported have no schema, and the import dies with
`operator torchvision::nms does not exist`. Nothing in Casbah calls these operators (they serve object detection):
defining their schemas is all that the import needs. Where the library loads, nothing is changed.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""As in torchvision's `csrc/ops/nms.cpp` and `csrc/ops/quantized/cpu/qnms_kernel.cpp`."""

_library: list[Any] = []
"""Keeps the definitions alive: torch drops them with the object that made them."""


def apply() -> bool:
    """Define the missing schemas, once, before torchvision is first imported; True where that was needed.

    Costs an import of torch. Does nothing where torchvision is absent, already imported, or able to load its library.
    """
    if _library or "torchvision" in sys.modules:
        return bool(_library)
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    import torch

    if _loads(Path(spec.origin).parent, torch):
        return False
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        library.define(schema)
    _library.append(library)
    return True


def _loads(package: Path, torch: Any) -> bool:
    libraries = [package / f"_C{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    for library in libraries:
        if library.is_file():
            try:
                torch.ops.load_library(str(library))
            except OSError:
                return False
            return True
    return False
