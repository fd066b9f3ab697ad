"""A study is judged on validation alone, gives every experiment the same budget, and goes on after a kill."""

import csv
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders import make_tiles

from casbah import experiments
from casbah.cli import main
from casbah.errors import CasbahError, InputError, WorldError
from casbah.evaluate import evaluate
from casbah.finetune import finetune
from casbah.finetune.experiment import ENSEMBLE, TREES, digest, read
from casbah.grid import Grid
from casbah.products.model import ModelBundle
from casbah.products.tiles import TileFolds, TileSet
from casbah.tune import child, record, space, tune
from casbah.tune.training import Outcome, Request, Trainer

QUICK = ("trees.rounds=6", "trees.min_samples_leaf=20")
SPACE = """
trees.learning_rate: {low: 0.02, high: 0.5, log: true}
trees.max_leaf_nodes: {low: 4, high: 40, whole: true}
class_balance: {choices: [none, sqrt, inverse]}
"""


class Near(Trainer):
    """Trains and checks in this process: what the other process would do, without its start."""

    trained: list[int]

    def train(self, request: Request) -> Outcome:
        self.trained.append(int(request.output.name))
        bundle = finetune(
            config=request.config,
            tiles=request.tiles,
            output=request.output,
            overrides=request.overrides,
            max_labels=request.max_labels,
            resume=True,
        )
        return Outcome(bundle)

    def check(self, config: str, tiles: Any, *, overrides: Any, max_labels: Any, variants: Any) -> None:
        asked = {"config": config, "tiles": tiles, "overrides": overrides, "max_labels": max_labels}
        child._check_all(asked | {"variants": variants})


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    return make_tiles(tmp_path_factory.mktemp("tune") / "tiles", grid=Grid("EPSG:32631", 500_000, 4_066_000, 160, 160))


@pytest.fixture(scope="module")
def template(tiles: TileSet, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    place = tmp_path_factory.mktemp("template") / "model"
    return finetune(config="boosted_pixels", tiles=tiles.path, output=place, overrides=QUICK)


@pytest.fixture
def my_space(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "space.yaml"


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trials train in this process; returns the numbers of those that were trained."""
    trained: list[int] = []
    monkeypatch.setattr(Near, "trained", trained, raising=False)
    monkeypatch.setattr("casbah.tune.run.Trainer", Near)
    return trained


Pretend = Callable[..., list[int]]


@pytest.fixture
def pretend(template: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Trials are scored by a formula at once, the best near a learning rate of 0.1, after what `hook` does."""

    def install(
        hook: Callable[[int], Outcome | None] = lambda number: None,
        score: Callable[[int, float], float] = lambda number, rate: 0.5 - abs(float(np.log(rate / 0.1))) / 10,
    ) -> list[int]:
        class Formula(Near):
            def train(self, request: Request) -> Outcome:
                number = int(request.output.name)
                self.trained.append(number)
                if (outcome := hook(number)) is not None:
                    return outcome
                rate = read(request.config, request.overrides).settings["trees"]["learning_rate"]
                config = digest(request.overrides)
                with ModelBundle.write(request.output, parameters={}) as draft:
                    for name in template.manifest.files:
                        shutil.copyfile(template.path / name, draft.directory / name)
                    draft.write_json("metrics.json", {"validation": {"iou": score(number, rate)}})
                    facts = template.training.model_copy(update={"config": config, "seconds": 2.0})
                    draft.write_json("training.json", facts.model_dump(mode="json"))
                return Outcome(ModelBundle.open(request.output))

        Formula.trained = []
        monkeypatch.setattr("casbah.tune.run.Trainer", Formula)
        return Formula.trained

    return install


def rows(output: Path) -> list[dict[str, str]]:
    with open(output / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(output: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(output)]


def options(tiles: TileSet | TileFolds, output: Path, my_space: Path, **more: Any) -> dict[str, Any]:
    given = {"config": "boosted_pixels", "tiles": tiles.path, "output": output, "space": my_space, "overrides": QUICK}
    return given | more


def test_the_best_trial_is_kept_as_a_model_and_as_an_experiment_that_trains_the_same(
    tiles: TileSet, tmp_path: Path, my_space: Path, near: list[int]
) -> None:
    (result,) = tune(**options(tiles, tmp_path / "out", my_space, trials=4, max_labels=5))
    scores = [float(row["validation_iou"]) for row in rows(tmp_path / "out")]
    kept = ModelBundle.open(tmp_path / "out/model")
    assert result.best.iou == max(scores) == kept.metrics["validation"]["iou"]
    assert result.best.number == scores.index(max(scores))
    assert not [left for left in (tmp_path / "out/trials").iterdir() if left.is_dir()]
    again = finetune(config=tmp_path / "out/best.yaml", tiles=tiles.path, output=tmp_path / "again", max_labels=5)
    assert again.training.config == kept.training.config
    assert again.metrics["validation"] == kept.metrics["validation"]
    assert again.weights_path.read_bytes() == kept.weights_path.read_bytes()
    comment = (tmp_path / "out/best.yaml").read_text().partition("kind:")[0]
    assert all(word in comment for word in (tiles.digest, "SIMULATED", "--max-labels 5", f"{max(scores):.4f}"))
    assert (tmp_path / "out/history.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_trial_is_the_experiment_as_it_stands(
    tiles: TileSet, template: ModelBundle, tmp_path: Path, my_space: Path, near: list[int]
) -> None:
    (result,) = tune(**options(tiles, tmp_path / "out", my_space, trials=1))
    assert result.as_it_stands.config == template.training.config
    assert result.as_it_stands.settings["trees.learning_rate"] == 0.08
    assert yaml.safe_load((tmp_path / "out/best.yaml").read_text()) == read("boosted_pixels", QUICK).settings


def test_nothing_moves_when_the_test_blocks_change(
    tiles: TileSet, tmp_path: Path, my_space: Path, near: list[int]
) -> None:
    manifest = tiles.manifest
    with TileSet.write(tmp_path / "other", parameters=manifest.parameters, inputs=manifest.inputs) as draft:
        for name in manifest.files:
            (draft.directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tiles.path / name, draft.directory / name)
        for name in ("images", "masks", "cover"):
            known = np.load(draft.directory / f"test/{name}.npy")
            np.save(draft.directory / f"test/{name}.npy", np.roll(known, 7, axis=-1)[::-1])
    other = TileSet.open(tmp_path / "other")
    assert other.digest != tiles.digest
    tune(**options(tiles, tmp_path / "one", my_space, trials=3))
    tune(**options(other, tmp_path / "two", my_space, trials=3))
    assert without_seconds(tmp_path / "one") == without_seconds(tmp_path / "two")


def test_a_failed_trial_is_told_with_its_reason_and_counts_against_the_budget(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    nan = "the loss became NaN in epoch 2"
    trained = pretend(lambda number: Outcome(None, nan, CasbahError, 3.0) if number in (0, 2) else None)
    (result,) = tune(**options(tiles, tmp_path / "out", my_space, trials=6))
    assert trained == [0, 1, 2, 3, 4, 5]
    assert [row["failed_because"] for row in rows(tmp_path / "out")] == [nan, "", nan, "", "", ""]
    numbers = json.loads((tmp_path / "out/study.json").read_text())
    assert numbers["budget"] == {"trials": 6, "finished": 4, "failed": 2, "seconds": 14.0, "epochs": 24}
    assert result.best.number not in (0, 2)
    assert nan in capsys.readouterr().err


def test_a_study_without_a_finished_trial_is_an_error(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend
) -> None:
    pretend(lambda number: Outcome(None, "out of memory", CasbahError))
    with pytest.raises(CasbahError, match=r"none of 3 trials finished.*out of memory"):
        tune(**options(tiles, tmp_path / "out", my_space, trials=3))
    assert not (tmp_path / "out/best.yaml").exists()


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_study_that_was_stopped_becomes_the_one_that_was_not(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend, jobs: int
) -> None:
    def better(number: int, rate: float) -> float:  # each trial changes what is known to be good
        return number / 100

    pretend(score=better)
    (whole,) = tune(**options(tiles, tmp_path / "whole", my_space, trials=12, jobs=jobs))

    def stop(number: int) -> Outcome | None:
        time.sleep(0.01 * (number % 3))
        if number == 10:
            raise KeyboardInterrupt
        return None

    pretend(stop, better)
    with pytest.raises(KeyboardInterrupt):
        tune(**options(tiles, tmp_path / "out", my_space, trials=12, jobs=jobs))
    with open(tmp_path / "out/journal.log", "a") as journal:
        journal.write('{"op_code": 4, "study_i')  # killed while it wrote
    assert len(rows(tmp_path / "out")) < 12
    trained = pretend(score=better)
    (resumed,) = tune(**options(tiles, tmp_path / "out", my_space, trials=12, jobs=jobs))
    assert without_seconds(tmp_path / "out") == without_seconds(tmp_path / "whole")
    assert min(trained) > 9 - jobs
    assert ModelBundle.open(resumed.part.model).training.config == whole.best.config


def test_a_larger_budget_goes_on_from_a_smaller_one_and_a_smaller_one_is_refused(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend
) -> None:
    pretend()
    tune(**options(tiles, tmp_path / "out", my_space, trials=3))
    trained = pretend()
    tune(**options(tiles, tmp_path / "out", my_space, trials=5))
    assert trained == [3, 4]
    with pytest.raises(InputError, match="holds 5 trials already, and --trials is 4"):
        tune(**options(tiles, tmp_path / "out", my_space, trials=4))


def test_what_a_store_knows_does_not_take_the_place_of_another_study(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah.tune.mirror import Mirror

    pretend()
    tune(**options(tiles, tmp_path / "out", my_space, trials=2))
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setattr(Mirror, "fetch", lambda self: pytest.fail("was fetched over the other study"))
    other = options(tiles, tmp_path / "out", my_space, trials=2) | {"seed": 5, "checkpoints": "s3://casbah/here"}
    with pytest.raises(InputError, match="holds a study of another --seed"):
        tune(**other)


def test_a_store_that_fails_in_the_middle_costs_a_sentence_and_not_the_study(
    tiles: TileSet,
    tmp_path: Path,
    my_space: Path,
    pretend: Pretend,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from casbah import storage
    from casbah.tune.mirror import Mirror

    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.001)
    pretend()
    asked = options(tiles, tmp_path / "out", my_space, trials=3) | {"checkpoints": "s3://casbah/here"}
    with pytest.raises(WorldError, match=r"127\.0\.0\.1:1 failed"):
        tune(**asked)
    assert not (tmp_path / "out").exists(), "a store that is down from the start is told before anything is made"
    monkeypatch.setattr(Mirror, "fetch", lambda self: None)  # it answered then, and is down from now on
    (result,) = tune(**asked)
    assert len(result.finished) == 3
    said = capsys.readouterr().err
    assert said.count("tuning goes on, and what it finds from here on is kept on this machine alone") == 1
    assert result.part.mirror is not None
    assert result.part.mirror.lost


def test_the_best_model_is_made_again_where_it_was_deleted(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend
) -> None:
    pretend()
    (first,) = tune(**options(tiles, tmp_path / "out", my_space, trials=4))
    shutil.rmtree(tmp_path / "out/model")
    trained = pretend()
    tune(**options(tiles, tmp_path / "out", my_space, trials=4))
    assert trained == [first.best.number]
    assert ModelBundle.open(tmp_path / "out/model").training.config == first.best.config


def test_a_fault_of_the_world_stops_the_study_and_costs_no_trial(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend
) -> None:
    pretend(lambda number: Outcome(None, "the disk is full", WorldError) if number == 2 else None)
    with pytest.raises(WorldError, match="trial 2: the disk is full"):
        tune(**options(tiles, tmp_path / "out", my_space, trials=4))
    trained = pretend()
    (result,) = tune(**options(tiles, tmp_path / "out", my_space, trials=4))
    assert trained == [2, 3]
    assert len(result.finished) == 4


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_a_full_disk_or_machine_under_the_record_is_a_fault_of_the_world_and_the_study_goes_on(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    trained, add = pretend(), record.Record.add

    def full(self: record.Record, trial: record.Trial) -> None:
        if trial.number == 2:
            with open(self.directory / record.JOURNAL, "a") as journal:
                journal.write('{"op_code": 4, "worker')  # as far as the disk took it
            raise OSError(number, os.strerror(number), "journal.log")
        add(self, trial)

    monkeypatch.setattr(record.Record, "add", full)
    with pytest.raises(WorldError, match=f"journal.log: {os.strerror(number)}.*the same command goes on"):
        tune(**options(tiles, tmp_path / "out", my_space, trials=4))
    monkeypatch.setattr(record.Record, "add", add)
    (result,) = tune(**options(tiles, tmp_path / "out", my_space, trials=4))
    assert trained == [0, 1, 2, 2, 3]
    assert len(result.finished) == 4


def test_a_defect_in_the_first_trial_stops_before_the_budget_is_spent(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend
) -> None:
    trained = pretend(lambda number: Outcome(None, "a defect in Casbah (RuntimeError: shapes)", CasbahError))
    with pytest.raises(CasbahError, match="shapes"):
        tune(**options(tiles, tmp_path / "out", my_space, trials=4))
    assert trained == [0]


def test_of_equal_trials_the_earliest_wins(
    tiles: TileSet, tmp_path: Path, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flat.yaml").write_text("trees.max_features: {low: 0.1, high: 1.0}")  # the formula does not see it
    pretend()
    (result,) = tune(**options(tiles, tmp_path / "out", tmp_path / "flat.yaml", trials=3))
    assert result.best.number == 0
    from casbah.tune.report import table

    assert "nothing beat the experiment as it stands" in table(result)
    assert "optimistic" in table(result)


def test_each_fold_is_tuned_by_itself_and_never_sees_its_test_blocks(
    tmp_path: Path, my_space: Path, near: list[int]
) -> None:
    grid = Grid("EPSG:32631", 500_000, 4_066_000, 200, 200)
    folds = make_tiles(tmp_path / "folds", grid=grid, folds=2)
    results = tune(**options(folds, tmp_path / "out", my_space, trials=2))
    assert [result.part.name for result in results] == ["fold_0", "fold_1", "refit"]
    for result, own in zip(results, (*folds.folds, folds.refit), strict=True):
        assert len(rows(result.part.directory)) == 2
        assert (result.part.directory / "best.yaml").is_file()
        seen = ModelBundle.open(result.part.model).training
        assert seen.tiles == own.digest
        assert not set(own.info.blocks["test"]) & {*seen.blocks["train"], *seen.blocks["val"]}
    models = tmp_path / "out/model"
    assert {path.name for path in models.iterdir()} == {"fold_0", "fold_1", "refit"}
    pooled = evaluate(model=models, tiles=folds.path, output=tmp_path / "pooled").metrics
    assert pooled.protocol.endswith("settings too, among 2 trials")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("trees.learning_rat: {low: 0.1, high: 0.2}", ("trees.learning_rat", "did you mean learning_rate")),
        ("trees.learning_rate: {low: 0.5, high: 2.0}", ("trees.learning_rate as 2.0", "less than or equal to 1")),
        ("trees.learning_rate: {low: 0.5, high: 0.1}", ("goes from 0.5 to 0.1", "low is to be below high")),
        ("trees.learning_rate: {low: 0, high: 0.1, log: true}", ("log: true", "above 0")),
        ("trees.learning_rate: {low: 0.1}", ("trees.learning_rate.high is None",)),
        ("trees.learning_rate: {low: a, high: 0.1}", ("low is 'a'", "finite number")),
        ("trees.learning_rate: {lw: 0.1, high: 0.2}", ("'lw'", "did you mean low")),
        ("trees.learning_rate: {high: 0.2}", ("none of them", "low and high")),
        ("trees.learning_rate: {low: 0.1, high: 0.2, choices: [1, 2]}", ("choices and low",)),
        ("trees.learning_rate: 0.1", ("is 0.1", "{low: …, high: …}")),
        ("trees.learning_rate: {low: 0.1, high: 0.2, log: 3}", ("log is 3", "true or false")),
        ("trees.max_leaf_nodes: {low: 7, high: 62}", ("trees.max_leaf_nodes as 34.5", "integer")),
        ("trees.max_leaf_nodes: {low: 7, high: 62.5, whole: true}", ("whole numbers",)),
        ("class_balance: {choices: [sqrt]}", ("choices", "two or more")),
        ("class_balance: {choices: [sqrt, sqrt]}", ("the same twice",)),
        ("class_balance: {choices: [sqrt, root]}", ('class_balance as "root"', "'sqrt'")),
        ("class_balance: {around: 3}", ("'sqrt'", "a number is wanted")),
        ("trees.learning_rate: {around: 0.5}", ("by a factor of 0.5",)),
        ("trees.learning_rate: {low: 0.1, high: 0.2, only: sunday}", ("sunday", "pretrained backbone")),
        ("trees.learning_rate: {low: 0.1, high: 0.2, only: pretrained backbone}", ("nothing to try",)),
        ("trees.learning_rate: {low: 0.1, high: 0.2, times: class_balance}", ("share of class_balance", "'sqrt'")),
        ("- 3", ("holds no search space",)),
        ("a: {low: 1, high: 2}\na: {low: 1, high: 2}", ("'a' stands twice",)),
    ],
)
def test_a_mistake_in_a_space_is_one_sentence_and_nothing_is_written(
    tiles: TileSet, tmp_path: Path, near: list[int], content: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(InputError) as caught:
        tune(**options(tiles, tmp_path / "out", tmp_path / "mine.yaml"))
    assert all(word in str(caught.value) for word in ("mine.yaml", *words)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_space_that_is_not_there_is_named(tiles: TileSet, tmp_path: Path, near: list[int]) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml does not exist"):
        tune(**options(tiles, tmp_path / "out", tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(("name", "value"), [("trials", 0), ("jobs", 0), ("seed", -1)])
def test_numbers_out_of_range_are_refused(
    tiles: TileSet, tmp_path: Path, my_space: Path, near: list[int], name: str, value: int
) -> None:
    with pytest.raises(InputError, match=f"--{name} is {value}"):
        tune(**options(tiles, tmp_path / "out", my_space, **{name: value}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "another --seed"),
        ({"max_labels": 4}, "another --max-labels"),
        ({"overrides": ("trees.rounds=7",)}, "another experiment or other --set"),
        ({"space": None}, "another search space"),
    ],
)
def test_a_study_goes_on_only_with_what_it_was_begun_with(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend, change: dict[str, Any], words: str
) -> None:
    pretend()
    tune(**options(tiles, tmp_path / "out", my_space, trials=2))
    before = (tmp_path / "out/journal.log").read_bytes()
    with pytest.raises(InputError, match=words):
        tune(**options(tiles, tmp_path / "out", my_space, trials=3) | change)
    assert (tmp_path / "out/journal.log").read_bytes() == before


def test_what_else_lies_at_the_output_is_left_alone(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend
) -> None:
    pretend()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="something else than a study"):
        tune(**options(tiles, tmp_path / "out", my_space, trials=2))
    with pytest.raises(InputError, match="can't be made there"):
        tune(**options(tiles, tmp_path / "out/thesis.txt", my_space, trials=2))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_two_studies_at_once_in_one_place_are_refused(
    tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def wait(number: int) -> None:
        begun.set()
        ended.wait(20)

    pretend(wait)
    given = options(tiles, tmp_path / "out", my_space, trials=1)
    first = threading.Thread(target=lambda: tune(**given))
    first.start()
    assert begun.wait(20)
    with pytest.raises(InputError, match="another casbah tune is at work"):
        tune(**given)
    ended.set()
    first.join()
    assert len(rows(tmp_path / "out")) == 1


def test_a_damaged_journal_is_told(tiles: TileSet, tmp_path: Path, my_space: Path, pretend: Pretend) -> None:
    pretend()
    tune(**options(tiles, tmp_path / "out", my_space, trials=2))
    (tmp_path / "out/journal.log").write_text("nonsense\nnonsense\n")
    with pytest.raises(InputError, match=r"journal\.log is damaged"):
        record.earlier(tmp_path / "out")


def test_a_share_of_another_setting_follows_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "model.init_args.lr: {around: 10}\n"
        "model.init_args.backbone_lr: {low: 0.1, high: 1.0, log: true, times: model.init_args.lr}"
    )
    experiment = read("prithvi_tiny_upernet")
    found = space.of(experiment, tmp_path / "mine.yaml")
    drawn = {"model.init_args.lr": 2e-3, "model.init_args.backbone_lr": 0.25}
    assert found.settings(drawn, experiment.settings)["model.init_args.backbone_lr"] == 5e-4
    alone = {"model.init_args.backbone_lr": 0.25}
    assert found.settings(alone, experiment.settings)["model.init_args.backbone_lr"] == 1.25e-4
    experiment.settings["model"]["init_args"]["backbone_lr"] = 1e-4
    assert found.drawn(experiment.settings) == {"model.init_args.lr": 5e-4, "model.init_args.backbone_lr": 0.2}


def test_the_built_in_space_asks_for_backbone_lr_only_where_a_backbone_is_pretrained() -> None:
    keys = {
        pretrained: {
            dimension.key
            for dimension in space.of(
                read("prithvi_tiny_upernet", [f"model.init_args.model_args.backbone_pretrained={pretrained}"])
            ).dimensions
        }
        for pretrained in ("false", "true")
    }
    assert keys["true"] - keys["false"] == {"model.init_args.backbone_lr"}


@pytest.mark.parametrize(
    "name",
    [
        "unet_scratch",
        "deeplabv3plus_imagenet_small",
        "segformer_b2_imagenet_small",
        "terramind_base_fpn_small",
        "prithvi_100m_upernet_small",
        "boosted_context",
    ],
)
def test_every_value_of_the_built_in_spaces_is_one_that_experiments_take(tiles: TileSet, name: str) -> None:
    from casbah.tune.study import Plan

    experiment = read(name)
    plan = Plan(name, (), experiment, space.of(experiment), 1, 0, None, 1)
    Near().check(name, [tiles.path], overrides=(), max_labels=None, variants=plan.variants)


def test_there_is_a_built_in_space_for_every_built_in_experiment() -> None:
    single = [name for name in experiments.names() if read(name).kind != ENSEMBLE]
    tried = {name: {dimension.key for dimension in space.of(read(name)).dimensions} for name in single}
    decoders = {name for name, keys in tried.items() if "model.init_args.model_args.decoder" in keys}
    for name, keys in tried.items():
        assert ("trees.learning_rate" if read(name).kind == TREES else "model.init_args.lr") in keys
    assert {"prithvi_100m_upernet", "terramind_base_upernet"} <= decoders
    assert not {"prithvi_100m_fcn", "terramind_base_fpn", "unet_imagenet"} & decoders
    widths = {name for name, keys in tried.items() if any(key.endswith("_channels") for key in keys)}
    networks = {name for name in single if read(name).is_network}
    assert networks - widths == {"urban_graphsage"}, "every decoder is searched; GraphSAGE has none"
    (width,) = [each for each in space.of(read("unet_scratch")).dimensions if each.key.endswith("decoder_channels")]
    assert width.choices == ([128, 64, 32, 16, 8], [256, 128, 64, 32, 16], [512, 256, 128, 64, 32])
    with pytest.raises(InputError, match="no built-in space for the kind ensemble"):
        space.of(read("ensemble"))


def test_a_network_is_tuned_and_its_other_decoder_trains(tiles: TileSet, tmp_path: Path, near: list[int]) -> None:
    (tmp_path / "mine.yaml").write_text(
        "model.init_args.model_args.decoder: {choices: [UperNetDecoder, FCNDecoder]}\nmodel.init_args.lr: {around: 3}"
    )
    smaller = ("trainer.max_epochs=1", "model.init_args.model_args.decoder_channels=8")
    given = options(tiles, tmp_path / "out", tmp_path / "mine.yaml", trials=3, overrides=smaller)
    (result,) = tune(**given | {"config": "prithvi_tiny_upernet"})
    assert len(result.finished) == 3
    decoders = [trial.settings["model.init_args.model_args.decoder"] for trial in result.trials]
    assert "FCNDecoder" in decoders[1:]
    again = finetune(config=tmp_path / "out/best.yaml", tiles=tiles.path, output=tmp_path / "again")
    assert again.training.config == ModelBundle.open(tmp_path / "out/model").training.config
    assert again.metrics["validation"]["iou"] == result.best.iou


def test_help_teaches_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    said = capsys.readouterr().out
    assert all(word in said for word in ("casbah tune --config", "each fold is tuned by itself", "around"))
