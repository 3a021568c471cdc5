import shutil
import subprocess

import pytest

from ray_workers.code_version import code_version
from ray_workers.environment import environment_of, started_as

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    (folder / "inner").mkdir(parents=True)
    (folder / "train.py").write_text("x = 1\n")
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    git(folder, "tag", "v1")
    return folder


@pytest.fixture
def without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@needs_git
def test_the_commit_of_the_folder_or_of_one_above(project):
    commit = git(project, "rev-parse", "HEAD")
    assert code_version(project, {}) == code_version(project / "inner", {}) == commit
    (project / "train.py").write_text("x = 2\n")
    assert code_version(project, {}) == f"{commit}-dirty"


@needs_git
def test_inside_a_hook_of_another_repository_it_is_still_the_folders_own(
    project, tmp_path, monkeypatch
):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert len(code_version(project, {})) == 40


@needs_git
@pytest.mark.parametrize("kept", ["loose", "packed", "detached", "worktree"])
def test_a_machine_without_git_still_finds_the_commit(project, tmp_path, kept, request):
    commit = git(project, "rev-parse", "HEAD")
    folder = project
    if kept == "packed":
        git(project, "pack-refs", "--all")
    elif kept == "detached":
        git(project, "checkout", "--detach")
    elif kept == "worktree":
        folder = tmp_path / "other"
        git(project, "worktree", "add", str(folder), "-b", "side")
    request.getfixturevalue("without_git")
    assert code_version(folder, {}) == commit


def test_what_the_user_says_wins(tmp_path):
    assert code_version(tmp_path, {"PAWL_CODE_VERSION": " v7 "}) == "v7"


@pytest.mark.parametrize("head", ["ref: refs/heads/main", "nonsense", "gitdir: nowhere"])
@pytest.mark.usefixtures("without_git")
def test_a_folder_without_a_commit_has_no_version(tmp_path, head):
    assert code_version(tmp_path, {}) == ""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text(head)
    assert code_version(tmp_path, {}) == ""


def test_a_version_tells_the_code_that_the_flow_saw_or_the_worker_was_given(monkeypatch):
    monkeypatch.delenv("PAWL_CODE_VERSION", raising=False)
    assert environment_of(started_as("a:b", 1, 0))["code"] == ""
    assert environment_of(started_as("a:b", 1, 0, "abc"))["code"] == "abc"
    monkeypatch.setenv("PAWL_CODE_VERSION", "image-7")
    assert environment_of(started_as("a:b", 1, 0, "abc"))["code"] == "image-7"
