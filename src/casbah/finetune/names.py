"""Checks the names in a network's experiment against what the libraries know, before they do it in their own words."""

import inspect
from collections.abc import Collection, Iterable, Mapping
from importlib import import_module
from typing import Any

import segmentation_models_pytorch as smp
import terratorch.datamodules
import terratorch.models
import terratorch.tasks
import timm
import torch
from lightning.pytorch import Trainer, callbacks
from terratorch.models.backbones import prithvi_mae, prithvi_vit
from terratorch.models.heads import SegmentationHead
from terratorch.registry import BACKBONE_REGISTRY, DECODER_REGISTRY, MODEL_FACTORY_REGISTRY, NECK_REGISTRY
from terratorch.registry.registry import MultiSourceRegistry

import casbah.finetune
from casbah.errors import InputError
from casbah.finetune.experiment import Experiment, check_range, unknown
from casbah.models import graph

OURS = {
    "model": ("BuildingSegmentationTask",),
    "data": ("TileDataModule",),
    "trainer.callbacks": ("ReleaseBackbone", "EpochModelCheckpoint", "StopOnNaN"),
    "optimizer": (),
    "lr_scheduler": (),
}
THEIRS: dict[str, Any] = {
    "model": terratorch.tasks,
    "data": terratorch.datamodules,
    "trainer.callbacks": callbacks,
    "optimizer": torch.optim,
    "lr_scheduler": torch.optim.lr_scheduler,
}


def check(experiment: Experiment, task: type = terratorch.tasks.SemanticSegmentationTask) -> None:
    """`InputError` with the nearest names for the first key, class, factory, backbone, decoder or neck not known.

    A value that is no mapping or list where one is wanted is refused as well. The model is to be a kind of `task`.
    """
    settings, where = experiment.settings, experiment.source
    trainer = _mapping(settings.get("trainer"), "trainer", where)
    _keys(trainer, _parameters(Trainer), "trainer", where)
    for entry in _list(trainer.get("callbacks"), "trainer.callbacks", where):
        _class(entry, "trainer.callbacks", where)
    _class(settings["data"], "data", where, casbah.finetune.TileDataModule)
    model = _class(settings["model"], "model", where, task)
    _optimizer(settings, model, where)
    if issubclass(model, terratorch.tasks.SemanticSegmentationTask):
        arguments = _mapping(settings["model"].get("init_args"), "model.init_args", where)
        _network(arguments, where)
        if isinstance(arguments.get("lr"), int | float):
            check_range(f"{where}: model.init_args.lr", arguments["lr"], above=0)


def _mapping(value: Any, key: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping | None):
        raise InputError(f"{where}: {key} is {value!r}; a mapping of names to values is wanted")
    return value or {}


def _list(value: Any, key: str, where: str) -> list[Any]:
    if not isinstance(value, list | None):
        raise InputError(f"{where}: {key} is {value!r}; a list is wanted")
    return value or []


def _class(entry: Any, section: str, where: str, wanted: type = object) -> type:
    """The class that an entry names, of the wanted kind and with arguments that it takes."""
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
        called = f"{section} ({path.rpartition('.')[2]})"
        _keys(entry, ("class_path", "init_args"), called, where)
        _keys(_mapping(entry.get("init_args"), f"{called}.init_args", where), _parameters(found), called, where)
    return found


def _optimizer(settings: Mapping[str, Any], model: type, where: str) -> None:
    """Check the sections that TerraTorch's own tasks take their optimizer from."""
    for section in ("optimizer", "lr_scheduler"):
        if settings.get(section) is None:
            continue
        if issubclass(model, casbah.finetune.BuildingSegmentationTask):
            raise InputError(
                f"{where}: {model.__name__} brings its own optimizer and schedule, so leave out {section}; set "
                "model.init_args.lr, backbone_lr, weight_decay, warmup and schedule in its place"
            )
        _class(settings[section], section, where)


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
    factory = arguments.get("model_factory")
    given = _mapping(arguments.get("model_args"), "model.init_args.model_args", where)
    if factory is None:
        raise InputError(f"{where}: model names no model_factory, as SMPModelFactory or EncoderDecoderFactory")
    _known("the model_factory", factory, MODEL_FACTORY_REGISTRY, where)
    if factory == "SMPModelFactory":
        _smp(given, where)
    elif factory == "EncoderDecoderFactory":
        _encoder_decoder(given, where)
    elif factory == graph.FACTORY:
        _keys(given, _factory_names(factory), "model_args", where)


def _known(what: str, name: Any, names: Collection[str] | MultiSourceRegistry[Any], where: str) -> None:
    if not isinstance(name, str) or name not in names:
        listed = _registered(names) if isinstance(names, MultiSourceRegistry) else names
        raise unknown(what, name if isinstance(name, str) else str(name), listed, where)


def _smp(given: Mapping[str, Any], where: str) -> None:
    names = [name for name in _classes(smp) if hasattr(getattr(smp, name), "forward")]
    _known("the model", given.get("model"), names, where)
    encoders = smp.encoders.get_encoder_names()
    if str(given.get("backbone")).startswith("tu-"):
        encoders = [f"tu-{name}" for name in timm.list_models(pretrained=True)]
    _known("the backbone", given.get("backbone"), encoders, where)
    smp_names = {f"smp_{name}" for name in inspect.signature(getattr(smp, given["model"])).parameters}
    factory = _factory_names("SMPModelFactory")
    for key in map(str, given):
        if key not in factory and key not in smp_names:  # it drops backbone_… and aux_… without a word
            raise unknown("the key in model_args,", key, factory | smp_names, where)


def _encoder_decoder(given: Mapping[str, Any], where: str) -> None:
    backbone, decoder = given.get("backbone"), given.get("decoder")
    _known("the backbone", backbone, BACKBONE_REGISTRY, where)
    _known("the decoder", decoder, DECODER_REGISTRY, where)
    for number, neck in enumerate(_list(given.get("necks"), "model_args.necks", where)):
        _neck(neck, f"model_args.necks.{number}", None if number else _layers(given), where)
    parts = {
        "backbone_": _backbone_names(str(backbone)),
        "decoder_": _decoder_names(str(decoder)),
        "head_": _taken(SegmentationHead, 1),
    }
    factory = _factory_names("EncoderDecoderFactory")
    known = factory | {f"{prefix}{name}" for prefix, names in parts.items() for name in names or ()}
    free = tuple(prefix for prefix, names in parts.items() if names is None)
    for key in map(str, given):
        if key not in known and not key.startswith(free):
            part = next((prefix for prefix in parts if key.startswith(prefix)), "")
            of_part = [name for name in known if name.startswith(part)]
            raise unknown("the key in model_args,", key, of_part or known, where)


def _neck(neck: Any, key: str, layers: int | None, where: str) -> None:
    """Check a neck that gets as many `layers`, where that is known."""
    entry = _mapping(neck, key, where)
    _known("the neck", entry.get("name"), NECK_REGISTRY, where)
    known = _taken(NECK_REGISTRY.find_class(entry["name"]), 1)
    _keys(entry, None if known is None else known | {"name"}, f"{key} ({entry['name']})", where)
    if entry["name"] != "SelectIndices":
        return
    wanted = entry.get("indices")
    if not isinstance(wanted, list) or not all(isinstance(index, int) for index in wanted):
        raise InputError(f"{where}: {key}.indices is {wanted!r}; a list of whole numbers is wanted")
    beyond = [index for index in wanted if layers is not None and not -layers <= index < layers]
    if beyond:
        raise InputError(
            f"{where}: {key}.indices holds {beyond[0]}, and the backbone has {layers} layers, counted from 0"
        )


def _registered(registry: Any) -> list[str]:
    """Names as an experiment writes them: those of TerraTorch bare, those of other houses as well."""
    return [name for source in registry._sources.values() for name in source]


def _factory_names(factory: str) -> set[str]:
    build = MODEL_FACTORY_REGISTRY[factory].build_model
    return set(inspect.signature(build).parameters) - {"self", "task", "kwargs"}


def _taken(target: Any, first: int) -> set[str] | None:
    """Names of what a class or function takes after its `first` parameters; None where it takes any."""
    names = _parameters(target)
    if names is None:
        return None
    return names - set(list(inspect.signature(target).parameters)[:first])


def _decoder_names(decoder: str) -> set[str] | None:
    found = DECODER_REGISTRY.find_class(decoder)
    if found.__module__.startswith("segmentation_models_pytorch"):
        # What is left over there goes to an encoder, which stands in for the backbone.
        names = set(inspect.signature(found).parameters)
        return {name for name in names if not name.startswith("encoder_")} - {"in_channels", "classes", "kwargs"}
    return _taken(found, 1)


def _backbone_names(backbone: str) -> set[str] | None:
    """Arguments of a backbone's builder; None where it, or timm, takes any."""
    bare = backbone.removeprefix("terratorch_")
    if bare.startswith("prithvi"):
        return _prithvi_names()
    registry = BACKBONE_REGISTRY["terratorch"]
    return _taken(registry[bare], 0) if bare in registry else None


def _prithvi_names() -> set[str]:
    """Arguments that Prithvi's builders know; they swallow every other one without a word."""
    targets = (prithvi_vit.prithvi_eo_v2_300, prithvi_vit._create_prithvi, prithvi_mae.PrithviViT.__init__)
    names = {name for target in targets for name in inspect.signature(target).parameters}
    return (names | {"out_indices"}) - {"self", "kwargs", "variant", "model_bands"}


def _layers(given: Mapping[str, Any]) -> int | None:
    """How many layers the backbone gives, where that is known before it is built."""
    settings = prithvi_vit.prithvi_cfgs.get(str(given.get("backbone")).removeprefix("terratorch_"))
    changed = any(f"backbone_{name}" in given for name in ("depth", "out_indices", "vit_adapter"))
    return int(settings["depth"]) if settings and not changed else None
