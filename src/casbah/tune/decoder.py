"""Which decoders may stand for each other behind one backbone, and the necks that each of them needs."""

import copy
from collections.abc import Mapping
from typing import Any

ARGUMENTS = "model.init_args.model_args"
DECODER = f"{ARGUMENTS}.decoder"

PYRAMID, PLAIN = "UperNetDecoder", "FCNDecoder"

TO_PYRAMID = ("LearnedInterpolateToPyramidal", "InterpolateToPyramidal", "MaxpoolToPyramidal")
"""Necks that turn layers of one scale into four scales."""


def exchangeable(settings: Mapping[str, Any]) -> bool:
    """Whether FCNDecoder may stand for the UperNetDecoder of an experiment.

    It may where a neck makes the pyramid, and where no argument but the width is given to the decoder.
    """
    given = _model_args(settings)
    names = [neck.get("name") for neck in given.get("necks") or [] if isinstance(neck, Mapping)]
    special = [key for key in given if str(key).startswith("decoder_") and key != "decoder_channels"]
    return (
        given.get("decoder") == PYRAMID
        and names[:1] == ["SelectIndices"]
        and any(name in TO_PYRAMID for name in names)
        and not special
    )


def of_one_width(settings: Mapping[str, Any]) -> bool:
    """Whether the decoder's width is one number."""
    given = _model_args(settings)
    return given.get("decoder") in (PYRAMID, PLAIN) and isinstance(given.get("decoder_channels", 1), int)


def necks(chosen: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The setting of necks that goes with a chosen decoder; none where the experiment's own are right.

    FCNDecoder enlarges the last layer step by step: it needs no pyramid, which would first shrink that layer.
    """
    if chosen.get(DECODER) != PLAIN or not exchangeable(settings):
        return {}
    kept = [copy.deepcopy(neck) for neck in _model_args(settings)["necks"] if neck.get("name") not in TO_PYRAMID]
    kept[0]["indices"] = kept[0]["indices"][-1:]
    return {f"{ARGUMENTS}.necks": kept}


def _model_args(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    model = settings.get("model")
    arguments = model.get("init_args") if isinstance(model, Mapping) else None
    given = arguments.get("model_args") if isinstance(arguments, Mapping) else None
    return given if isinstance(given, Mapping) else {}
