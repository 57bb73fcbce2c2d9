import hashlib
import json
import shutil
import socket
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import yaml

from pipeline.errors import MissingError, Unfinished
from pipeline.runs import publishing
from pipeline.runs.changes import unfollowed
from pipeline.runs.commands import SILENT, Refused, git
from pipeline.runs.merging import merged_lock
from pipeline.runs.opening import close_run, open_run
from pipeline.runs.publishing import outcome_of, publish_run
from pipeline.runs.workspaces import Run
from tests.unit.runs.conftest import PIPELINE, Toy, call, opened, run_stages


def done(toy: Toy, organ: str = "liver", run_id: str = "one") -> Run:
    """A run whose stages have all run."""
    run = opened(toy, organ, run_id)
    run_stages(run)
    return run


@pytest.fixture
def bare(toy: Toy, tmp_path: Path) -> Path:
    """The project as a server has it, with a DVC remote."""
    call(toy.root, "dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    call(toy.root, "dvc", "push", "-q")
    toy.commit("remote")
    call(tmp_path, "git", "clone", "-q", "--bare", str(toy.root), "bare")
    return tmp_path / "bare"


def test_a_run_becomes_a_tagged_commit_and_the_project_follows(toy: Toy) -> None:
    run = done(toy)
    published = publish_run(toy.settings(), "liver", "one")
    assert published.branch == "main"
    assert toy.git("rev-parse", "HEAD") == toy.git("rev-parse", "liver/one") == published.commit
    assert toy.git("diff", "--name-only", run.base, "HEAD").split() == ["dvc.lock", "metrics/liver.json"]
    assert toy.git("status", "--short") == ""
    assert "Run: one" in toy.git("log", "-1", "--format=%B")
    assert json.loads((toy.root / "metrics/liver.json").read_text()) == {"kept": 1}
    call(toy.root, "dvc", "checkout", "copy@liver", "collect@liver", "judge@liver")
    assert (toy.root / "data/copy/liver.txt").read_text() == "liver 1\n"
    assert Path(published.report).read_text() == "<p>1 kept</p>"


def test_a_report_is_linked_where_it_can_be_read(toy: Toy) -> None:
    done(toy)
    published = publish_run(toy.settings(HOUNSFIELD_REPORTS="https://reports.example/"), "liver", "one")
    assert published.report == "https://reports.example/liver/one/report.html"


def test_publishing_again_is_as_publishing_once(toy: Toy) -> None:
    done(toy)
    first = publish_run(toy.settings(), "liver", "one")
    assert publish_run(toy.settings(), "liver", "one") == first
    assert toy.git("rev-list", "--count", "HEAD") == "2"


def test_publishing_again_on_top_of_others_is_as_publishing_once(toy: Toy) -> None:
    done(toy)
    (toy.root / "notes.txt").write_text("meanwhile")
    toy.commit("meanwhile")
    first = publish_run(toy.settings(), "liver", "one")
    assert publish_run(toy.settings(), "liver", "one") == first
    assert toy.git("rev-list", "--count", "HEAD") == "3"


@pytest.mark.parametrize("base", ["where it began", "on top of others"])
def test_publishing_again_after_others_have_pushed_leaves_the_tag_where_it_is(toy: Toy, base: str) -> None:
    done(toy)
    if base == "on top of others":
        (toy.root / "notes.txt").write_text("meanwhile")
        toy.commit("meanwhile")
    first = publish_run(toy.settings(), "liver", "one")
    (toy.root / "notes.txt").write_text("afterwards")
    toy.commit("afterwards")
    last = toy.git("rev-parse", "HEAD")
    assert publish_run(toy.settings(), "liver", "one") == first
    assert toy.git("rev-parse", "liver/one") == first.commit
    assert toy.git("rev-parse", "HEAD") == last


def test_a_run_that_changed_nothing_and_was_killed_before_its_push_gets_its_tag(ran_toy: Toy) -> None:
    run = opened(ran_toy, run_id="two", force=True)
    call(run.folder, "git", "tag", run.tag)
    published = publish_run(ran_toy.settings(), "liver", "two")
    assert ran_toy.git("rev-parse", "liver/two") == published.commit == run.base


def test_a_run_whose_stages_did_not_follow_each_other_is_refused(ran_toy: Toy) -> None:
    run = opened(ran_toy, run_id="two", force=True)
    assert unfollowed(run.folder, "liver") == []
    lock = run.folder / "dvc.lock"
    stages = yaml.safe_load(lock.read_text())
    stages["stages"]["copy@liver"]["outs"][0]["md5"] = "0" * 32
    lock.write_text(yaml.safe_dump(stages))
    with pytest.raises(MissingError, match=r"before them: collect: .*run stage collect liver in"):
        publish_run(ran_toy.settings(), "liver", "two")
    lock.write_text("")
    with pytest.raises(MissingError, match=r"before them: copy, collect, judge:"):
        publish_run(ran_toy.settings(), "liver", "two")
    assert ran_toy.git("tag", "--list", "liver/two") == ""


def test_data_go_to_the_remote_and_the_commit_to_the_server(toy: Toy, bare: Path, tmp_path: Path) -> None:
    settings = toy.settings(HOUNSFIELD_PROJECT=str(bare))
    run = open_run(settings, "liver", "one")
    assert run is not None
    run_stages(run)
    # As of an onboarding, whose scans nobody has pushed before.
    shutil.rmtree(tmp_path / "store")
    published = publish_run(settings, "liver", "one")
    close_run(settings, "liver", "one")
    call(tmp_path, "git", "clone", "-q", str(bare), "elsewhere")
    elsewhere = tmp_path / "elsewhere"
    assert call(elsewhere, "git", "rev-parse", "HEAD", "liver/one").split() == [published.commit] * 2
    shutil.rmtree(settings.home)
    call(elsewhere, "dvc", "pull", "-q", "data/raw/liver.dvc", "copy@liver", "collect@liver", "judge@liver")
    assert (elsewhere / "data/raw/liver/first.txt").read_text() == "liver 1\n"
    assert (elsewhere / "reports/liver/report.html").read_text() == "<p>1 kept</p>"


def test_a_run_whose_products_are_nowhere_is_not_published(toy: Toy, tmp_path: Path) -> None:
    """DVC warns of it and ends with 0."""
    call(toy.root, "dvc", "remote", "add", "-q", "-d", "remote", str(tmp_path / "remote"))
    toy.commit("remote")
    done(toy)
    made = hashlib.md5(b"<p>1 kept</p>", usedforsecurity=False).hexdigest()
    (toy.settings().home / "cache/files/md5" / made[:2] / made[2:]).unlink()
    with pytest.raises(Refused, match="dvc push failed: files are missing, in the cache and in the remote"):
        publish_run(toy.settings(), "liver", "one")
    assert toy.git("tag") == ""


def test_publishing_goes_on_after_a_git_that_was_killed(toy: Toy) -> None:
    run = done(toy)
    for lock in ("index.lock", "HEAD.lock", "refs/heads/main.lock"):
        (run.folder / ".git" / lock).touch()
    assert publish_run(toy.settings(), "liver", "one").branch == "main"


def test_publishing_leaves_alone_what_another_attempt_is_at(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = done(toy)
    waiting: list[Future[publishing.Published]] = []
    lock = run.folder / ".git/index.lock"

    def another(*_: object) -> str:
        if not waiting:
            lock.touch()
            waiting.append(pool.submit(publish_run, toy.settings(), "liver", "one"))
            wait(waiting, timeout=2)
            assert lock.exists()
            lock.unlink()
        return "run: liver"

    monkeypatch.setattr(publishing, "outcome_of", another)
    with ThreadPoolExecutor() as pool:
        first = publish_run(toy.settings(), "liver", "one")
    assert waiting[0].result() == first


def test_two_organs_published_at_once_are_both_there(toy: Toy) -> None:
    runs = [done(toy, organ) for organ in ("liver", "spleen")]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: publish_run(toy.settings(), run.organ, run.name), runs))
    locked = yaml.safe_load((toy.root / "dvc.lock").read_text())["stages"]
    assert set(locked) == {f"{stage}@{organ}" for stage in PIPELINE for organ in ("liver", "spleen")}
    assert toy.git("tag").split() == ["liver/one", "spleen/one"]
    assert toy.git("rev-list", "--count", "HEAD") == "3"
    assert toy.git("status", "--short") == ""
    assert json.loads(call(toy.root, "dvc", "status", "--json", "copy@liver", "copy@spleen")) != {}
    call(toy.root, "dvc", "checkout", *locked)
    assert json.loads(call(toy.root, "dvc", "status", "--json")) == {}


def test_what_others_committed_meanwhile_stays(toy: Toy) -> None:
    done(toy)
    params = (toy.root / "params.yaml").read_text()
    (toy.root / "params.yaml").write_text(f"# a comment\n{params}")
    toy.commit("meanwhile")
    published = publish_run(toy.settings(), "liver", "one")
    assert published.branch == "main"
    assert (toy.root / "params.yaml").read_text().startswith("# a comment")
    assert "copy@liver" in (toy.root / "dvc.lock").read_text()


@pytest.mark.parametrize(
    "how", ["a change that is not committed", "the same lines changed", "a file that git does not know"]
)
def test_a_branch_that_cannot_be_pushed_to_leaves_the_run_as_a_branch(toy: Toy, how: str) -> None:
    if how == "the same lines changed":
        run_stages(opened(toy, start="scratch"))
        text = (toy.root / "params.yaml").read_text()
        (toy.root / "params.yaml").write_text(text.replace("    train: {}", "    train: {steps: 5}", 1))
        toy.commit("meanwhile")
    elif how == "a file that git does not know":
        done(toy)
        (toy.root / "dvc.lock").write_text("schema: '2.0'")
    else:
        done(toy)
        (toy.root / "tool.py").write_text("# being written")
    before = toy.git("rev-parse", "main")
    published = publish_run(toy.settings(), "liver", "one")
    assert published.branch == "run/liver/one"
    assert toy.git("rev-parse", "main") == before
    assert toy.git("rev-parse", "run/liver/one", "liver/one").split() == [published.commit] * 2


def test_lines_that_end_as_on_windows_end_so_after_a_merge(toy: Toy) -> None:
    params = toy.root / "params.yaml"
    params.write_bytes(params.read_bytes().replace(b"\n", b"\r\n"))
    toy.commit("windows")
    run_stages(opened(toy, start="scratch"))
    params.write_bytes(b"# a comment\r\n" + params.read_bytes())
    toy.commit("meanwhile")
    assert publish_run(toy.settings(), "liver", "one").branch == "main"
    merged = params.read_bytes()
    assert merged.startswith(b"# a comment\r\n")
    assert b'train: {start: "scratch"}\r\n' in merged
    assert merged.count(b"\n") == merged.count(b"\r\n")


def test_figures_of_two_runs_are_not_mixed_line_by_line(toy: Toy) -> None:
    metrics = toy.root / "metrics/liver.json"
    metrics.parent.mkdir()
    figures = {"kept": 0} | {f"unchanged_{n}": n for n in range(9)} | {"mean": 0}
    metrics.write_text(json.dumps(figures, indent=2))
    toy.commit("figures")
    run = done(toy)
    (run.folder / "metrics/liver.json").write_text(json.dumps(figures | {"kept": 1}, indent=2))
    metrics.write_text(json.dumps(figures | {"mean": 2}, indent=2))
    toy.commit("by hand")
    assert publish_run(toy.settings(), "liver", "one").branch == "run/liver/one"
    assert json.loads(metrics.read_text()) == figures | {"mean": 2}


def test_a_run_is_published_on_a_history_that_was_rewritten(toy: Toy) -> None:
    done(toy)
    toy.git("checkout", "-q", "--orphan", "new")
    toy.commit("all that was")
    toy.git("branch", "-M", "new", "main")
    published = publish_run(toy.settings(), "liver", "one")
    assert published.branch == "main"
    assert toy.git("rev-list", "--count", "main") == "2"


def test_a_server_that_refuses_tags_is_named_and_not_taken_for_a_busy_one(toy: Toy, bare: Path) -> None:
    hook = bare / "hooks/update"
    hook.write_text("#!/bin/sh\n! expr $1 : refs/tags/ >/dev/null\n")
    hook.chmod(0o755)
    settings = toy.settings(HOUNSFIELD_PROJECT=str(bare))
    opened_there = open_run(settings, "liver", "one")
    assert opened_there is not None
    run_stages(opened_there)
    with pytest.raises(Unfinished, match=r"\[remote rejected\] liver/one -> liver/one \(hook declined\)"):
        publish_run(settings, "liver", "one")


def test_a_lock_that_a_killed_git_has_left_in_the_project_is_named(
    toy: Toy, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = toy.settings(HOUNSFIELD_PROJECT=str(bare))
    opened_there = open_run(settings, "liver", "one")
    assert opened_there is not None
    run_stages(opened_there)
    (bare / "refs/heads/main.lock").touch()
    monkeypatch.setattr(publishing, "ROUNDS", 2)
    with pytest.raises(Unfinished, match=r"main could not be pushed to .*main\.lock': File exists"):
        publish_run(settings, "liver", "one")


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SILENT, "GIT_HTTP_LOW_SPEED_TIME", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/project.git"
        with pytest.raises(Refused, match="git ls-remote failed"):
            git(tmp_path, "ls-remote", address)


def test_a_run_goes_to_another_branch_where_that_is_wanted(toy: Toy) -> None:
    done(toy)
    before = toy.git("rev-parse", "main")
    assert publish_run(toy.settings(), "liver", "one", branch="onboard/liver").branch == "onboard/liver"
    assert toy.git("rev-parse", "main") == before
    assert "dvc.lock" in toy.git("diff", "--name-only", "main", "onboard/liver")


def test_the_history_of_the_project_tells_what_the_gate_decided(tmp_path: Path) -> None:
    assert outcome_of(tmp_path, "liver") == "run: liver"
    record = tmp_path / "registry/liver.json"
    record.parent.mkdir()
    decided = {"challenger_version": 3, "champion_version": 2, "decision": "kept"}
    for mean, told in ((0.81234, "kept, mean Dice 0.8123"), (None, "kept")):
        record.write_text(json.dumps(decided | {"evidence": {"mean_dice": mean}}))
        assert outcome_of(tmp_path, "liver") == f"run: liver version 3 {told}"


def test_a_run_that_is_not_open_cannot_be_published(toy: Toy) -> None:
    with pytest.raises(MissingError, match="hounsfield run open liver --id two"):
        publish_run(toy.settings(), "liver", "two")


def test_a_lock_has_the_organs_own_sections_and_all_others_of_the_branch() -> None:
    ours = {"schema": "2.0", "stages": {"a@liver": 1, "b@liver": 1, "a@spleen": 1, "a@liver_lobes": 1}}
    theirs = {"schema": "2.0", "stages": {"a@liver": 2, "c@liver": 2, "a@spleen": 2, "a@liver_lobes": 2}}
    merged = yaml.safe_load(merged_lock("liver", yaml.safe_dump(ours), yaml.safe_dump(theirs)))
    assert merged == {
        "schema": "2.0",
        "stages": {"a@spleen": 2, "a@liver_lobes": 2, "a@liver": 1, "b@liver": 1},
    }


def test_a_lock_is_written_as_dvc_writes_it(ran_toy: Toy) -> None:
    text = (ran_toy.root / "dvc.lock").read_text()
    assert merged_lock("liver", text, "") == text
