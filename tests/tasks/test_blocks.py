from __future__ import annotations

import os

import pytest
from pydantic import SecretStr

from ray_workers.config import Scaling
from ray_workers.store.errors import InvalidInputError
from ray_workers.store.opening import StorageTarget
from tasks import block_documents, blocks
from tasks.block_documents import keys_of_block
from tasks.blocks import PawlCluster, PawlStorage, storage_target, use_cluster

CANARY = "canary-7b1c"


@pytest.fixture
def saved(monkeypatch):
    """Blocks as the server would hand them out, by slug and name."""
    documents: dict[tuple[str, str], dict[str, object]] = {}
    for module in (blocks, block_documents):
        monkeypatch.setattr(module, "block_document", lambda slug, name: documents[slug, name])
    return documents


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("PAWL_STORAGE", raising=False)


def test_every_field_of_a_form_has_a_title_and_a_description():
    for block in (PawlStorage, PawlCluster):
        for name, field in block.model_fields.items():
            assert field.title, f"{block.__name__}.{name}"
            assert field.description, f"{block.__name__}.{name}"


def test_a_storage_block_becomes_a_target_with_everything_it_holds(saved):
    saved["pawl-storage", "main"] = {
        "url": "s3://bucket/",
        "root": "/team/pawl/",
        "access_key_id": "id",
        "secret_access_key": CANARY,
        "region": "eu-1",
        "endpoint_url": "http://ceph:7480",
        "encryption": "aws:kms",
        "kms_key_id": "key-1",
    }
    target = storage_target("pawl-storage/main")
    assert target.url == "s3://bucket/team/pawl"
    keys = target.credentials
    assert keys is not None
    assert (keys.access_key_id, keys.secret_access_key) == ("id", CANARY)
    assert (keys.region, keys.endpoint_url) == ("eu-1", "http://ceph:7480")
    assert (keys.encryption, keys.kms_key_id) == ("aws:kms", "key-1")
    assert CANARY not in repr(target)


def test_no_secret_shows_in_a_blocks_own_repr_or_json():
    block = PawlStorage(
        url="s3://b", access_key_id=SecretStr("id"), secret_access_key=SecretStr(CANARY)
    )
    cluster = PawlCluster(kind="jobs", address="http://head:8265", token=SecretStr(CANARY))
    for text in (repr(block), block.model_dump_json(), repr(cluster), cluster.model_dump_json()):
        assert CANARY not in text


def test_a_block_of_a_folder_needs_no_keys_and_refuses_them(tmp_path):
    assert PawlStorage(url=str(tmp_path), root="runs").target() == StorageTarget(
        str(tmp_path / "runs")
    )
    with pytest.raises(InvalidInputError, match="for s3:// alone"):
        PawlStorage(url=str(tmp_path), encryption="AES256").target()


@pytest.mark.parametrize(
    ("slug", "data", "expected"),
    [
        (
            "aws-credentials",
            {
                "aws_access_key_id": "id",
                "aws_secret_access_key": CANARY,
                "aws_session_token": "t",
                "region_name": "eu-2",
                "aws_client_parameters": {"endpoint_url": "http://s3:1"},
            },
            {
                "access_key_id": "id",
                "secret_access_key": CANARY,
                "session_token": "t",
                "region": "eu-2",
                "endpoint_url": "http://s3:1",
            },
        ),
        (
            "minio-credentials",
            {"minio_root_user": "id", "minio_root_password": CANARY, "region_name": None},
            {"access_key_id": "id", "secret_access_key": CANARY},
        ),
    ],
)
def test_keys_come_from_blocks_of_prefect_aws(saved, slug, data, expected):
    saved[slug, "x"] = data
    assert keys_of_block(f"{slug}/x") == expected
    target = PawlStorage(url="s3://b", credentials_block=f"{slug}/x", region="own").target()
    assert target.credentials is not None
    assert target.credentials.secret_access_key == CANARY
    assert target.credentials.region == "own"  # what the block says itself wins


def test_what_pawl_cannot_follow_in_a_credentials_block_is_refused(saved):
    saved["aws-credentials", "x"] = {
        "profile_name": "p",
        "aws_client_parameters": {"verify": False},
    }
    with pytest.raises(InvalidInputError, match="profile_name, verify=false"):
        keys_of_block("aws-credentials/x")
    with pytest.raises(InvalidInputError, match="not of the form"):
        keys_of_block("secret/x")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"credentials_block": "aws-credentials/x", "access_key_id": SecretStr("i")},
            "give one of them",
        ),
        ({"access_key_id": SecretStr(CANARY)}, "together"),
        ({"encryption": "AES256", "kms_key_id": "k"}, "choose aws:kms"),
        ({"endpoint_url": f"http://u:{CANARY}@host"}, "without user"),
    ],
)
def test_a_storage_block_that_contradicts_itself_is_refused_in_one_sentence(
    saved, fields, sentence
):
    saved["aws-credentials", "x"] = {}
    with pytest.raises(InvalidInputError, match=sentence) as raised:
        PawlStorage(url="s3://b", **fields).target()
    assert CANARY not in str(raised.value)


def test_a_url_or_a_folder_is_no_block(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert storage_target("s3://b/p").url == "s3://b/p"
    assert storage_target("./pawl-storage/main").url == str(tmp_path / "pawl-storage" / "main")
    assert storage_target("pawl-storage/a/b").url == str(tmp_path / "pawl-storage" / "a" / "b")
    assert storage_target(None).url == str(tmp_path / "pawl-store")
    saved["pawl-storage", "main"] = {"url": "s3://from-block"}
    monkeypatch.setenv("PAWL_STORAGE", "pawl-storage/main")
    assert storage_target(None).url == "s3://from-block"


@pytest.mark.parametrize(
    ("kind", "address", "expected"),
    [
        ("local", None, None),
        ("existing", "ray-head:6379", "ray-head:6379"),
        ("existing", "auto", "auto"),
        ("jobs", "http://head:8265", "http://head:8265"),
    ],
)
def test_a_cluster_block_becomes_an_address(saved, kind, address, expected):
    saved["pawl-cluster", "c"] = {"kind": kind, "address": address}
    scaling = use_cluster(Scaling(workers=3, cluster="pawl-cluster/c"))
    assert (scaling.workers, scaling.ray_address) == (3, expected)


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("local", "x:1"),
        ("existing", None),
        ("existing", "http://h:8265"),
        ("jobs", "h:6379"),
        ("jobs", None),
    ],
)
def test_an_address_that_does_not_fit_the_kind_is_refused(kind, address):
    with pytest.raises(InvalidInputError, match=f"of kind {kind}"):
        PawlCluster(kind=kind, address=address).ray_address()


@pytest.mark.parametrize("kind", ["local", "existing", "jobs"])
def test_an_address_with_a_password_is_refused_and_not_repeated(kind):
    with pytest.raises(InvalidInputError, match="its own field") as raised:
        PawlCluster(kind=kind, address=f"http://me:{CANARY}@head:8265").ray_address()
    assert CANARY not in str(raised.value)


def test_the_token_reaches_ray_by_the_environment_alone(saved, monkeypatch):
    saved["pawl-cluster", "c"] = {"kind": "existing", "address": "h:1", "token": CANARY}
    scaling = use_cluster(Scaling(cluster="pawl-cluster/c"))
    assert CANARY not in repr(scaling)
    assert os.environ["RAY_AUTH_TOKEN"] == CANARY
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_cluster_is_named_once_and_by_its_block():
    with pytest.raises(InvalidInputError, match="give one of them"):
        use_cluster(Scaling(cluster="pawl-cluster/c", ray_address="h:1"))
    with pytest.raises(InvalidInputError, match="write the name of a cluster block"):
        use_cluster(Scaling(cluster="h:6379"))
    assert use_cluster(Scaling(ray_address="h:1")).ray_address == "h:1"
