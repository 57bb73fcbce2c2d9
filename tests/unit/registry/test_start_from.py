import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import MissingError, ParamsError
from pipeline.params import load_organ
from pipeline.registry.artifacts import content_of
from pipeline.registry.models import ModelRegistry
from pipeline.registry.version import Description
from pipeline.runs.beginning import _keep, mine_from_champion, start_from

PARAMS = """\
defaults: {}
organs:
  liver: &liver            # CT
    ingest: {modality: CT, labels: {liver: 1}}
    validate: {}
    patches: {}
    augment: {}
    train: {}
    evaluate: {}
    register: {}
  prostate:
    ingest: {modality: MR, labels: {prostate: 1}}
    validate: {}
    patches: {}
    augment: {}
    train: {seed: 3}       # by hand
    evaluate: {}
    register: {}
"""


@pytest.fixture
def project(tmp_path, home):
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


@pytest.fixture
def champion(project):
    """The content of the champion of the liver."""
    models = project / "models" / "liver"
    models.mkdir(parents=True)
    (models / "config.json").write_text("{}")
    registry = ModelRegistry(project)
    version = registry.register("liver", models, [], Description({}, {"mean": 0.9}, "abc"))
    registry.settle(version, promoted=True)
    return content_of(models)


def test_another_organs_champion_is_named_by_its_content_and_lies_where_train_looks(project, champion, home):
    assert start_from(project, "prostate", "liver", "partial", 0.25) == champion
    train = load_organ(project / "params.yaml", "prostate").train
    assert (train.start, train.transfer, train.frozen_share, train.seed) == (champion, "partial", 0.25, 3)
    assert content_of(home / "champions" / champion) == champion
    text = (project / "params.yaml").read_text()
    assert "# by hand" in text
    assert load_organ(project / "params.yaml", "liver").train.start == "scratch"


def test_two_organs_may_start_from_a_champion_at_once(project, champion, home, monkeypatch):
    copytree = shutil.copytree

    def slow(*places):
        copied = copytree(*places)
        time.sleep(0.3)
        return copied

    monkeypatch.setattr(shutil, "copytree", slow)
    registered = ModelRegistry(project, home).champion("liver")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_keep, [registered] * 2, [home] * 2))
    assert content_of(home / "champions" / champion) == champion


@pytest.mark.parametrize(("transfer", "share"), [("some", None), ("partial", 1.5)])
def test_a_value_that_may_not_be_changes_nothing(project, champion, transfer, share):
    with pytest.raises(ParamsError, match=r"train\.(transfer|frozen_share)"):
        start_from(project, "prostate", "liver", transfer, share)
    assert (project / "params.yaml").read_text() == PARAMS


def test_without_a_champion_the_command_that_makes_one_is_named(project):
    with pytest.raises(MissingError, match="dvc repro register@liver"):
        start_from(project, "prostate", "liver", "full", None)


def test_an_organ_that_is_not_there_is_refused(project, champion):
    with pytest.raises(ParamsError, match="lung"):
        start_from(project, "lung", "liver", "full", None)
    with pytest.raises(ParamsError, match="lung"):
        start_from(project, "prostate", "lung", "full", None)


def test_a_champions_mistakes_take_their_share_of_the_patches(project, champion, home):
    assert mine_from_champion(project, "liver", 0.3) == champion
    patches = load_organ(project / "params.yaml", "liver").patches
    assert (patches.hard_negatives.of, patches.hard_negatives.model) == ("model", champion)
    assert patches.shares.hard == pytest.approx(0.3, abs=1e-5)
    assert patches.shares.foreground == pytest.approx(0.7 * 0.66, abs=1e-5)
    assert content_of(home / "champions" / champion) == champion
    mine_from_champion(project, "liver", 0.5)
    patches = load_organ(project / "params.yaml", "liver").patches
    assert patches.shares.foreground == pytest.approx(0.5 * 0.66, abs=1e-5)


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_a_share_of_none_or_all_is_refused(project, champion, share):
    with pytest.raises(ParamsError, match="between 0 and 1"):
        mine_from_champion(project, "liver", share)
    assert (project / "params.yaml").read_text() == PARAMS


def test_patches_on_a_grid_lie_where_they_lie(project, champion):
    path = project / "params.yaml"
    text = PARAMS.replace("patches: {}", "patches: {mode: grid}", 1)
    path.write_text(text)
    with pytest.raises(ParamsError, match="patches lie on a grid"):
        mine_from_champion(project, "liver", 0.3)
    assert path.read_text() == text


def test_where_all_patches_are_hard_there_is_nobody_to_share_with(project, champion):
    path = project / "params.yaml"
    only_hard = "patches: {shares: {foreground: 0, negative: 0, background: 0, hard: 1}}"
    text = PARAMS.replace("patches: {}", only_hard, 1)
    path.write_text(text)
    with pytest.raises(ParamsError, match="no other kind of patch"):
        mine_from_champion(project, "liver", 0.3)
    assert path.read_text() == text
