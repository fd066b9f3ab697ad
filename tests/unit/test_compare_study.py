"""A study trains what is missing, ranks by validation, keeps what others lose, and says all of it in one report."""

import contextlib
import csv
import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import make_tiles
from scored_models import make_bundle

from casbah import experiments
from casbah.cli import main
from casbah.compare import compare, report, scoring_process
from casbah.compare.ground import Ground
from casbah.compare.plan import CASBAH, read_rows
from casbah.compare.processes import Failure, Job, Outcome
from casbah.compare.results import convergence
from casbah.compare.rows import RANDOM, origin, study
from casbah.compare.shown import chosen
from casbah.errors import InputError
from casbah.evaluate import evaluate
from casbah.finetune.subset import training_rows
from casbah.pipeline import steps
from casbah.products.comparison import Comparison
from casbah.products.evaluation import Evaluation
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileFolds, TileSet
from casbah.tune import space

Started = list[str]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    """A simulated town of 48 tiles, one a block: 27 of them to learn from."""
    return make_tiles(tmp_path_factory.mktemp("town") / "tiles")


@pytest.fixture(autouse=True)
def started(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Started:
    """Jobs run in this process, which saves the imports of each, and their evaluations are not drawn.

    Returns the names of those that were begun.
    """
    begun: Started = []

    def run(jobs: Sequence[Job], places: Sequence[Any]) -> Outcome:
        outcome = Outcome()
        for job in jobs:
            if not outcome.done.issuperset(job.needs):
                outcome.lost.add(job)
            elif job.finished():
                outcome.done.add(job)
            else:
                begun.append(job.name)
                code, said = executed(job)
                if code:
                    outcome.failed[job] = Failure(code, said.splitlines()[-1].removeprefix("casbah: "))
                else:
                    job.keep(places[0].device)
                    outcome.done.add(job)
        return outcome

    def blank(directory: Path, *_: Any) -> None:
        for name in ("report.html", "report.md", "map.html"):
            (directory / name).write_text("")

    monkeypatch.setattr("casbah.compare.processes.run", run)
    monkeypatch.setattr("casbah.evaluate.stage.write_report", blank)
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("casbah.compare.writing._pictures", lambda found, results: {"curve": b"", "maps": b""})
    return begun


@pytest.fixture
def drawn() -> None:
    """Asks for real pictures."""


def executed(job: Job) -> tuple[int, str]:
    """The command of a job, run here."""
    said = io.StringIO()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        if job.command[2] == CASBAH:
            try:
                main(list(job.command[3:]))
            except SystemExit as ended:
                return int(ended.code or 0), said.getvalue()
            return 0, ""
        return scoring_process.main(job.command[3:]), said.getvalue()


def yaml_of(folder: Path, name: str, rounds: int = 4, **settings: Any) -> str:
    """A quick experiment: trees of few rounds."""
    content = {"kind": "boosted_pixels", "trees": {"rounds": rounds, "min_samples_leaf": 20}} | settings
    (folder / f"{name}.yaml").write_text(json.dumps(content))
    return str(folder / f"{name}.yaml")


def compared(folder: Path, tiles: TileSet | TileFolds, names: Sequence[str], **options: Any) -> Comparison:
    fields: dict[str, Any] = {"seeds": 1, "budgets": "all"} | options
    return compare(tiles=tiles.path, output=folder / "study", experiments=names, **fields)


def cells(done: Comparison) -> list[dict[str, str]]:
    with open(done.path / "cells.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_second_run_starts_nothing_and_reports_the_same(tmp_path: Path, tiles: TileSet, started: Started) -> None:
    names = [yaml_of(tmp_path, "short", 2), yaml_of(tmp_path, "long", 6)]
    first = compared(tmp_path, tiles, names)
    assert len(started) == 4, "two trainings and their scores"
    started.clear()
    again = compared(tmp_path, tiles, names)
    assert started == []
    assert again.digest == first.digest


def test_a_changed_experiment_trains_its_own_row_alone(tmp_path: Path, tiles: TileSet, started: Started) -> None:
    names = [yaml_of(tmp_path, "short", 2), yaml_of(tmp_path, "long", 6)]
    compared(tmp_path, tiles, names)
    started.clear()
    yaml_of(tmp_path, "long", 5)
    done = compared(tmp_path, tiles, names)
    assert started == ["long, seed 0, all tiles", "long, seed 0, all tiles, scores"]
    assert {row["best_epoch"] for row in cells(done) if row["experiment"] == "long"} == {"5"}


def test_other_tiles_train_everything_anew(tmp_path: Path, tiles: TileSet, started: Started) -> None:
    names = [yaml_of(tmp_path, "short", 2)]
    compared(tmp_path, tiles, names)
    started.clear()
    compared(tmp_path, with_other_test_labels(tiles, tmp_path / "other"), names)
    assert len(started) == 2


def test_a_damaged_model_is_made_again(tmp_path: Path, tiles: TileSet, started: Started) -> None:
    names = [yaml_of(tmp_path, "short", 2)]
    compared(tmp_path, tiles, names)
    started.clear()
    shutil.rmtree(next((tmp_path / "study").glob("runs/short/*/model")))
    compared(tmp_path, tiles, names)
    assert started[0] == "short, seed 0, all tiles"


def test_a_failing_row_keeps_the_others_and_decides_the_exit_code(
    tmp_path: Path, tiles: TileSet, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [yaml_of(tmp_path, "lacking", bands=["B10"]), yaml_of(tmp_path, "short", 2)]
    words = ["--tiles", str(tiles.path), "--output", str(tmp_path / "study"), "--seeds", "1", "--budgets", "all"]
    with pytest.raises(SystemExit) as ended:
        main(["compare", *names, *words])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert re.search(
        r"casbah: lacking failed \(the report has the others\): .*'B10' is not a Sentinel-2 band", said.err
    )
    assert "SIMULATED" in said.out
    done = Comparison.open(tmp_path / "study" / "report")
    assert [row.experiment for row in done.facts.rows] == ["short"]
    assert [one.experiment for one in done.facts.failed] == ["lacking"]
    for page in ("comparison.html", "comparison.md"):
        text = (done.path / page).read_text()
        assert "lacking" in text
        assert "B10" in text


def test_where_every_row_fails_the_report_says_why(tmp_path: Path, tiles: TileSet) -> None:
    done = compared(tmp_path, tiles, [yaml_of(tmp_path, "lacking", bands=["B10"])])
    assert done.facts.best is None
    assert "No model was measured" in (done.path / "comparison.md").read_text()
    assert "B10" in (done.path / "comparison.html").read_text()


def test_every_row_learns_from_the_same_nested_draws(tmp_path: Path, tiles: TileSet) -> None:
    names = [yaml_of(tmp_path, "short", 2), yaml_of(tmp_path, "long", 3)]
    done = compared(tmp_path, tiles, names, budgets="4,9,all,500", seeds=2)
    blocks = {}
    for file in sorted((tmp_path / "study").glob("runs/*/seed_*/model")):
        training = ModelBundle.open(file).training
        blocks[training.experiment, file.parent.name] = set(training.blocks["train"])
    for seed in (0, 1):
        for budget in ("4", "9", "all"):
            assert blocks["short", f"seed_{seed}-{budget}"] == blocks["long", f"seed_{seed}-{budget}"]
        assert (
            blocks["short", f"seed_{seed}-4"] < blocks["short", f"seed_{seed}-9"] < blocks["short", f"seed_{seed}-all"]
        )
    assert blocks["short", "seed_0-4"] != blocks["short", "seed_1-4"], "another seed is another draw"
    drawn = {(row["seed"], row["budget"], row["tiles"], row["km2"]) for row in cells(done)}
    assert len(drawn) == 6, "one size for each seed and budget, whatever the model"
    assert done.facts.left_out == (500,)
    assert "500" in (done.path / "comparison.md").read_text()
    split = tiles.split("train")
    known = (split.masks[training_rows(split.blocks, 9, 1)] != 255).sum()
    assert ("1", "9", "9", str(known * 100 / 1e6)) in drawn


def test_the_second_table_has_a_line_for_each_budget_with_an_interval_over_draws(
    tmp_path: Path, tiles: TileSet
) -> None:
    done = compared(tmp_path, tiles, [yaml_of(tmp_path, "short", 2)], budgets="5,all", seeds=2)
    few, most = done.facts.budgets
    assert (few.budget, few.tiles, few.draws, most.budget, most.tiles) == (5, 5, 2, None, 27)
    assert 0 <= few.iou.low < few.iou.value < few.iou.high <= 1
    values = [float(row["run_test_iou"]) for row in cells(done) if row["budget"] == "5"]
    assert few.iou.value == pytest.approx(np.mean(values))
    assert few.device_hours > 0
    assert few.peak_memory > 1e6
    assert few.convergence_unit == "rounds"
    one = compared(tmp_path / "one", tiles, [yaml_of(tmp_path, "short", 2)])
    assert one.facts.budgets[0].iou.low is None, "one draw has no interval over draws"
    assert one.facts.rows[0].spread is None


def with_other_test_labels(tiles: TileSet, target: Path) -> TileSet:
    """The same tiles, but that on test what was building is none, and the other way round."""
    manifest = tiles.manifest
    with TileSet.write(target, parameters=manifest.parameters, inputs=manifest.inputs) as draft:
        shutil.copytree(tiles.path, draft.directory, dirs_exist_ok=True)
        (draft.directory / "manifest.json").unlink()
        masks = np.load(draft.directory / "test" / "masks.npy")
        np.save(draft.directory / "test" / "masks.npy", np.where(masks == 255, 255, 1 - masks).astype(np.uint8))
    return TileSet.open(target)


def test_test_scores_decide_nothing(tmp_path: Path, tiles: TileSet) -> None:
    names = [yaml_of(tmp_path, name, rounds) for name, rounds in (("one", 1), ("three", 3), ("twenty", 20))]
    before = compared(tmp_path / "a", tiles, names).facts
    after = compared(tmp_path / "b", with_other_test_labels(tiles, tmp_path / "other"), names).facts
    assert [row.experiment for row in after.rows] == [row.experiment for row in before.rows]
    assert after.best == before.best
    assert [row.validation_iou for row in after.rows] == [row.validation_iou for row in before.rows]
    assert all(a.iou.value < 0.5 < b.iou.value for a, b in zip(after.rows, before.rows, strict=True))
    order = [row.validation_iou for row in before.rows]
    assert order == sorted(order, reverse=True)
    assert len({row.validation_iou for row in before.rows}) > 1


def test_with_folds_every_fold_is_trained_and_scores_are_pooled(tmp_path: Path, started: Started) -> None:
    folds = make_tiles(tmp_path / "tiles", folds=2)
    done = compared(tmp_path, folds, [yaml_of(tmp_path, "short", 2)], budgets="3,all")
    trained = [name for name in started if not name.endswith("scores")]
    assert trained == [f"short, seed 0, {size} tiles, fold {fold}" for size in ("all", "3") for fold in (0, 1)]
    assert not list((tmp_path / "study").rglob("refit")), "the study scores the protocol and registers nothing"
    assert done.facts.protocol.startswith("spatial 2-fold, pooled")
    tested = {block for fold in folds.folds for block in fold.info.blocks["test"]}
    assert done.facts.blocks == len(tested)
    assert {row["tiles"] for row in cells(done) if row["budget"] == "3"} == {"3"}, "a budget is that of each fold"
    assert len(cells(done)) == 4
    started.clear()
    compared(tmp_path, folds, [yaml_of(tmp_path, "short", 2)], budgets="3,all")
    assert started == []


def test_the_report_is_one_page_that_opens_offline(tmp_path: Path, tiles: TileSet, drawn: None) -> None:
    names = [yaml_of(tmp_path, "short<b>", 2), yaml_of(tmp_path, "long", 6)]
    done = compared(tmp_path, tiles, names, budgets="5,all")
    page = (done.path / "comparison.html").read_text()
    assert not re.search(r"""(src|href|url\()\s*=?\s*["']?(https?:)?//""", page)
    assert "default-src 'none'" in page
    assert page.count("data:image/png;base64,") == 2
    assert "short<b>" not in page
    headings = ["Model", "Backbone", "Pretrained on", "Starts from", "F1", "IoU", "Params", "Difference to the best",
                "Labelled tiles", "km²", "Epochs to converge", "Device hours", "Peak memory (GiB)"]  # fmt: skip
    for heading in headings:
        assert re.search(rf"<th[^>]*>{re.escape(heading)}</th>", page), heading
        assert heading in (done.path / "comparison.md").read_text(), heading
    assert '<div class="simulated" role="alert">SIMULATED DATA: this town does not exist' in page
    assert (done.path / "comparison.md").read_text().startswith("> **SIMULATED DATA**")
    for text in (page, (done.path / "comparison.md").read_text()):
        assert text.count("SIMULATED") >= 3, "and where the numbers stand"
        assert "Casbah's tests" in text.replace("&#39;", "'"), "attribution"
    for name in ("curve", "maps"):
        assert (done.path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_blocks_that_are_shown_are_chosen_by_their_building_share(tiles: TileSet) -> None:
    places = chosen(Ground.open(tiles.path))
    split = tiles.split("test")
    masks = {name: split.masks[np.array(split.blocks) == name] for name in split.blocks}
    shares = {name: (m == 1).sum() / (m != 255).sum() for name, m in masks.items() if (m == 1).sum() >= 30}
    assert len(places) == 4
    assert places[0].block == max(shares, key=shares.get)
    assert places[-1].block == min(shares, key=shares.get)
    assert [place.share for place in places] == sorted((shares[place.block] for place in places), reverse=True)


def test_the_best_row_and_noise_are_told_apart(tmp_path: Path, tiles: TileSet) -> None:
    names = [yaml_of(tmp_path, "ten", 10), yaml_of(tmp_path, "twin", 10), yaml_of(tmp_path, "poor", 1, bands=["B01"])]
    rows = {row.experiment: row for row in compared(tmp_path, tiles, names).facts.rows}
    best = next(row for row in rows.values() if row.verdict == "best")
    assert best.experiment == "ten", "of equals the first by name"
    assert rows["twin"].difference.value == 0
    assert rows["twin"].verdict == "within noise"
    assert rows["poor"].difference.high < 0
    assert rows["poor"].verdict == "worse"


def test_a_row_that_ran_from_random_weights_says_so_whatever_it_is_called(tmp_path: Path, tiles: TileSet) -> None:
    config = "model: {init_args: {model_args: {backbone: prithvi_eo_v2_300, backbone_pretrained: true}}}\n"

    def said(name: str, pretrained: str | None) -> tuple[str, str, str]:
        bundle = make_bundle(tmp_path / name, tiles, experiment="pretrained", kind="network", pretrained=pretrained)
        (bundle.path / "config.yaml").write_text(config)
        return origin(bundle)

    assert said("random", None) == ("Prithvi-EO-2.0 ViT-L", RANDOM, "random weights")
    loaded = said("loaded", "ibm-nasa-geospatial/Prithvi-EO-2.0-300M")
    assert loaded[1:] == ("HLS time series, global", "pretrained: ibm-nasa-geospatial/Prithvi-EO-2.0-300M")
    config = config.replace("}}}", ", backbone_depth: 4, backbone_embed_dim: 192}}}")
    assert said("small", None)[0] == "Prithvi-EO-2.0 ViT-L, cut to 4 blocks, width 192"


def test_an_ensemble_says_what_its_members_were_pretrained_on(tmp_path: Path, tiles: TileSet) -> None:
    trees = make_bundle(tmp_path / "trees", tiles)
    network = make_bundle(tmp_path / "network", tiles, kind="network", pretrained="ibm-nasa-geospatial/Prithvi")
    (network.path / "config.yaml").write_text("model: {init_args: {model_args: {backbone: prithvi_eo_v2_300}}}\n")

    def of(*members: ModelBundle) -> Any:
        training = SimpleNamespace(kind="ensemble", weights_origin="ensemble of two")
        return SimpleNamespace(training=training, members={str(member.path): member for member in members})

    assert origin(of(trees, network))[:2] == ("–", "HLS time series, global")
    assert origin(of(trees, trees))[:2] == ("–", "–"), "trees start from nothing"


@pytest.mark.parametrize(
    ("history", "monitor", "expected"),
    [
        ([0.1, 0.5, 0.496, 0.5, 0.3], "val/IoU_building_best", 2),
        ([0.1, 0.494, 0.496, 0.5], "val/IoU_building_best", 3),
        ([0.0, 0.0], "val/IoU_building_best", 1),
    ],
)
def test_epochs_to_converge_are_counted_to_the_first_within_a_hundredth_of_the_best(
    history: list[float], monitor: str, expected: int, tmp_path: Path, tiles: TileSet
) -> None:
    bundle = make_bundle(tmp_path / "model", tiles)
    rows = [{"epoch": float(number), monitor: value} for number, value in enumerate(history)]
    (bundle.path / "metrics.json").write_text(json.dumps({"monitor": monitor, "history": rows}))
    assert convergence(bundle) == expected


def test_trees_converge_by_rounds_of_their_validation_loss(tmp_path: Path, tiles: TileSet) -> None:
    bundle = make_bundle(tmp_path / "model", tiles)
    rows = [{"round": number, "val/loss": value} for number, value in enumerate([0.7, 0.3, 0.201, 0.2, 0.25])]
    (bundle.path / "metrics.json").write_text(json.dumps({"monitor": "val/loss", "history": rows}))
    assert convergence(bundle) == 2
    assert convergence(make_bundle(tmp_path / "none", tiles)) is None


def test_the_study_is_every_model_that_is_to_be_compared() -> None:
    networks = {
        *("unet_scratch", "unet_imagenet", "deeplabv3plus_imagenet", "segformer_b2_imagenet"),
        *("prithvi_100m_upernet", "prithvi_300m_upernet", "prithvi_100m_fcn", "prithvi_tiny_upernet"),
        *("terramind_base_fpn", "terramind_base_upernet", "satmae_large_upernet", "scalemae_large_upernet"),
        *("galileo_nano_upernet", "galileo_nano_scratch", "urban_graphsage", "unet_upsampled_small"),
    }
    assert set(study()) == networks | {"boosted_pixels", "boosted_context", "ensemble"}
    small = set(study(small=True))
    assert len(small) == len(study())
    assert {"unet_scratch_small", "unet_upsampled_small", "boosted_pixels", "ensemble_small"} <= small


def test_code_that_trains_otherwise_is_asked_again_and_keeps_what_it_would_make_the_same(
    tmp_path: Path, tiles: TileSet, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah.compare import plan

    names = [yaml_of(tmp_path, "short", 2)]
    first = compared(tmp_path, tiles, names)
    started.clear()
    monkeypatch.setattr(plan, "code", lambda: "of another version")
    again = compared(tmp_path, tiles, names)
    assert list(started) == ["short, seed 0, all tiles"], "the scores of the same model stand"
    assert again.digest == first.digest


def test_small_takes_the_variants_for_a_cpu_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("big", "big_small", "trees"):
        (tmp_path / f"{name}.yaml").write_text("")
    monkeypatch.setattr(experiments, "FOLDER", tmp_path)
    assert study() == ["big", "trees"]
    assert study(small=True) == ["big_small", "trees"]


def test_a_setting_goes_to_the_rows_of_its_kind(tmp_path: Path, tiles: TileSet) -> None:
    given = ["trees.rounds=3", "trainer.max_epochs=1", "weights=validation"]
    rows = read_rows(["boosted_pixels", "unet_scratch_small", "ensemble_small"], False, given)
    assert [row.overrides for row in rows] == [(one,) for one in given]
    done = compared(tmp_path, tiles, [yaml_of(tmp_path, "short", 9)], overrides=["trees.rounds=3"])
    assert cells(done)[0]["best_epoch"] == "3"
    with pytest.raises(InputError, match=r"trainer.max_epochs=1 is a setting of none of short"):
        compared(tmp_path, tiles, [yaml_of(tmp_path, "short", 9)], overrides=["trainer.max_epochs=1"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"names": ["unet_scrach"]}, "did you mean unet_scratch"),
        ({"names": ["unet_scratch", "unet_scratch"]}, "two experiments are called unet_scratch"),
        ({"names": ["unet_scratch"], "small": True}, "--small takes the small variants of all rows"),
        ({"budgets": "50,many"}, "--budgets has 'many'"),
        ({"budgets": "0"}, "--budgets has '0'"),
        ({"budgets": "5,5"}, "--budgets names one twice"),
        ({"budgets": "500"}, "no budget can be drawn: the smallest of --budgets is 500, and .* has 27 training tiles"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"jobs": 0}, "--jobs is 0"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    options: dict[str, Any], sentence: str, tmp_path: Path, tiles: TileSet
) -> None:
    names = options.pop("names", ["boosted_pixels"])
    with pytest.raises(InputError, match=sentence):
        compared(tmp_path, tiles, names, **options)
    assert not list(tmp_path.iterdir())


def test_budgets_are_refused_where_tiles_overlap_and_all_of_them_are_not(tmp_path: Path) -> None:
    overlapping = make_tiles(tmp_path / "tiles", tile_size=16, stride=8)
    with pytest.raises(InputError, match=r"tiles that overlap \(stride 8 of 16 px\).* --budgets all"):
        compared(tmp_path, overlapping, ["boosted_pixels"], budgets="5,all")
    done = compared(tmp_path, overlapping, [yaml_of(tmp_path, "short", 2)])
    assert done.facts.budgets[0].km2 is None
    assert "since tiles overlap" in (done.path / "comparison.html").read_text()


def test_two_comparisons_never_work_in_one_directory(tmp_path: Path, tiles: TileSet) -> None:
    import fcntl

    (tmp_path / "study").mkdir()
    with open(tmp_path / "study" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another casbah compare is at work in"):
            compared(tmp_path, tiles, [yaml_of(tmp_path, "short", 2)])


def test_a_report_is_written_of_models_and_evaluations_that_are_there(tmp_path: Path, tiles: TileSet) -> None:
    done = compared(tmp_path, tiles, [yaml_of(tmp_path, "short", 2), yaml_of(tmp_path, "long", 6)])
    runs = sorted((tmp_path / "study" / "runs").glob("*/seed_0-all"))
    given: dict[str, Any] = {
        "models": [run / "model" for run in runs],
        "validations": [run / "val" for run in runs],
        "tests": [run / "test" for run in runs],
        "tiles": tiles.path,
    }
    alone = report(**given, output=tmp_path / "alone")
    assert alone.facts == done.facts
    refused = [
        ({"tests": given["validations"]}, "made on the val split; that on test is wanted"),
        ({"models": given["models"][::-1]}, "scores another model"),
        ({"tests": given["tests"][:1]}, "2 models, 2 evaluations on validation and 1 on test were given"),
        ({"tiles": with_other_test_labels(tiles, tmp_path / "other").path}, "made on other tiles"),
        ({name: [one[0]] * 2 for name, one in given.items() if name != "tiles"}, "given twice"),
    ]
    for change, sentence in refused:
        with pytest.raises(InputError, match=sentence):
            report(**given | change, output=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_the_component_leaves_the_comparison_and_its_pages(tmp_path: Path, tiles: TileSet) -> None:
    done = compared(tmp_path, tiles, [yaml_of(tmp_path, "short", 2)])
    run = next((tmp_path / "study" / "runs").glob("*/seed_0-all"))

    def artifact(path: Path) -> Any:
        return SimpleNamespace(path=str(path), metadata={})

    comparison, page, summary = (artifact(tmp_path / name) for name in ("comparison", "page", "summary"))
    models, validations, tests = ([artifact(run / name)] for name in ("model", "val", "test"))
    given = {"models": models, "validations": validations, "tests": tests, "tiles": artifact(tiles.path)}
    steps.compare(comparison, page, summary, **given)
    assert Comparison.open(comparison.path).facts == done.facts
    assert comparison.metadata["best"] == "short"
    assert "<h1>Building models compared</h1>" in Path(page.path).read_text()
    assert "![" not in Path(summary.path).read_text(), "the Kubeflow UI shows this file without its pictures"


def test_an_ensemble_is_made_of_the_models_of_the_other_rows(tmp_path: Path, tiles: TileSet, started: Started) -> None:
    one, two = yaml_of(tmp_path, "one"), yaml_of(tmp_path, "two", rounds=6)
    blend = tmp_path / "blend.yaml"
    blend.write_text(f"kind: ensemble\nmembers: [{one}, {two}]\n")
    done = compared(tmp_path, tiles, [one, two, str(blend)])
    assert [name for name in started if "scores" not in name] == [
        f"{name}, seed 0, all tiles" for name in ("one", "two", "blend")
    ]
    place = tmp_path / "study" / "runs"
    members = ModelBundle.open(place / "blend" / "seed_0-all" / "model").members
    rows = [ModelBundle.open(place / name / "seed_0-all" / "model") for name in ("one", "two")]
    assert [member.digest for member in members.values()] == [row.digest for row in rows]
    assert {row["experiment"] for row in cells(done)} == {"one", "two", "blend"}
    started.clear()
    compared(tmp_path, tiles, [one, two, str(blend)])
    assert not started


@pytest.mark.long
def test_with_trials_every_fold_is_tuned_by_itself(tmp_path: Path, started: Started) -> None:
    folds = make_tiles(tmp_path / "folds", folds=2)
    place = tmp_path / "study" / "runs" / "one" / "seed_0-all"
    name = yaml_of(tmp_path, "one")
    compared(tmp_path, folds, [name], trials=2)
    for fold in range(2):
        (study,) = (place / "tuning").glob(f"fold_{fold}-*/study.json")
        trials = json.loads(study.read_text())["trials"]
        assert len(trials) == 2
        best = max(trial["iou"] for trial in trials)
        assert ModelBundle.open(place / "models" / f"fold_{fold}").metrics["validation"]["iou"] == best
    metrics = Evaluation.open(place / "test").metrics
    assert metrics.protocol.endswith("settings too, among 2 trials")
    started.clear()
    compared(tmp_path, folds, [name], trials=2)
    assert not started
    ModelBundle.open(place / "models" / "fold_1").tuned_among(3)
    with pytest.raises(InputError, match=r"fold_1 was tuned among 3 trials, and .*fold_0 among 2"):
        evaluate(model=place / "models", tiles=folds.path, output=tmp_path / "again")


@pytest.mark.long
def test_an_ensemble_of_tuned_folds_is_scored_as_one_protocol(tmp_path: Path) -> None:
    folds = make_tiles(tmp_path / "folds", folds=2)
    names = [yaml_of(tmp_path, "one", 3), yaml_of(tmp_path, "two", 5)]
    blend = tmp_path / "blend.yaml"
    blend.write_text(json.dumps({"kind": "ensemble", "members": names}))
    done = compared(tmp_path, folds, [*names, str(blend)], trials=2)
    assert not done.facts.failed
    assert {row.experiment for row in done.facts.rows} == {"one", "two", "blend"}
    assert done.facts.protocol.endswith("settings too, among 2 trials"), "of all three rows"


def test_where_rows_differ_in_their_protocol_the_report_says_which_has_which(tmp_path: Path, tiles: TileSet) -> None:
    names = [yaml_of(tmp_path, "one", 3), yaml_of(tmp_path, "two", 5)]
    compared(tmp_path, tiles, names[:1], trials=2)
    compared(tmp_path, tiles, names[1:])
    runs = [tmp_path / "study" / "runs" / name / "seed_0-all" for name in ("one", "two")]
    made = report(
        models=[run / "model" for run in runs],
        validations=[run / "val" for run in runs],
        tests=[run / "test" for run in runs],
        tiles=tiles.path,
        output=tmp_path / "report",
    )
    tuned = "hold-out; threshold from validation; settings too, among 2 trials"
    assert set(made.facts.protocol.removeprefix("one: ").split("; two: ")) == {tuned, "hold-out"}


@pytest.mark.long
def test_with_trials_more_of_them_go_on_and_a_changed_experiment_is_tuned_anew(
    tmp_path: Path, tiles: TileSet, started: Started
) -> None:
    run = tmp_path / "study" / "runs" / "one" / "seed_0-all"
    place = run / "tuning"
    name = yaml_of(tmp_path, "one")
    compared(tmp_path, tiles, [name], trials=1)
    (first,) = place.glob("*/study.json")
    before = json.loads(first.read_text())["trials"]
    kept = ModelBundle.open(first.parent / "model")
    assert kept.digest == ModelBundle.open(run / "model").digest, "else more trials train the best one again"
    assert Evaluation.open(run / "test").metrics.protocol.endswith("settings too, among 1 trial")
    compared(tmp_path, tiles, [name], trials=2)
    assert json.loads(first.read_text())["trials"][:1] == before
    assert Evaluation.open(run / "test").metrics.protocol.endswith("settings too, among 2 trials")
    yaml_of(tmp_path, "one", rounds=7)
    started.clear()
    done = compared(tmp_path, tiles, [name], trials=2)
    assert not done.facts.failed
    assert [words for words in started if "scores" not in words] == ["one, seed 0, all tiles"]
    assert len(list(place.glob("*/study.json"))) == 2


@pytest.mark.long
def test_another_search_space_is_another_study_and_an_untuned_row_is_none_of_its_business(
    tmp_path: Path, tiles: TileSet, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = yaml_of(tmp_path, "one")
    for trials in (0, 1):
        compared(tmp_path / str(trials), tiles, [name], trials=trials)
    other = tmp_path / "spaces"
    shutil.copytree(space.FOLDER, other)
    trees = other / "trees.yaml"
    trees.write_text("trees.max_leaf_nodes: {low: 8, high: 9, whole: true}\n")
    monkeypatch.setattr(space, "FOLDER", other)
    started.clear()
    compared(tmp_path / "0", tiles, [name], trials=0)
    assert not started
    done = compared(tmp_path / "1", tiles, [name], trials=1)
    assert not done.facts.failed
    assert started[0] == "one, seed 0, all tiles"


def test_an_ensemble_learns_from_each_budget_with_members_that_are_rows_and_others(
    tmp_path: Path, tiles: TileSet
) -> None:
    one, other = yaml_of(tmp_path, "one"), yaml_of(tmp_path, "other", rounds=6)
    blend = tmp_path / "blend.yaml"
    blend.write_text(f"kind: ensemble\nmembers: [{one}, {other}]\n")
    done = compared(tmp_path, tiles, [one, str(blend)], budgets="8,all")
    assert not done.facts.failed
    assert {(row["experiment"], row["budget"]) for row in cells(done)} == {
        (name, budget) for name in ("one", "blend") for budget in ("8", "all")
    }


def test_an_ensemble_is_made_anew_when_a_member_that_is_no_row_changed(
    tmp_path: Path, tiles: TileSet, started: Started
) -> None:
    one, other = yaml_of(tmp_path, "one"), yaml_of(tmp_path, "other", rounds=6)
    blend = tmp_path / "blend.yaml"
    blend.write_text(f"kind: ensemble\nmembers: [{one}, {other}]\n")
    compared(tmp_path, tiles, [one, str(blend)])
    yaml_of(tmp_path, "other", rounds=7)
    started.clear()
    compared(tmp_path, tiles, [one, str(blend)])
    assert [words for words in started if "scores" not in words] == ["blend, seed 0, all tiles"]


def test_a_member_that_is_only_called_like_a_row_is_not_taken_for_it(tmp_path: Path, tiles: TileSet) -> None:
    one, two = yaml_of(tmp_path, "one"), yaml_of(tmp_path, "two", rounds=6)
    (tmp_path / "elsewhere").mkdir()
    namesake = yaml_of(tmp_path / "elsewhere", "one", rounds=9)
    blend = tmp_path / "blend.yaml"
    blend.write_text(f"kind: ensemble\nmembers: [{namesake}, {two}]\n")
    compared(tmp_path, tiles, [one, two, str(blend)])
    place = tmp_path / "study" / "runs"
    member = ModelBundle.open(place / "blend" / "seed_0-all" / "model").members["one"]
    assert member.training.config != ModelBundle.open(place / "one" / "seed_0-all" / "model").training.config


@pytest.mark.long
def test_folds_that_were_tuned_can_be_compared_as_they_stand_in_the_same_place(tmp_path: Path) -> None:
    folds = make_tiles(tmp_path / "folds", folds=2)
    name = yaml_of(tmp_path, "one")
    for trials in (1, 0, 1):
        done = compared(tmp_path, folds, [name], trials=trials)
        assert not done.facts.failed
        protocol = Evaluation.open(tmp_path / "study" / "runs" / "one" / "seed_0-all" / "test").metrics.protocol
        assert ("settings too" in protocol) is bool(trials)
