"""The challenger against the champion of the registry, on one truth and the same pixels; else why they are not."""

import tempfile
from pathlib import Path
from typing import Any

from casbah.blocks import seen_among
from casbah.errors import InputError
from casbah.models.on_tiles import block_counts, differences
from casbah.products.evaluation import EvaluationMetrics
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileFolds, TileInfo, TileSet
from casbah.progress import say
from casbah.register.candidate import Candidate
from casbah.register.promotion import Counts, Decision, counts_of, decide, seen_blocks, unseen_by_both
from casbah.registered import bundle_of

TRUTH = ("resolution", "building cover")
"""What makes the truth another one where it differs; the rest of `differences` is input, which tiles can hold."""


def compare(client: Any, name: str, champion: Any, candidate: Candidate) -> Decision:
    """Whether the candidate is better than the version `champion`; what stands in the way becomes the reason."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            held = bundle_of(name, str(champion.version), Path(scratch))
            challenger_counts = counts_of(candidate.metrics.blocks)
            eligible = unseen_by_both(list(challenger_counts), held.training, candidate.model.training)
            if not eligible:
                raise InputError(_nothing_unseen(champion, held, challenger_counts, candidate))
            champion_counts = _champion_counts(client, champion, held, candidate, eligible)
        except InputError as error:
            return Decision(False, f"not compared: {error}", False)
    return _decided({block: challenger_counts[block] for block in eligible}, champion_counts)


def evaluation_folder(digest: str) -> str:
    """Where in a run's artifacts an evaluation lies: several models may be registered from one run."""
    return f"evaluation/{digest[:16]}"


def _decided(challenger: Counts, champion: Counts) -> Decision:
    """Decide over the blocks in which both models were scored on as many pixels of either class."""
    both = set(challenger) & set(champion)
    same = {block for block in both if _truth(challenger[block]) == _truth(champion[block])}
    if both and not same:
        return Decision(
            False,
            f"not compared: in none of the {len(both)} blocks do the champion's tiles hold the pixels that the "
            "challenger's do; cut both from scenes of the same ground with the same labels and options",
            False,
        )
    return decide({block: challenger[block] for block in same}, {block: champion[block] for block in same})


def _truth(counts: tuple[int, int, int, int]) -> tuple[int, int]:
    tp, fp, fn, tn = counts
    return tp + fn, fp + tn


def _nothing_unseen(champion: Any, held: ModelBundle, tested: Counts, candidate: Candidate) -> str:
    for who, training in (("this model", candidate.model.training), (f"version {champion.version}", held.training)):
        if training.refit is not None:
            return (
                f"{who} is a {training.refit}, trained on every block, so none is left to test on; "
                "a whole city that neither model has seen would serve (casbah tile --test-scene)"
            )
    seen = len(seen_among(tested, seen_blocks(held.training)))
    return (
        f"of the {len(tested)} test blocks the champion (version {champion.version}) trained or was "
        f"tuned on {seen}, and none is unseen by both; a split that holds out the champion's own test blocks would "
        f"serve (casbah tile {champion.tags.get('casbah.split', 'with its seed and block size')}): tile, train and "
        "evaluate with it"
    )


def _champion_counts(client: Any, champion: Any, held: ModelBundle, candidate: Candidate, blocks: list[str]) -> Counts:
    """The champion's counts of `blocks`: those of its own evaluation where that was on these tiles, else made anew.

    `InputError` says why it can't be scored fairly, and what would serve.
    """
    who = f"the champion (version {champion.version})"
    if champion.tags.get("casbah.data") == candidate.metrics.tiles and (stored := _stored(client, champion)):
        return {block: counts for block, counts in stored.items() if block in blocks}
    tiles = candidate.champion_tiles or candidate.tiles
    if tiles is None:
        raise InputError(f"{who} was evaluated on other tiles; give --tiles, so that it is scored on these")
    if isinstance(tiles, TileFolds):
        raise InputError(f"{who} was evaluated on other tiles, and a model of one fold alone is scored on its fold")
    _check_same_truth(who, champion, held, tiles, candidate)
    if found := differences(held.training, tiles.info):
        raise InputError(f"{who} was trained on {'; '.join(found.values())}{_what_would_serve(candidate)}")
    say(f"scoring {who} on {len(blocks)} test blocks of {tiles.path}")
    return dict(block_counts(held, tiles, "test", blocks))


def _check_same_truth(who: str, champion: Any, held: ModelBundle, tiles: TileSet, candidate: Candidate) -> None:
    """`InputError` unless champion and challenger learned and are scored against footprints on one yardstick."""
    other = differences(held.training, tiles.info)
    found = [other[fact] for fact in TRUTH if fact in other]
    found += _other_truth(tiles.info, candidate) if tiles is candidate.champion_tiles else []
    if champion.tags.get("casbah.aligned", str(candidate.aligned).lower()) != str(candidate.aligned).lower():
        found.append("footprints as published" if candidate.aligned else "footprints moved onto the image")
    if found:
        raise InputError(
            f"{who} has another yardstick: {'; '.join(found)}; a challenger trained and evaluated on tiles of the "
            "champion's resolution, building cover and alignment would serve"
        )


def _other_truth(info: TileInfo, candidate: Candidate) -> list[str]:
    extra = candidate.metrics.extra
    facts = {
        "resolution": (f"{info.resolution:g} m", f"{extra['resolution']:g} m"),
        "building cover": (f"{info.building_cover} %", f"{extra['building_cover']} %"),
        "alignment": ("yes" if info.aligned else "no", "yes" if candidate.aligned else "no"),
    }
    return [f"{name} {there} where the evaluation has {here}" for name, (there, here) in facts.items() if there != here]


def _what_would_serve(candidate: Candidate) -> str:
    if candidate.champion_tiles is not None:
        return f" ({candidate.champion_tiles.path}); give --champion-tiles that hold its own inputs"
    return (
        "; tiles of its own inputs, of the same ground and cut into the same blocks, would serve "
        f"(casbah tile {candidate.split}, then register again with --champion-tiles)"
    )


def _stored(client: Any, champion: Any) -> dict[str, tuple[int, int, int, int]] | None:
    """The counts of the champion's own evaluation; None where its run no longer holds them."""
    if not champion.run_id:
        return None
    folder = evaluation_folder(champion.tags["casbah.evaluation"])
    if not any(file.path == f"{folder}/metrics.json" for file in client.list_artifacts(champion.run_id, folder)):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        file = client.download_artifacts(champion.run_id, f"{folder}/metrics.json", scratch)
        metrics = EvaluationMetrics.model_validate_json(Path(file).read_text(encoding="utf-8"))
    return counts_of(metrics.blocks)
