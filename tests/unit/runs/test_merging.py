"""What a run changed on top of what others pushed, in a repository of real git."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from pipeline.lockfile import LOCK
from pipeline.runs.commands import git
from pipeline.runs.merging import Conflict, follows, merged_lock, on_top

BEFORE = {
    "params.yaml": b"first: 1\nsecond: 2\nthird: 3\nfourth: 4\nfifth: 5\n",
    "metrics/liver.json": b'{"dice": 0.5}\n',
    "data/raw/.gitignore": b"/liver\n",
    "docs/old.md": b"the same text\n" * 20,
    "left alone": b"as it was\n",
}


class Repository:
    """One with a commit `base`; every other commit is one on top of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        git(root, "init", "-q", "-b", "main")
        git(root, "config", "user.name", "Test")
        git(root, "config", "user.email", "test@example.org")
        self.base = self._commit(BEFORE, "base")

    def changed(self, files: Mapping[str, bytes | None]) -> str:
        """The commit after `base` that has these files; None removes one."""
        git(self.root, "checkout", "-q", "--detach", self.base)
        return self._commit(files, "liver: a run")

    def _commit(self, files: Mapping[str, bytes | None], message: str) -> str:
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
        git(self.root, "add", "-A")
        git(self.root, "commit", "-qm", message)
        return git(self.root, "rev-parse", "HEAD")

    def on_top(self, ours: str, theirs: str) -> str:
        return on_top(self.root, "liver", self.base, ours, theirs)

    def text(self, commit: str, name: str) -> str:
        return git(self.root, "cat-file", "blob", f"{commit}:{name}")

    def names(self, commit: str) -> set[str]:
        return set(git(self.root, "ls-tree", "-r", "--name-only", commit).splitlines())


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_what_both_changed_in_other_lines_is_there_and_the_working_tree_is_as_it_was(
    repository: Repository,
) -> None:
    ours = repository.changed({"params.yaml": BEFORE["params.yaml"].replace(b"first: 1", b"first: 10")})
    theirs = repository.changed(
        {"params.yaml": BEFORE["params.yaml"].replace(b"fifth: 5", b"fifth: 50"), "new": b"theirs\n"}
    )
    merged = repository.on_top(ours, theirs)
    assert repository.text(merged, "params.yaml") == "first: 10\nsecond: 2\nthird: 3\nfourth: 4\nfifth: 50"
    assert repository.names(merged) == {*BEFORE, "new"}
    assert git(repository.root, "rev-parse", f"{merged}^") == theirs
    assert git(repository.root, "log", "-1", "--format=%s", merged) == "liver: a run"
    assert git(repository.root, "status", "--porcelain") == ""
    assert git(repository.root, "rev-parse", "HEAD") == theirs


def test_nothing_of_others_leaves_the_commit_as_it_is(repository: Repository) -> None:
    ours = repository.changed({"new": b"ours\n"})
    assert repository.on_top(ours, repository.base) == ours


def test_an_attempt_that_was_pushed_before_it_was_killed_is_not_made_twice(repository: Repository) -> None:
    ours = repository.changed({"metrics/liver.json": b'{"dice": 0.9}\n'})
    theirs = repository.changed({"new": b"theirs\n"})
    pushed = repository.on_top(ours, theirs)
    assert repository.on_top(ours, pushed) == pushed


def test_a_file_that_the_run_moved_or_removed_is_no_longer_where_it_was(repository: Repository) -> None:
    ours = repository.changed({"docs/old.md": None, "docs/new.md": BEFORE["docs/old.md"], "left alone": None})
    theirs = repository.changed({"new": b"theirs\n"})
    merged = repository.on_top(ours, theirs)
    assert repository.names(merged) == {*BEFORE, "docs/new.md", "new"} - {"docs/old.md", "left alone"}


@pytest.mark.parametrize(("mine", "others"), [(b"ours\n", None), (None, b"theirs\n")])
def test_what_one_side_changed_and_the_other_removed_is_left_to_a_person(
    repository: Repository, mine: bytes | None, others: bytes | None
) -> None:
    ours, theirs = (repository.changed({"left alone": content}) for content in (mine, others))
    with pytest.raises(Conflict, match="left alone was changed on one side and removed on the other"):
        repository.on_top(ours, theirs)


def test_figures_of_two_runs_are_not_mixed_and_the_same_ones_are_no_conflict(repository: Repository) -> None:
    ours = repository.changed({"metrics/liver.json": b'{"dice": 0.9}\n'})
    theirs = repository.changed({"metrics/liver.json": b'{"dice": 0.7}\n'})
    with pytest.raises(Conflict, match=r"liver: metrics/liver\.json was changed by somebody else as well"):
        repository.on_top(ours, theirs)
    same = repository.changed({"metrics/liver.json": b'{"dice": 0.9}\n', "new": b"theirs\n"})
    assert repository.on_top(ours, same) == same


def test_the_same_line_changed_by_both_is_left_to_a_person(repository: Repository) -> None:
    ours, theirs = (
        repository.changed({"params.yaml": BEFORE["params.yaml"].replace(b"third: 3", b"third: " + value)})
        for value in (b"4", b"5")
    )
    with pytest.raises(Conflict, match=r"merge the run's branch by hand, minding params\.yaml"):
        repository.on_top(ours, theirs)


def test_what_dvc_ignores_is_what_either_ignores(repository: Repository) -> None:
    ours = repository.changed({"data/raw/.gitignore": b"/liver\n/mine\n"})
    theirs = repository.changed({"data/raw/.gitignore": b"/liver\n/yours\n"})
    merged = repository.text(repository.on_top(ours, theirs), "data/raw/.gitignore")
    assert sorted(merged.splitlines()) == ["/liver", "/mine", "/yours"]


def test_a_file_that_both_made_is_merged_from_nothing(repository: Repository) -> None:
    ours = repository.changed({"reports/.gitignore": b"/liver\n"})
    theirs = repository.changed({"reports/.gitignore": b"/spleen\n"})
    merged = repository.text(repository.on_top(ours, theirs), "reports/.gitignore")
    assert sorted(merged.splitlines()) == ["/liver", "/spleen"]


def test_a_file_stays_one_that_may_be_run(repository: Repository) -> None:
    git(repository.root, "checkout", "-q", "--detach", repository.base)
    script = repository.root / "script.sh"
    script.write_text("true\n")
    script.chmod(0o755)
    git(repository.root, "add", "-A")
    git(repository.root, "commit", "-qm", "liver: a run")
    ours = git(repository.root, "rev-parse", "HEAD")
    merged = repository.on_top(ours, repository.changed({"new": b"theirs\n"}))
    assert git(repository.root, "ls-tree", merged, "script.sh").startswith("100755 ")


def test_sections_of_the_lock_are_those_of_whose_run_made_them(repository: Repository) -> None:
    def lock(**stages: str) -> bytes:
        bodies = {name.replace("_at_", "@"): {"cmd": value} for name, value in stages.items()}
        return yaml.safe_dump({"schema": "2.0", "stages": bodies}).encode()

    ours = repository.changed(
        {LOCK: lock(train_at_liver="new", train_at_liver_left="old", train_at_spleen="old")}
    )
    theirs = repository.changed(
        {LOCK: lock(ingest_at_liver="gone", train_at_liver_left="theirs", train_at_spleen="theirs")}
    )
    stages = yaml.safe_load(repository.text(repository.on_top(ours, theirs), LOCK))["stages"]
    assert {name: body["cmd"] for name, body in stages.items()} == {
        "train@liver": "new",
        "train@liver_left": "theirs",
        "train@spleen": "theirs",
    }


def test_a_lock_that_one_side_has_emptied_is_the_others() -> None:
    full = yaml.safe_dump({"schema": "2.0", "stages": {"train@liver": {"cmd": "x"}}})
    assert yaml.safe_load(merged_lock("liver", full, ""))["stages"] == {"train@liver": {"cmd": "x"}}
    assert yaml.safe_load(merged_lock("spleen", "", full))["stages"] == {"train@liver": {"cmd": "x"}}


def test_a_history_that_was_rewritten_is_not_followed(repository: Repository) -> None:
    ours = repository.changed({"new": b"ours\n"})
    git(repository.root, "checkout", "-q", "--orphan", "other")
    git(repository.root, "commit", "-qm", "another beginning")
    assert follows(repository.root, ours, repository.base)
    assert not follows(repository.root, ours, git(repository.root, "rev-parse", "HEAD"))
    assert not follows(repository.root, ours, "0" * 40)
