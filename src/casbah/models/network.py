"""Networks from TerraTorch's factories: built by name, loaded from safetensors, applied to tiles of any size."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from casbah.errors import InputError, WorldError
from casbah.lanes import ahead
from casbah.models import backbones, check_images, graph, patches, published, torchvision_cure
from casbah.models.cores import shared
from casbah.models.fusion import Convolution, folded, in_bfloat16
from casbah.models.normalisation import Normalisation
from casbah.models.symmetries import DIHEDRAL, PYRAMID, aligned
from casbah.products.model import ModelBundle, Training
from casbah.progress import say

PIXELS_PER_BATCH = {"cpu": 2**16, "cuda": 2**18}
"""Images that go through a network together have at most so many pixels, but a larger one goes through by itself: on a
GPU about 1 GB of activations in a U-Net of ResNet-18. On a CPU fewer pixels at once stay nearer to its caches: a window
of 256 px at a time took a U-Net 0.85 and Galileo's encoder 0.8 of the time that four took."""

AGREES = 1e-2
"""Of probability: a network predicts in bfloat16 only where that moved none of its validation pixels by more."""

COMPARED = 2**15
"""Pixels, about, of the validation tiles on which that is seen."""

LANES = 4
"""Batches that go through a network at the same time on a CPU at the most, since each has activations of its own (of a
window of 512 px in a U-Net of ResNet-18 0.2 GB). Two windows with a core each are done sooner than one after the other
with both."""

LOCAL = (nn.Conv2d, Convolution, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Identity)
"""Layers that look at a few pixels around each."""

LAYOUTS = ("channels", "frames")
"""`channels`: periods stacked into channels, (n, periods x bands, rows, cols), as U-Nets take them.
`frames`: (n, bands, periods, rows, cols), as Prithvi takes them."""

TERRATORCH_EDITS = (
    "GDAL_DISABLE_READDIR_ON_OPEN",
    "AWS_NO_SIGN_REQUEST",
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE",
    "GDAL_SWATH_SIZE",
    "VSI_CURL_CACHE_SIZE",
)
"""Variables that terratorch.cli_tools sets for the whole process; the second keeps GDAL from a private store."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the chatter of the libraries from people, and their edits of the environment from the process.

    One of TerraTorch's backbones lowers the precision of all float32 products when it is imported, which on a CPU with
    matrix units of its own (AMX) makes them bfloat16 for whoever asked for float32.
    """
    exactness = torch.get_float32_matmul_precision()
    environment = {name: os.environ.get(name) for name in TERRATORCH_EDITS}
    names = ("lightning", "lightning.pytorch", "lightning.fabric", "terratorch", "torchgeo", "root", "mlflow")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_float32_matmul_precision(exactness)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def build(model_factory: str, model_args: Mapping[str, Any]) -> nn.Module:
    """A network with two output classes, background and building, through TerraTorch's own factory.

    Where pretraining is asked for and the manifest of `casbah.weights` lists the backbone, the factory builds it from
    random weights and the published file is loaded then, whole or not at all (see `casbah.models.published.load`); any
    other backbone is left to its own house. What was loaded is said, and kept as `starts_from` of the network.

    `InputError` where the factory refuses an argument or a file does not fit, `WorldError` where pretrained weights
    can't be fetched.
    """
    wanted = published.wanted(model_args)
    if wanted is None:
        return _built(model_factory, model_args)
    file = wanted.path()  # first, since it fails sooner than a network is built
    model: Any = _built(model_factory, untrained(model_args))
    match = published.load(_backbone_of(model), wanted.entry.name, file, wanted.bands)
    model.starts_from = published.origin(wanted, file, match)
    say(f"{model_args.get('backbone')} starts from {model.starts_from}")
    return model


def _built(model_factory: str, model_args: Mapping[str, Any]) -> nn.Module:
    torchvision_cure.apply()
    with quiet():
        backbones.register()
        import terratorch.models  # noqa: F401 - fills the registries
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
        from terratorch.registry import MODEL_FACTORY_REGISTRY

        if model_factory == graph.FACTORY:
            graph.register()  # whose packages a version of another factory does not ask for

        try:
            model = MODEL_FACTORY_REGISTRY.build(model_factory).build_model("segmentation", **dict(model_args))
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled):
            raise WorldError(
                f"the pretrained weights of {model_args.get('backbone')} are not in the local cache and could not be "
                "fetched: run once with the internet, or switch pretraining off in the experiment"
            ) from None
        except Exception as error:
            first = (str(error) or type(error).__name__).strip().splitlines()[0][:300]
            raise InputError(f"{model_factory} can't build a network from these model_args: {first}") from error
    patches.in_float32(model)
    # Convolutions are faster with the channels of a pixel side by side, and hand that order on; tokens gain nothing.
    return model.to(memory_format=torch.channels_last) if model_factory == "SMPModelFactory" else model


def encoder_of(model: nn.Module) -> nn.Module:
    """The backbone of a network that a TerraTorch factory built."""
    inner: Any = getattr(model, "smp_model", model)
    return inner.encoder


def _backbone_of(model: nn.Module) -> nn.Module:
    """The backbone itself, without what TerraTorch wraps around it for several dates."""
    from terratorch.models.utils import TemporalWrapper

    encoder: Any = encoder_of(model)
    return encoder.encoder if isinstance(encoder, TemporalWrapper) else encoder


def untrained(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments without pretrained weights: what a bundle is rebuilt from, since it holds its own."""
    wanted = dict(model_args)
    if "model" in wanted:
        wanted.setdefault("pretrained", False)  # which SMPModelFactory takes for true
    for key in ("pretrained", "backbone_pretrained"):
        if key in wanted:
            wanted[key] = False
    wanted.pop("backbone_ckpt_path", None)
    return wanted


def arrange(images: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
    """(n, periods, bands, rows, cols) -> what the network takes (see `LAYOUTS`)."""
    if layout == "frames":
        return np.swapaxes(images, 1, 2)
    return images.reshape(len(images), -1, *images.shape[-2:])


def symmetric(images: Tensor, turns: int, flip: bool, inverse: bool = False) -> Tensor:
    """Turn the last two axes by quarter turns, then flip; with `inverse`, undo it."""
    if (turns, flip) == (0, False):
        return images
    if inverse:
        return torch.rot90(images.flip(-1) if flip else images, -turns, (-2, -1))
    turned = torch.rot90(images, turns, (-2, -1))
    return turned.flip(-1) if flip else turned


def logits(model: nn.Module, images: Tensor, upsample: int = 1) -> Tensor:
    """What a network makes of `images` (arranged by layout), (n, 2, rows, cols).

    With `upsample` the network sees each pixel as that many squared, interpolated, and its answer is averaged back: a
    transformer of 16 px patches then has a token for every 16 / upsample pixels.
    """
    if upsample == 1:
        return model(images).output
    rows, cols = images.shape[-2:]
    flat = images.reshape(len(images), -1, rows, cols)
    larger = functional.interpolate(flat, scale_factor=float(upsample), mode="bilinear", align_corners=False)
    found: Tensor = model(larger.reshape(*images.shape[:-2], rows * upsample, cols * upsample)).output
    return functional.avg_pool2d(found, upsample)


def takes_bf16(device: torch.device, mixed_precision: bool) -> bool:
    """Whether a network computes in bfloat16: where that is wanted, on a device whose hardware has it.

    Of CPUs those with AVX512-BF16 or AMX (an emulated bfloat16 is slower than float32).
    """
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return mixed_precision and bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return mixed_precision and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def precision(device: torch.device, mixed_precision: bool) -> torch.autocast:
    """The context that a network computes in, while it is trained and while it predicts."""
    if takes_bf16(device, mixed_precision):
        return torch.autocast(device.type, torch.bfloat16)
    return torch.autocast("cpu", enabled=False)


class NetworkPredictor:
    """A network with the normalisation it was trained with."""

    def __init__(
        self,
        training: Training,
        model: nn.Module,
        layout: str,
        *,
        flips: bool = False,
        upsample: int = 1,
        mixed_precision: bool = False,
    ) -> None:
        self.training = training
        self.layout = layout
        self.upsample = upsample
        self.flips = flips
        """Average over the eight symmetries of each image: slower, and better."""
        self.mixed_precision = mixed_precision and (training.rounding or 0.0) <= AGREES
        """Compute in bfloat16 where the device has it: the experiment allows it, and it agrees with float32."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        self._normalisation = Normalisation.from_dict(training.normalisation)

    @property
    def local(self) -> bool:
        """Whether what lies far from a pixel does not matter to it: no attention, and no mean over the image."""
        leaves = [module for module in self.model.modules() if not any(module.children())]
        return all(isinstance(leaf, LOCAL) for leaf in leaves)

    def fold(self) -> None:
        """Make the network quicker where that changes its answers by rounding alone (see `casbah.models.fusion`).

        On a GPU one that computes in bfloat16 stays as it is: to fold it would round its biases too.
        """
        in_bf16 = takes_bf16(self.device, self.mixed_precision)
        if in_bf16 and self.device.type != "cpu":
            return
        training = self.training
        side = training.tile_size + -training.tile_size % PYRAMID
        shape = (1, training.periods, len(training.bands), side, side)
        seen = np.random.default_rng(0).integers(200, 4000, shape, np.uint16)
        example = self._inputs(seen).to(self.device)
        with precision(self.device, False):
            self.model = folded(self.model, example)
            if in_bf16:
                self.model = in_bfloat16(self.model, example)

    def probabilities(self, images: NDArray[np.uint16]) -> NDArray[np.float32]:
        """See `casbah.models.Predictor`."""
        check_images(self.training, images)
        rows, cols = images.shape[-2:]
        found = np.empty((len(images), rows, cols), np.float32)
        step = self.at_once(rows, cols)
        starts = range(0, len(images), step)

        def fill(start: int, inputs: Tensor) -> None:
            answer = self._batch(inputs, precision(self.device, self.mixed_precision))
            found[start : start + step] = answer[:, :rows, :cols]

        def inputs_of(start: int) -> Tensor:
            return self._inputs(np.asarray(images[start : start + step]))

        # Whole rounds go side by side, a core or more for each batch; all cores share what is left.
        apart = 0
        if self.device.type == "cpu" and torch.get_num_threads() > 1 and len(starts) > 1:
            cores = shared(LANES)
            apart = len(starts) - len(starts) % cores.computations
            cores.each(lambda start: fill(start, inputs_of(start)), starts[:apart])
        # The next batch is made ready while the network is at this one.
        rest = starts[apart:]
        with ahead((inputs_of(start) for start in rest), 1) as ready:
            for start, inputs in zip(rest, ready, strict=True):
                fill(start, inputs)
        return found

    def rounding(self, images: NDArray[np.uint16]) -> float:
        """How far bfloat16 moves a probability of some images (n, periods, bands, rows, cols) at the most.

        It is emulated where the device has none, since the model may go where there is one.
        """
        inputs = self._inputs(images)
        exact = self._batch(inputs, precision(self.device, False))
        rounded = self._batch(inputs, torch.autocast(self.device.type, torch.bfloat16))
        return float(np.abs(exact - rounded).max(initial=0.0))

    def at_once(self, rows: int, cols: int) -> int:
        """How many images of so many pixels go through the network together."""
        return max(1, PIXELS_PER_BATCH[self.device.type] // max(rows * cols * self.upsample**2, 1))

    def _inputs(self, images: NDArray[np.uint16]) -> Tensor:
        """Images as the network takes them, their sides multiples of `PYRAMID`."""
        images = aligned(images)
        normal = np.empty(images.shape, np.float32)
        self._normalisation.apply(images, normal)
        return torch.from_numpy(np.ascontiguousarray(arrange(normal, self.layout)))

    def _batch(self, inputs: Tensor, within: torch.autocast) -> NDArray[np.float32]:
        inputs = inputs.to(self.device)
        symmetries = DIHEDRAL if self.flips else DIHEDRAL[:1]
        total = torch.zeros((len(inputs), *inputs.shape[-2:]), device=self.device)
        with torch.inference_mode(), within:
            for turns, flip in symmetries:
                found = logits(self.model, symmetric(inputs, turns, flip), self.upsample).float()
                total += symmetric(found.softmax(1)[:, 1], turns, flip, inverse=True)
        return (total / len(symmetries)).cpu().numpy()


def test_options(task: Mapping[str, Any]) -> dict[str, Any]:
    """How a task's `init_args` want its network to be applied (a stock task of TerraTorch says nothing)."""
    return {
        "flips": bool(task.get("flips_at_test", False)),
        "upsample": int(task.get("upsample", 1)),
        "mixed_precision": bool(task.get("mixed_precision", False)),
    }


def load(bundle: ModelBundle) -> NetworkPredictor:
    """Rebuild the network that a bundle describes and load its weights, every one of them."""
    from safetensors.torch import load_file

    config = yaml.safe_load(bundle.config_path.read_text(encoding="utf-8"))
    task, data = config["model"]["init_args"], config["data"]["init_args"]
    model = build(task["model_factory"], untrained(task["model_args"]))
    try:
        model.load_state_dict(load_file(bundle.weights_path), strict=True)
    except RuntimeError:
        raise InputError(
            f"the weights in {bundle.path} do not fit the network that its config.yaml describes: train it again"
        ) from None
    options = test_options(task)
    if options["mixed_precision"] and bundle.training.rounding is None:
        options["mixed_precision"] = False
        say(
            f"{bundle.path} does not say how far bfloat16 moves its probabilities, so the model predicts in float32; "
            "train it again to have that measured"
        )
    return NetworkPredictor(bundle.training, model, data["layout"], **options)
