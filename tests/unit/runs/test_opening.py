import json
import shutil
from hashlib import md5
from pathlib import Path

import pytest
import yaml

from pipeline.errors import DataError, MissingError, ParamsError
from pipeline.onboarding import fetch
from pipeline.runs import onboarding, opening
from pipeline.runs.errors import Busy
from pipeline.runs.onboarding import onboard_organ
from pipeline.runs.opening import BROUGHT, PUBLISHED, close_run, open_run
from pipeline.runs.publishing import publish_run
from pipeline.runs.workspaces import Run, run_name
from tests.unit.runs.conftest import PIPELINE, Toy, call, finish, opened, run_stages


def leftovers(toy: Toy) -> list[str]:
    """What there is of runs that a person would mind."""
    place = toy.root / ".hounsfield/workspaces"
    return sorted(
        str(path.relative_to(place))
        for path in place.glob("**/*")
        if not path.name.startswith(".") and path.is_file()
    )


def test_a_workspace_is_a_clone_with_the_scans_and_the_shared_cache(toy: Toy) -> None:
    run = opened(toy)
    assert run.folder == toy.root / ".hounsfield/workspaces/liver/one"
    assert run.base == toy.git("rev-parse", "HEAD")
    assert (run.folder / "data/raw/liver/first.txt").read_text() == "liver 1\n"
    assert not (run.folder / "data/raw/spleen").exists()
    assert call(run.folder, "dvc", "cache", "dir") == str(toy.root / ".hounsfield/cache")
    assert call(run.folder, "git", "status", "--short") == ""


def test_a_second_attempt_finds_the_workspace_of_the_first_as_it_was_left(toy: Toy) -> None:
    run = opened(toy)
    (run.folder / "data/copy").mkdir()
    (run.folder / "data/copy/liver.txt").write_text("half")
    assert opened(toy) == run
    assert (run.folder / "data/copy/liver.txt").read_text() == "half"


def test_a_second_attempt_keeps_what_a_killed_stage_has_half_written(ran_toy: Toy) -> None:
    ran_toy.add_scan("liver", "second", "liver 2\n")
    run = opened(ran_toy, run_id="two")
    (run.folder / "data/kept/liver/1.txt").write_text("half of it")
    (run.folder / "data/copy/liver.txt").unlink()
    assert opened(ran_toy, run_id="two") == run
    assert (run.folder / "data/kept/liver/1.txt").read_text() == "half of it"
    assert not (run.folder / "data/copy/liver.txt").exists()


def test_half_of_what_a_killed_attempt_has_brought_is_replaced(ran_toy: Toy) -> None:
    run = opened(ran_toy, run_id="two", force=True)
    (run.folder / BROUGHT).unlink()
    for torn in ("data/raw/liver/first.txt", "data/kept/liver/0.txt"):
        (run.folder / torn).unlink()
        (run.folder / torn).touch()
    (run.folder / "data/raw/liver/.half.tmp").write_text("liv")
    opened(ran_toy, run_id="two", force=True)
    for folder, name in (("data/raw/liver", "first.txt"), ("data/kept/liver", "0.txt")):
        assert [(one.name, one.read_text()) for one in (run.folder / folder).iterdir()] == [
            (name, "liver 1\n")
        ]


def test_a_second_attempt_that_fails_leaves_what_the_first_has_done(toy: Toy) -> None:
    run = opened(toy)
    (run.folder / "data/copy").mkdir()
    (run.folder / "data/copy/liver.txt").write_text("days of work")
    params = (run.folder / "params.yaml").read_text()
    (run.folder / "params.yaml").write_text("defaults: {}\norgans: {}\n")
    with pytest.raises(ParamsError, match="no organ 'liver'"):
        opened(toy)
    (run.folder / "params.yaml").write_text(params)
    assert opened(toy) == run
    assert (run.folder / "data/copy/liver.txt").read_text() == "days of work"


def test_half_a_clone_of_a_killed_attempt_is_made_anew(toy: Toy) -> None:
    half = toy.root / ".hounsfield/workspaces/liver/one.partial"
    half.mkdir(parents=True)
    (half / "junk").write_text("x")
    run = opened(toy)
    assert not half.exists()
    assert not (run.folder / "junk").exists()


def test_another_run_of_the_organ_is_refused_until_the_first_is_closed(toy: Toy) -> None:
    opened(toy)
    before = leftovers(toy)
    with pytest.raises(Busy, match=r"the run one is open.*hounsfield run close liver --id one"):
        opened(toy, run_id="two")
    assert leftovers(toy) == before
    opened(toy, "spleen")
    assert close_run(toy.settings(), "liver", "one")
    opened(toy, run_id="two")


def test_who_runs_one_at_a_time_takes_over_from_a_run_of_its_own_that_died(toy: Toy) -> None:
    first = opened(toy, by="retrain_liver")
    with pytest.raises(Busy):
        opened(toy, run_id="two", by="onboard_organ")
    opened(toy, run_id="two", by="retrain_liver")
    assert not first.folder.exists()


def test_where_nothing_changed_there_is_no_run_and_nothing_is_left(ran_toy: Toy) -> None:
    assert open_run(ran_toy.settings(), "liver", "two") is None
    assert leftovers(ran_toy) == []
    assert open_run(ran_toy.settings(), "liver", "three", force=True) is not None


@pytest.mark.parametrize("change", ["scan", "parameter", "code", "stage"])
def test_a_change_of_what_a_stage_reads_is_seen_without_its_files(ran_toy: Toy, change: str) -> None:
    if change == "scan":
        ran_toy.add_scan("liver", "second", "liver 2\n")
    else:
        path, old, new = {
            "parameter": ("params.yaml", "train: {}", "train: {steps: 3}"),
            "code": ("tool.py", "kept</p>", "kept.</p>"),
            "stage": ("dvc.yaml", "judge ${key}", "judge ${key} && true"),
        }[change]
        text = (ran_toy.root / path).read_text()
        assert old in text
        (ran_toy.root / path).write_text(text.replace(old, new, 1))
        ran_toy.commit(change)
    assert opened(ran_toy, run_id="two")


def test_the_next_run_begins_with_what_the_last_one_kept(ran_toy: Toy) -> None:
    ran_toy.add_scan("liver", "second", "liver 2\n")
    run = opened(ran_toy, run_id="two")
    assert [path.name for path in (run.folder / "data/kept/liver").iterdir()] == ["0.txt"]
    finish(ran_toy, run)
    assert json.loads((ran_toy.root / "metrics/liver.json").read_text()) == {"kept": 2}


def test_products_that_are_nowhere_are_made_again(ran_toy: Toy) -> None:
    ran_toy.add_scan("liver", "second", "liver 2\n")
    shutil.rmtree(ran_toy.root / ".hounsfield/cache")
    locked = yaml.safe_load((ran_toy.root / "dvc.lock").read_text())["stages"]
    scans = {md5(path.read_bytes()).hexdigest() for path in (ran_toy.root / "data/raw/liver").iterdir()}
    made = {out["md5"] for stage in PIPELINE for out in locked[f"{stage}@liver"]["outs"]}
    # What a stage only copied is a scan's content, too.
    for name in made - scans:
        (ran_toy.root / ".dvc/cache/files/md5" / name[:2] / name[2:]).unlink(missing_ok=True)
    finish(ran_toy, opened(ran_toy, run_id="two"))
    assert json.loads((ran_toy.root / "metrics/liver.json").read_text()) == {"kept": 1}


def test_scans_that_are_nowhere_are_refused_with_nothing_left(toy: Toy) -> None:
    shutil.rmtree(toy.root / ".dvc/cache")
    with pytest.raises(DataError, match=r"data/raw/liver\.dvc are neither in the cache nor in a DVC remote"):
        opened(toy)
    assert leftovers(toy) == []


@pytest.mark.parametrize(
    ("said", "lacks"),
    [
        ("failed to transfer 'b0' - [Errno 2] No such file or directory: '/remote/b0'", True),
        ("failed to transfer 'b0' - An error occurred (404) when calling HeadObject: Not Found", True),
        ("failed to transfer 'b0' - [Errno 28] No space left on device: '/remote/b0' -> '/cache/b0'", False),
        ("failed to transfer 'b0' - [Errno 24] Too many open files: '/cache/b0'", False),
    ],
)
def test_a_cache_without_room_is_not_taken_for_a_remote_that_lacks_files(said: str, lacks: bool) -> None:
    assert opening._lacks(said) == lacks


@pytest.mark.parametrize("organ", ["../liver", "Liver", "", "a/b", "-x"])
def test_a_name_that_would_escape_is_refused(toy: Toy, organ: str) -> None:
    with pytest.raises(ParamsError, match="cannot be an organ's name"):
        opened(toy, organ)
    assert leftovers(toy) == []


def test_an_organ_that_params_yaml_does_not_have_is_refused_with_nothing_left(toy: Toy) -> None:
    with pytest.raises(ParamsError, match="no organ 'livr': did you mean 'liver'"):
        opened(toy, "livr")
    assert leftovers(toy) == []


@pytest.mark.parametrize(
    ("run_id", "name"),
    [
        ("monday_1", "monday_1"),
        ("manual__2026-11-26T01:14:47.5+00:00", "manual__2026-11-26T01-14-47.5-00-00"),
        ("../../etc", "etc"),
        ("a..b", "a.b"),
        ("x.lock", "x"),
        ("x.lock.lock", "x"),
        ("x.lock.partial", "x"),
        ("x" * 300, "x" * 180),
    ],
)
def test_a_run_is_named_so_that_folder_and_tag_can_bear_it(run_id: str, name: str) -> None:
    found = run_name(run_id)
    assert found == name
    assert Path("liver", found).parts == ("liver", found)
    assert call(Path.cwd(), "git", "check-ref-format", f"refs/tags/liver/{found}") == ""
    assert run_name(found) == found, "people give the name itself"


@pytest.mark.parametrize("run_id", ["", "..", "/", "-"])
def test_what_has_no_name_in_it_is_no_run(run_id: str) -> None:
    with pytest.raises(ParamsError, match="cannot be the name of a run"):
        run_name(run_id)


def test_closing_twice_is_as_closing_once(toy: Toy) -> None:
    run = opened(toy)
    assert close_run(toy.settings(), "liver", "one")
    assert close_run(toy.settings(), "liver", "one")
    assert not run.folder.exists()


def test_a_run_that_failed_can_be_kept_for_another_attempt(toy: Toy) -> None:
    run = opened(toy)
    assert not close_run(toy.settings(), "liver", "one", keep_unpublished=True)
    assert opened(toy) == run
    close_run(toy.settings(), "liver", "one", keep_unpublished=True)
    opened(toy, run_id="two")
    assert not run.folder.exists(), "the next run makes room"


def test_a_run_that_cannot_be_opened_takes_the_place_of_none(toy: Toy) -> None:
    run = opened(toy)
    close_run(toy.settings(), "liver", "one", keep_unpublished=True)
    (toy.root / "params.yaml").write_text("defaults: {}\norgans: {}\n")
    toy.commit("no organ")
    with pytest.raises(ParamsError, match="no organ 'liver'"):
        opened(toy, run_id="two")
    assert run.folder.is_dir()


def test_a_form_that_is_refused_takes_the_place_of_no_run(toy: Toy, tmp_path: Path) -> None:
    run = opened(toy)
    close_run(toy.settings(), "liver", "one", keep_unpublished=True)
    before = leftovers(toy)
    form = json.dumps({"organ": "liver", "source": str(tmp_path)})
    with pytest.raises(ParamsError, match="already has the organ 'liver'"):
        onboard_organ(toy.settings(), "form1", form)
    assert run.folder.is_dir()
    assert leftovers(toy) == before


def test_a_form_whose_dvc_was_killed_is_taken_in_by_the_next_attempt(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def killed(run: Run, _: object) -> None:
        note = run.folder / ".dvc/tmp/rwlock"
        found.append(note.exists())
        note.write_text('{"wri')
        raise KeyboardInterrupt

    monkeypatch.setattr(onboarding, "_take_in", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            onboard_organ(toy.settings(), "form1", json.dumps({"organ": "kidney", "source": str(tmp_path)}))
    assert found == [False, False]


def test_what_has_arrived_is_kept_where_a_fetch_breaks_off_and_not_where_a_form_is_refused(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toy.settings().home
    monkeypatch.setenv("HOUNSFIELD_HOME", str(home))
    form = json.dumps({"organ": "kidney", "source": "s3://hospital/kidney"})
    found = []

    def fetched(_: str, target: Path, manifest: Path, **_options: object) -> None:
        found.append((target / "a.nii.gz").is_file())
        target.mkdir(parents=True, exist_ok=True)
        (target / "a.nii.gz").write_bytes(b"no scan")
        manifest.write_text("{}")
        if len(found) < 2:
            raise DataError("1 of 2 objects did not arrive", "run again; what has arrived is kept")

    monkeypatch.setattr(fetch, "sync_prefix", fetched)
    with pytest.raises(DataError, match="what has arrived is kept"):
        onboard_organ(toy.settings(), "form1", form)
    with pytest.raises(DataError, match=r"no layout|none of|no scans"):
        onboard_organ(toy.settings(), "form2", form)
    assert found == [False, True]
    assert [path.name for path in (home / "sources").iterdir()] == ["kidney.lock"]


def test_a_run_that_was_published_is_not_kept(toy: Toy) -> None:
    run = opened(toy)
    (run.folder / PUBLISHED).write_text("{}")
    assert close_run(toy.settings(), "liver", "one", keep_unpublished=True)
    assert not run.folder.exists()


def test_from_scratch_is_written_down_as_a_parameter(toy: Toy) -> None:
    run = opened(toy, start="scratch")
    assert 'train: {start: "scratch"}' in (run.folder / "params.yaml").read_text()
    assert toy.params()["organs"]["liver"]["train"] == {}


def test_without_a_champion_a_warm_start_is_one_from_scratch(toy: Toy) -> None:
    run = opened(toy, start="warm")
    assert 'start: "scratch"' in (run.folder / "params.yaml").read_text()


def test_an_attempt_killed_before_it_was_begun_as_wanted_is_begun_so_by_the_next(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(opening, "_begin", _killed)
        with pytest.raises(KeyboardInterrupt):
            opened(toy, start="scratch")
    run = opened(toy, start="scratch")
    assert 'train: {start: "scratch"}' in (run.folder / "params.yaml").read_text()


def test_an_attempt_killed_while_dvc_made_its_note_is_followed_by_another(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(opening, "bring_files", _killed)
        with pytest.raises(KeyboardInterrupt):
            opened(toy)
    (toy.root / ".hounsfield/workspaces/liver/one/.dvc/tmp/rwlock").write_text('{"wri')
    assert (opened(toy).folder / "data/raw/liver/first.txt").is_file()


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_organ_without_scans_is_told_so_and_brings_none_of_another(ran_toy: Toy) -> None:
    ran_toy.git("rm", "-q", "data/raw/spleen.dvc")
    ran_toy.commit("no scans yet")
    with pytest.raises(
        MissingError, match=r"spleen: the project has no scans in data/raw/spleen yet: run dvc"
    ):
        opened(ran_toy, "spleen")
    assert leftovers(ran_toy) == []


def test_a_remote_of_a_path_is_where_it_is_from_the_project(toy: Toy, tmp_path: Path) -> None:
    call(toy.root, "dvc", "remote", "add", "-q", "-d", "store", "../store")
    call(toy.root, "dvc", "push", "-q")
    toy.commit("remote")
    shutil.rmtree(toy.root / ".dvc/cache")
    run = opened(toy)
    assert (run.folder / "data/raw/liver/first.txt").read_text() == "liver 1\n"
    run_stages(run)
    call(run.folder, "dvc", "push", "-q", "copy@liver")
    made = yaml.safe_load((run.folder / "dvc.lock").read_text())["stages"]["copy@liver"]["outs"][0]["md5"]
    assert (tmp_path / "store/files/md5" / made[:2] / made[2:]).is_file()


def test_remotes_in_quotes_are_where_they_are_from_the_project(toy: Toy, tmp_path: Path) -> None:
    places = {"whole": str(tmp_path / "a,b"), "partial": "../c,d", "cloud": "s3://bucket/scans"}
    for name, place in places.items():
        call(toy.root, "dvc", "remote", "add", "-q", name, place)
    config = toy.root / ".dvc/config"
    config.write_text(config.read_text().replace(places["cloud"], f'"{places["cloud"]}"'))
    call(toy.root, "dvc", "remote", "modify", "-q", "cloud", "configpath", "aws")
    toy.commit("remotes")
    run = opened(toy)
    said = dict(line.split("=", 1) for line in call(run.folder, "dvc", "config", "--list").splitlines())
    found = {name: said[f"remote.{name}.url"] for name in places}
    assert found == places | {"partial": str(tmp_path / "c,d")}
    assert said["remote.cloud.configpath"] == str(toy.root / "aws")


def test_a_remote_of_a_path_is_refused_where_nobody_knows_from_where(toy: Toy, tmp_path: Path) -> None:
    call(toy.root, "dvc", "remote", "add", "-q", "-d", "store", "../store")
    toy.commit("remote")
    settings = {"HOUNSFIELD_PROJECT": f"file://{toy.root}", "HOUNSFIELD_HOME": str(tmp_path / "home")}
    with pytest.raises(
        ParamsError, match=r"the url of the DVC remote 'store' is \.\./\.\./store.*whole path"
    ):
        open_run(toy.settings(**settings), "liver", "one")


def test_a_remote_called_project_is_the_projects_own(toy: Toy, tmp_path: Path) -> None:
    call(toy.root, "dvc", "remote", "add", "-q", "-d", "project", str(tmp_path / "store"))
    toy.commit("remote")
    run = opened(toy)
    call(run.folder, "dvc", "push", "-q", "data/raw/liver.dvc")
    assert (tmp_path / "store").is_dir()


def test_credentials_that_were_renewed_reach_a_run_that_is_open(toy: Toy, tmp_path: Path) -> None:
    run = opened(toy)
    call(toy.root, "dvc", "remote", "add", "-q", "-d", "--local", "store", str(tmp_path / "store"))
    run_stages(run)
    publish_run(toy.settings(), "liver", "one")
    assert (tmp_path / "store").is_dir()
