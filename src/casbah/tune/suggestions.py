"""What the next trial tries: Optuna's TPE, asked so that its answer depends on nothing but the study itself."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from casbah.tune.space import Dimension, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

STARTUP = 8
"""Trials that are drawn at random (the first of them is the experiment as it stands) before TPE learns from them."""


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """A space in Optuna's words."""
    return {dimension.key: _distribution(dimension) for dimension in space.dimensions}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution(dimension.labels)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def suggest(
    space: Space, finished: Sequence[FrozenTrial], running: Sequence[Mapping[str, Any]], *, seed: int, number: int
) -> dict[str, Any]:
    """What trial `number` draws after the `finished` trials, while others with these draws are `running`.

    The sampler (tree-structured Parzen estimator; Bergstra et al. 2011, Watanabe 2023, arXiv 2304.11127) is seeded anew
    from seed and number, so that a study that was stopped suggests what it would have suggested anyway.
    """
    own = int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")
    sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, constant_liar=True, seed=own)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(finished)
    among = distributions(space)
    for drawn in running:
        study.add_trial(frozen(space, drawn, state=TrialState.RUNNING))
    found = study.ask(among).params
    return {dimension.key: dimension.rounded(found[dimension.key]) for dimension in space.dimensions}


def frozen(space: Space, drawn: Mapping[str, Any], **facts: Any) -> FrozenTrial:
    """A trial with these draws, as Optuna keeps it."""
    among = distributions(space)
    return create_trial(params=dict(drawn), distributions={key: among[key] for key in drawn}, **facts)
