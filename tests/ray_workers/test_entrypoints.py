import sys
from pathlib import Path

import pytest

from ray_workers.entrypoints import add_code_dir, load_entrypoint, shadowed_packages
from ray_workers.store.errors import InvalidInputError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's folder on the import path; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_function_of_any_module_is_found(project):
    (project / "pawl_demo").mkdir()
    (project / "pawl_demo" / "training.py").write_text("def loop(config):\n    return config\n")
    assert load_entrypoint("pawl_demo.training:loop")({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    "text", ["", ":", "module", "module:", ":function", "module:not a name", "a:b:c", "module.function"]
)  # fmt: skip
def test_what_is_not_module_and_function_is_refused(text):
    with pytest.raises(InvalidInputError, match="module:function"):
        load_entrypoint(text)


@pytest.mark.parametrize(
    ("name", "missing"),
    [("pawl_nowhere:loop", "pawl_nowhere"), ("pawl_pack.inner:loop", "pawl_pack.inner")],
)
def test_a_module_that_is_not_there_is_named(project, name, missing):
    (project / "pawl_pack").mkdir()
    with pytest.raises(InvalidInputError, match=f"no module '{missing}'"):
        load_entrypoint(name)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import pawl_missing_library", "ModuleNotFoundError: No module named 'pawl_missing"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def loop(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_raises_at_import_says_what_it_raised(project, source, why):
    (project / "pawl_broken.py").write_text(source + "\n")
    with pytest.raises(InvalidInputError, match=why) as caught:
        load_entrypoint("pawl_broken:loop")
    assert "'pawl_broken:loop' could not be imported" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("function", ["absent", "number"])
def test_what_is_no_function_is_refused(project, function):
    (project / "pawl_values.py").write_text("number = 3\n")
    with pytest.raises(InvalidInputError, match=f"'pawl_values' has no function '{function}'"):
        load_entrypoint(f"pawl_values:{function}")


@pytest.mark.parametrize(
    "name", ["..evil:loop", ".relative:loop", "a b:loop", "a..b:loop", "os.path.:x"]
)
def test_odd_module_names_are_refused_with_a_sentence(name):
    with pytest.raises(InvalidInputError, match="entrypoint"):
        load_entrypoint(name)


def test_the_code_folder_goes_first_on_the_path_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert add_code_dir(str(tmp_path)) == tmp_path
    add_code_dir(str(tmp_path))
    assert sys.path[0] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1
    monkeypatch.chdir(tmp_path)
    assert add_code_dir(None) == tmp_path


def test_a_code_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="is not a folder"):
        add_code_dir(str(tmp_path / "absent"))


def test_files_with_the_names_of_our_packages_are_reported(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "flows.py").touch()
    (tmp_path / "training.py").touch()
    found = shadowed_packages(tmp_path)
    assert [line.split(" has the name")[0] for line in found] == [
        str(tmp_path / "flows.py"),
        str(tmp_path / "tasks"),
    ]
    assert all("Pawl's is used" in line for line in found)


def test_our_own_folder_shadows_nothing():
    assert shadowed_packages(Path(__file__).parents[2]) == []
