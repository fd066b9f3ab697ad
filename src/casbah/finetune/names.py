"""Checks the names in a network's experiment against what the libraries know, before they do it in their own words."""

import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import segmentation_models_pytorch as smp
import terratorch.datamodules
import terratorch.models
import terratorch.tasks
import timm
from lightning.pytorch import Trainer, callbacks
from terratorch.registry import BACKBONE_REGISTRY, DECODER_REGISTRY, MODEL_FACTORY_REGISTRY, NECK_REGISTRY

import casbah.finetune
from casbah.errors import InputError
from casbah.finetune.experiment import Experiment, unknown

OURS = {
    "model": ("BuildingSegmentationTask",),
    "data": ("TileDataModule",),
    "trainer.callbacks": ("ReleaseBackbone", "EpochModelCheckpoint", "StopOnNaN"),
}
THEIRS: dict[str, Any] = {
    "model": terratorch.tasks,
    "data": terratorch.datamodules,
    "trainer.callbacks": callbacks,
}

ENCODER_PREFIXES = ("backbone_", "decoder_", "head_")
SMP_PREFIXES = ("smp_", "backbone_", "aux_")


def check(experiment: Experiment) -> None:
    """`InputError` with the nearest names for the first key, class, factory, backbone, decoder or neck not known."""
    settings, where = experiment.settings, experiment.source
    trainer = settings.get("trainer") or {}
    if not isinstance(trainer, dict):
        raise InputError(f"{where}: trainer is no mapping of names to values")
    _keys(trainer, _parameters(Trainer), "trainer", where)
    for entry in trainer.get("callbacks") or []:
        _class(entry, "trainer.callbacks", where)
    _class(settings["data"], "data", where, casbah.finetune.TileDataModule)
    _class(settings["model"], "model", where, terratorch.tasks.SemanticSegmentationTask)
    _network(settings["model"].get("init_args") or {}, where)


def _class(entry: Any, section: str, where: str, wanted: type = object) -> None:
    """Check that an entry names a class of the wanted kind, and arguments that it takes."""
    path = entry.get("class_path") if isinstance(entry, Mapping) else entry
    if not isinstance(path, str):
        raise InputError(f"{where}: an entry of {section} names no class_path")
    known = [f"casbah.finetune.{name}" for name in OURS[section]]
    known += [f"{THEIRS[section].__name__}.{name}" for name in _classes(THEIRS[section])]
    found = _import(path, section)
    if not inspect.isclass(found):
        raise unknown(f"the class in {section},", path, known, where)
    if not issubclass(found, wanted):
        raise InputError(
            f"{where}: {section} names {path}; casbah finetune takes casbah.finetune.{OURS[section][0]} there, or a "
            f"subclass of {wanted.__name__} (`casbah terratorch fit` runs every other one)"
        )
    if isinstance(entry, Mapping):
        _keys(entry.get("init_args") or {}, _parameters(found), f"{section} ({path.rpartition('.')[2]})", where)


def _import(path: str, section: str) -> Any:
    module, _, name = path.rpartition(".")
    if not module:
        return getattr(THEIRS[section], name, None)
    try:
        return getattr(import_module(module), name, None)
    except ImportError:
        return None


def _classes(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if inspect.isclass(value) and not name.startswith("_")]


def _parameters(target: Any) -> set[str] | None:
    """Names that a class or function takes; None where it takes any."""
    names: set[str] = set()
    for step in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if step is object:
            break
        if inspect.isclass(step) and "__init__" not in vars(step):
            continue
        parameters = inspect.signature(step.__init__ if inspect.isclass(step) else step).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names - {"self"}
    return None


def _keys(given: Mapping[str, Any], known: Iterable[str] | None, section: str, where: str) -> None:
    if known is None:
        return
    for key in given:
        if key not in known:
            raise unknown(f"the key in {section},", str(key), known, where)


def _network(arguments: Mapping[str, Any], where: str) -> None:
    factory, given = arguments.get("model_factory"), arguments.get("model_args") or {}
    if factory is None:
        raise InputError(f"{where}: model names no model_factory, as SMPModelFactory or EncoderDecoderFactory")
    if factory not in MODEL_FACTORY_REGISTRY:
        raise unknown("the model_factory", str(factory), MODEL_FACTORY_REGISTRY, where)
    if factory == "SMPModelFactory":
        _smp(given, where)
    elif factory == "EncoderDecoderFactory":
        _encoder_decoder(given, where)


def _smp(given: Mapping[str, Any], where: str) -> None:
    names = [name for name in _classes(smp) if hasattr(getattr(smp, name), "forward")]
    model, backbone = given.get("model"), given.get("backbone")
    if model not in names:
        raise unknown("the model", str(model), names, where)
    encoders = smp.encoders.get_encoder_names()
    if str(backbone).startswith("tu-"):
        encoders = [f"tu-{name}" for name in timm.list_models(pretrained=True)]
    if backbone not in encoders:
        raise unknown("the backbone", str(backbone), encoders, where)
    smp_names = {f"smp_{name}" for name in inspect.signature(getattr(smp, str(model))).parameters}
    factory = _factory_names("SMPModelFactory")
    for key in given:
        if key not in factory and key not in smp_names and not key.startswith(SMP_PREFIXES[1:]):
            raise unknown("the key in model_args,", key, factory | smp_names, where)


def _encoder_decoder(given: Mapping[str, Any], where: str) -> None:
    backbone, decoder = given.get("backbone"), given.get("decoder")
    if backbone not in BACKBONE_REGISTRY:
        raise unknown("the backbone", str(backbone), _registered(BACKBONE_REGISTRY), where)
    if decoder not in DECODER_REGISTRY:
        raise unknown("the decoder", str(decoder), _registered(DECODER_REGISTRY), where)
    for neck in given.get("necks") or []:
        name = neck.get("name") if isinstance(neck, Mapping) else neck
        if name not in NECK_REGISTRY:
            raise unknown("the neck", str(name), _registered(NECK_REGISTRY), where)
    factory = _factory_names("EncoderDecoderFactory")
    known = factory | {f"backbone_{name}" for name in _prithvi_names()}
    for key in given:
        swallowed = key.startswith("backbone_") and str(backbone).startswith("prithvi") and key not in known
        if swallowed or (key not in factory and not key.startswith(ENCODER_PREFIXES)):
            raise unknown("the key in model_args,", key, known, where)


def _registered(registry: Any) -> list[str]:
    """Names as an experiment writes them: those of TerraTorch bare, those of other houses as well."""
    return [name for source in registry._sources.values() for name in source]


def _factory_names(factory: str) -> set[str]:
    build = MODEL_FACTORY_REGISTRY[factory].build_model
    return set(inspect.signature(build).parameters) - {"self", "task", "kwargs"}


def _prithvi_names() -> set[str]:
    """Arguments that Prithvi's builders know; they swallow every other one without a word."""
    from terratorch.models.backbones import prithvi_mae, prithvi_vit

    targets = (prithvi_vit.prithvi_eo_v2_300, prithvi_vit._create_prithvi, prithvi_mae.PrithviViT.__init__)
    names = {name for target in targets for name in inspect.signature(target).parameters}
    return (names | {"out_indices"}) - {"self", "kwargs", "variant", "model_bands"}
