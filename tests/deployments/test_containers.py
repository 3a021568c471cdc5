"""compose.yaml and Dockerfile as far as they can be checked without an engine: schema, lint, and what they refer to."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import compose_spec
import pytest
import yaml

from tests.support.compose_file import MissingVariableError, read_compose

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deployments" / "Dockerfile"
SECRETS = {
    "PAWL_DB_PASSWORD": "db-canary",
    "PAWL_S3_SECRET": "s3-canary",
    "PAWL_RAY_TOKEN": "ray-canary",
}
LEASES = "prefect.server.concurrency.lease_storage.filesystem"
BIN = Path(sys.executable).parent


@pytest.fixture
def compose():
    return read_compose(SECRETS)


def validate(content):
    """Refused are unknown keys, wrong types, and networks that nothing defines."""
    engine_sees = {key: value for key, value in content.items() if not key.startswith("x-")}
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(engine_sees)).validate()


def test_the_file_follows_the_compose_specification(compose):
    validate(compose)


@pytest.mark.parametrize(
    ("service", "key", "value", "told"),
    [
        ("worker", "commando", ["prefect"], "`commando`"),
        ("s3", "volumes", [3], "volumes"),
        ("ray-head", "networks", ["nowhere"], "`nowhere`"),
        ("prefect", "restart", "sometimes", "`sometimes`"),
    ],
)
def test_a_mistake_in_it_is_found(compose, service, key, value, told):
    compose["services"][service][key] = value
    with pytest.raises(ValueError, match=told):
        validate(compose)


def test_every_volume_that_is_used_is_defined_and_the_other_way_round(compose):
    sources = [v.split(":")[0] for each in compose["services"].values() for v in each.get("volumes", [])]  # fmt: skip
    assert {s for s in sources if not s.startswith(".")} == set(compose["volumes"])


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_missing_secret_stops_it_with_what_to_do(name):
    with pytest.raises(MissingVariableError, match=f"{name}: put a long random string into .env"):
        read_compose({key: value for key, value in SECRETS.items() if key != name})


def test_who_is_waited_for_says_when_it_is_ready(compose):
    services = compose["services"]
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[name], name
            else:
                assert services[name]["restart"].startswith("on-failure"), f"{name} never ends"


def test_secrets_are_seen_by_those_who_need_them_alone(compose):
    holders = {
        canary: {
            name for name, each in compose["services"].items() if canary in str(each)
        }
        for canary in SECRETS.values()
    }  # fmt: skip
    assert holders == {
        "db-canary": {"postgres", "prefect"},
        "s3-canary": {"s3", "setup"},
        "ray-canary": {"ray-head", "ray-worker", "worker"},
    }
    assert not any(canary in str(each["command"]) for canary in SECRETS.values()
                   for each in compose["services"].values() if "command" in each)  # fmt: skip


def test_only_prefects_page_is_published_and_on_loopback(compose):
    published = {name: each["ports"] for name, each in compose["services"].items() if each.get("ports")}  # fmt: skip
    assert published == {"prefect": ["127.0.0.1:4200:4200"]}


def test_every_command_is_one_that_the_image_has(compose):
    ours = [each for each in compose["services"].values() if "build" in each]
    assert len(ours) == 6
    for each in ours:
        for command in filter(None, [each.get("command")]):
            assert (BIN / command[0]).exists(), command


def test_every_service_is_built_from_a_stage_of_the_dockerfile(compose):
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE.read_text(), re.MULTILINE))
    used = {e["build"]["target"] for e in compose["services"].values() if "build" in e}
    assert used == {"pawl", "s3"}
    assert used <= stages
    assert (ROOT / "deployments" / compose["x-image"]["build"]["context"]).resolve() == ROOT


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "hadolint"), "--no-color", str(path)], capture_output=True, text=True, check=False
    )  # fmt: skip


def test_the_dockerfile_is_clean_under_hadolint():
    done = lint(DOCKERFILE)
    assert done.returncode == 0, done.stdout


def test_hadolint_sees_what_is_wrong(tmp_path):
    spoilt = tmp_path / "Dockerfile"
    spoilt.write_text(DOCKERFILE.read_text().replace("# hadolint ignore=DL3008\n", ""))
    done = lint(spoilt)
    assert done.returncode != 0
    assert "DL3008" in done.stdout


def copied() -> set[str]:
    """What the Dockerfile takes from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    return {name for line in lines for name in line.split()}


def test_the_image_gets_all_that_the_wheel_needs_and_no_more():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {name.split(".")[0] for name in wanted} <= copied()
    assert all((ROOT / name).exists() for name in copied())
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_that_the_image_installs_holds_everything_and_starts(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    for name in copied() - {"constraints.txt"}:
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, source / name)
    (command,) = re.findall(r"^RUN (pip wheel .*)$", DOCKERFILE.read_text(), re.MULTILINE)
    command = command.replace("/wheels", str(tmp_path / "wheels")).split()
    run([sys.executable, "-m", *command], source)
    (wheel,) = (tmp_path / "wheels").iterdir()

    venv = tmp_path / "venv"
    run([sys.executable, "-m", "venv", str(venv)], tmp_path)
    run([str(venv / "bin/pip"), "install", "--quiet", "--no-deps", "--constraint", str(ROOT / "constraints.txt"),
         str(wheel)], tmp_path)  # fmt: skip
    (site,) = venv.glob("lib/python*/site-packages")
    for inside in (
        "ray_workers/store/FORMAT.md",
        "deployments/prefect.yaml",
        "deployments/grafana-dashboard.json",
        "ray_workers/loops/digits.py",
        "flows/train.py",
    ):
        assert (site / inside).is_file(), inside
    # the dependencies are those of this environment; a plain path, so that no `.pth` of it brings the sources along
    ours = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    (site / "dependencies.pth").write_text(f"{ours}\n")
    told = run([str(venv / "bin/pawl"), "--help"], tmp_path)
    assert "train" in told
    origin = run(
        [str(venv / "bin/python"), "-P", "-c", "import flows.train, deployments.setting_up, ray_workers.trainer as t; print(t.__file__)"],
        tmp_path,
    )  # fmt: skip
    assert origin.strip().startswith(str(site))


def run(command, cwd):
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PREFECT_HOME": str(cwd)},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_volume_lies_where_the_image_has_a_folder_of_its_users(compose):
    """An engine gives a new volume the owner of the image's folder below it; where there is none it is root's alone."""
    (made,) = re.findall(
        r"install --directory --owner=pawl (.+)$", DOCKERFILE.read_text(), re.MULTILINE
    )
    mounted = [
        volume.split(":")
        for each in compose["services"].values()
        if "build" in each
        for volume in each.get("volumes", [])
    ]
    targets = {target for source, target, *_ in mounted if source in compose["volumes"]}
    assert targets == {"/prefect", "/data"}
    assert targets <= set(made.split())


def test_leases_outlive_prefects_server(compose):
    """Lost ones end every run of a deployment with a limit."""
    server = compose["services"]["prefect"]
    assert server["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == LEASES
    home = server["environment"]["PREFECT_HOME"]
    assert f"prefect:{home}" in server["volumes"]
