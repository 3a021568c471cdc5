"""Real processes with gloo: what two ranks save comes back to two, to one, and from one to two."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ray_workers import rng
from ray_workers.decisions import Decision, open_channel
from ray_workers.plain_names import plain_state
from ray_workers.planners import is_owner, rank_prefix
from ray_workers.shard_io import load_tensors, plan_shard, read_tensor, read_tensors
from ray_workers.state_tree import join, split
from ray_workers.store.errors import DigestMismatchError, InvalidInputError, StateMismatchError
from ray_workers.training_state import TrainingParts, capture, restore
from tests.support.rank_pool import RankPool
from tests.support.training import Net, Training, digest_tree, make_training
from tests.support.versions import MemoryVersion, RankPart, make_version, write_rank


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    pool = RankPool(tmp_path_factory.mktemp("ranks"))
    yield pool
    pool.close()


# --- what runs on each rank -----------------------------------------------------------------------


def shard_fully(model: nn.Module) -> nn.Module:
    assert isinstance(model, Net)
    for layer in (model.first, model.last):
        fully_shard(layer)
    fully_shard(model)
    return model


def wrap_ddp(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model, find_unused_parameters=True)


WRAPPERS = {"fsdp2": shard_fully, "ddp": wrap_ddp, "plain": lambda model: model}


def training_of(kind: str, optimizer: str, seed: int) -> Training:
    # FSDP2 gives each rank a part of the batch, so BatchNorm's statistics would differ by rank.
    return make_training(optimizer, wrap=WRAPPERS[kind], seed=seed, batch_norm=kind != "fsdp2")


def save(parts: TrainingParts) -> RankPart:
    rank = dist.get_rank() if dist.is_initialized() else 0
    shared = split(capture(parts), prefix="shared")
    local = split({"rng": rng.capture(), "rank": rank}, prefix=rank_prefix(rank))
    return write_rank(shared.tensors | local.tensors, rank=rank, plain=(shared.plain, local.plain))


def agree_to_end() -> Decision:
    decision = Decision(next_step=7, save=True, stop="interrupted", grace_s=5.25, announce=3)
    channel = open_channel(2)
    return channel.agree(decision if dist.get_rank() == 0 else None)


def assemble(parts: list[RankPart]) -> MemoryVersion:
    shared = parts[0].plain[0]
    local = [RankPart(layouts=p.layouts, shard=p.shard, plain=p.plain[1]) for p in parts]
    return make_version(local, plain=shared)


def train_and_save(kind: str, optimizer: str, steps: int) -> tuple[RankPart, list[float], Any, Any]:
    """One rank's part after `steps`; then, uninterrupted, five more losses, the state they lead to, and a draw."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    training = training_of(kind, optimizer, seed=0)
    torch.manual_seed(100 + rank)
    training.steps(steps, rank=rank)
    part = save(training.parts)
    losses = training.steps(5, rank=rank)
    return part, losses, digest_tree(capture(training.parts)), torch.rand(3).tolist()


def resume_and_train(
    kind: str, optimizer: str, version: MemoryVersion
) -> tuple[list[float], Any, Any, int]:
    rank = dist.get_rank() if dist.is_initialized() else 0
    training = training_of(kind, optimizer, seed=1)
    restore(training.parts, version.manifest, version.read)
    tensors = read_tensors(version.manifest, version.read, prefix=rank_prefix(rank))
    local = join(version.manifest.rank_plain[rank], tensors)
    rng.restore(local["rng"])
    losses = training.steps(5, rank=rank)
    return losses, digest_tree(capture(training.parts)), torch.rand(3).tolist(), local["rank"]


def restored_state(kind: str, optimizer: str, version: MemoryVersion) -> Any:
    training = training_of(kind, optimizer, seed=1)
    restore(training.parts, version.manifest, version.read)
    return digest_tree(capture(training.parts))


def save_only(kind: str, optimizer: str, steps: int) -> tuple[RankPart, Any]:
    rank = dist.get_rank() if dist.is_initialized() else 0
    training = training_of(kind, optimizer, seed=0)
    torch.manual_seed(100 + rank)
    training.steps(steps, rank=rank)
    return save(training.parts), digest_tree(capture(training.parts))


# --- two ranks to two ranks: bit for bit ----------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd momentum"])
@pytest.mark.parametrize("kind", ["fsdp2", "ddp"])
def test_two_ranks_go_on_bit_for_bit(ranks, kind, optimizer):
    saved = ranks.run(train_and_save, kind, optimizer, 3)
    version = assemble([part for part, _, _, _ in saved])
    resumed = ranks.run(resume_and_train, kind, optimizer, version)
    for rank in (0, 1):
        _, losses, state, draw = saved[rank]
        assert resumed[rank] == (losses, state, draw, rank)
    assert saved[0][3] != saved[1][3], (
        "the ranks' generators must differ, or the test shows nothing"
    )


def test_resuming_at_the_first_step(ranks):
    saved = ranks.run(train_and_save, "fsdp2", "adamw", 0)
    version = assemble([part for part, _, _, _ in saved])
    resumed = ranks.run(resume_and_train, "fsdp2", "adamw", version)
    assert [r[:3] for r in resumed] == [s[1:] for s in saved]


# --- other world sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "adam tensor lr"])
def test_two_ranks_to_one(ranks, optimizer):
    kind = "ddp" if optimizer == "adafactor" else "fsdp2"
    saved = ranks.run(save_only, kind, optimizer, 2)
    version = assemble([part for part, _ in saved])
    plain = make_training(optimizer, seed=1, batch_norm=kind != "fsdp2")
    restore(plain.parts, version.manifest, version.read)
    assert digest_tree(capture(plain.parts)) == saved[0][1]


@pytest.mark.parametrize("kind", ["fsdp2", "ddp"])
def test_one_rank_to_two(ranks, kind):
    part, state = save_only("plain", "adamw", 2) if kind == "ddp" else save_like_fsdp()
    version = assemble([part])
    assert ranks.run(restored_state, kind, "adamw", version) == [state, state]


def save_like_fsdp() -> tuple[RankPart, Any]:
    training = make_training("adamw", batch_norm=False)
    training.steps(2)
    return save(training.parts), digest_tree(capture(training.parts))


def test_ddp_to_fsdp2_on_other_layers(ranks):
    training = make_training("adamw", batch_norm=False)
    training.steps(2)
    version = assemble([save(training.parts)])
    states = ranks.run(restored_state, "fsdp2", "adamw", version)
    again = ranks.run(resave, version)
    assert restored_plain(assemble(again)) == states[0] == digest_tree(capture(training.parts))


def resave(version: MemoryVersion) -> RankPart:
    training = training_of("fsdp2", "adamw", seed=1)
    restore(training.parts, version.manifest, version.read)
    return save(training.parts)


def restored_plain(version: MemoryVersion) -> Any:
    training = make_training("adamw", seed=2, batch_norm=False)
    restore(training.parts, version.manifest, version.read)
    return digest_tree(capture(training.parts))


# --- who writes what ------------------------------------------------------------------------------


def test_replicated_tensors_are_stored_once_and_sharded_ones_in_parts(ranks):
    ddp = assemble([part for part, _ in ranks.run(save_only, "ddp", "adamw", 1)])
    owners = {
        path: {chunk.shard for chunk in layout.chunks}
        for path, layout in ddp.manifest.tensors.items()
    }
    assert all(found == {0} for path, found in owners.items() if path.startswith("shared/"))
    for rank in (0, 1):
        own = {p for p in owners if p.startswith(f"{rank_prefix(rank)}/")}
        assert own
        assert all(owners[path] == {rank} for path in own)

    fsdp = assemble([part for part, _ in ranks.run(save_only, "fsdp2", "adamw", 1)])
    for path in ("model/first.weight", "optimizer/0/state/first.weight/exp_avg"):
        chunks = fsdp.manifest.tensors[f"shared/{path}"].chunks
        assert [chunk.shard for chunk in chunks] == [0, 1]


def test_equal_state_gives_equal_digests(ranks):
    first, second = (
        assemble([part for part, _ in ranks.run(save_only, "fsdp2", "adamw", 2)]) for _ in range(2)
    )
    assert first.manifest.shards == second.manifest.shards
    assert first.manifest.digest == second.manifest.digest


def write_layouts() -> tuple[RankPart, list[bool]]:
    """Plain layouts on a 1-d mesh and on both 2-d meshes that two ranks can make."""
    line = init_device_mesh("cpu", (2,))
    column = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    row = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))
    whole = torch.arange(15.0).reshape(3, 5)
    tensors: dict[str, torch.Tensor] = {
        "shared/rows": distribute_tensor(whole, line, [Shard(0)]),
        "shared/columns": distribute_tensor(whole, line, [Shard(1)]),
        "shared/copies": distribute_tensor(whole, line, [Replicate()]),
        "shared/one row": distribute_tensor(whole[:1], line, [Shard(0)]),
        "shared/no row": distribute_tensor(whole[:0], line, [Shard(0)]),
        "shared/hybrid": distribute_tensor(whole, column, [Replicate(), Shard(0)]),
        "shared/hybrid too": distribute_tensor(whole, row, [Replicate(), Shard(1)]),
        "shared/both": distribute_tensor(whole, row, [Shard(0), Shard(0)]),
        "shared/bfloat16": distribute_tensor(whole.bfloat16(), line, [Shard(1)]),
        "shared/plain": whole,
    }
    rank = dist.get_rank()
    return write_rank(tensors, rank=rank), [is_owner(path, t, rank) for path, t in tensors.items()]


def test_every_placement_is_whole_and_has_one_owner(ranks):
    answers = ranks.run(write_layouts)
    version = make_version([part for part, _ in answers])
    whole = torch.arange(15.0).reshape(3, 5)
    expected = {
        "shared/one row": whole[:1], "shared/no row": whole[:0], "shared/bfloat16": whole.bfloat16(),
    }  # fmt: skip
    for path in version.manifest.tensors:
        found = read_tensor(version.manifest, path, version.read)
        assert torch.equal(found, expected.get(path, whole)), path
    assert len(version.manifest.tensors) == 10
    assert [c.shard for c in version.manifest.tensors["shared/one row"].chunks] == [0]
    mine, other = (owned for _, owned in answers)
    replicated = ["shared/copies", "shared/plain", "shared/hybrid"]
    assert len(mine) == 10
    assert sum(other) == 10 - len(replicated)


def load_into(version: MemoryVersion, axis: int) -> Any:
    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for path in version.manifest.tensors:
        layout = version.manifest.tensors[path]
        if len(layout.shape) == 2 and layout.dtype == "F32":
            target = distribute_tensor(torch.full(layout.shape, -1.0), mesh, [Shard(axis)])
            load_tensors({path: target}, version.manifest, version.read, prefix=path)
            assert isinstance(target, DTensor)
            found[path] = target.full_tensor().numpy()
    return found, version.reads


@pytest.mark.parametrize("axis", [0, 1])
def test_every_placement_loads_into_every_other(ranks, axis):
    version = make_version([part for part, _ in ranks.run(write_layouts)])
    whole = np.arange(15.0, dtype=np.float32).reshape(3, 5)
    for found, _ in ranks.run(load_into, version, axis):
        assert len(found) == 9
        for path, array in found.items():
            rows = {"shared/one row": 1, "shared/no row": 0}.get(path, 3)
            assert np.array_equal(array, whole[:rows]), path


def read_own_rows(version: MemoryVersion) -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    target = distribute_tensor(torch.zeros(3, 5), mesh, [Shard(0)])
    load_tensors({"shared/rows": target}, version.manifest, version.read, prefix="shared/rows")
    return version.reads


def test_a_rank_reads_only_the_shards_it_needs(ranks):
    version = make_version([part for part, _ in ranks.run(write_layouts)])
    keys = [entry.key for entry in version.manifest.shards]
    assert ranks.run(read_own_rows, version) == [[keys[0]], [keys[1]]]


# --- refusals -------------------------------------------------------------------------------------


def refuse_byte_item_and_partial() -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    partial = DTensor.from_local(torch.ones(2), mesh, [Partial()])
    messages = []
    for value in (b"bytes", partial):
        try:
            plan_shard({"shared/x": value}, rank=dist.get_rank())  # type: ignore[dict-item]
        except InvalidInputError as error:
            messages.append(error.message)
    return messages


def test_byte_items_and_partial_sums_are_refused_on_every_rank(ranks):
    for messages in ranks.run(refuse_byte_item_and_partial):
        assert len(messages) == 2
        assert "of type bytes" in messages[0]
        assert "Reduce it first" in messages[1]


def names_under_ddp() -> tuple[list[str], list[str]]:
    model = DistributedDataParallel(nn.Sequential(nn.ModuleDict({"module": nn.Linear(1, 1)})))
    return list(plain_state(model)), list(get_model_state_dict(model))


def test_ddp_adds_nothing_to_names(ranks):
    for ours, theirs in ranks.run(names_under_ddp):
        assert ours == theirs == ["0.module.weight", "0.module.bias"]


class Factored(torch.optim.SGD):
    """Keeps one number per row of a sharded parameter, itself sharded."""

    def factor(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["rows"] = parameter.detach().sum(-1)


def capture_factored() -> str:
    model = nn.Linear(4, 4, bias=False)
    fully_shard(model)
    optimizer = Factored(model.parameters(), lr=0.1)
    optimizer.factor()
    try:
        capture(TrainingParts(model=model, optimizer=optimizer))
    except InvalidInputError as error:
        return error.message
    return "captured"


def test_sharded_state_of_another_shape_is_refused_when_saved_not_when_restored(ranks):
    for message in ranks.run(capture_factored):
        assert "The optimizer keeps 'rows' of weight as a sharded tensor of [4]" in message


def only_on_rank_one() -> RankPart:
    tensors = {"shared/x": torch.ones(2)} if dist.get_rank() == 1 else {}
    return write_rank(tensors, rank=dist.get_rank())


def test_a_tensor_that_only_rank_one_has_is_found_before_a_commit(ranks):
    parts = ranks.run(only_on_rank_one)
    with pytest.raises(InvalidInputError, match="shared/x would not be stored whole"):
        make_version(parts)


def refuse_and_compare(version: MemoryVersion, harm: str) -> tuple[str, bool]:
    training = training_of("fsdp2", "adamw", seed=1)
    if harm == "shape":
        training.parts.model.register_buffer("another", torch.zeros(1))
    before = digest_tree(capture(training.parts))
    try:
        restore(training.parts, version.manifest, version.read)
    except (DigestMismatchError, StateMismatchError) as error:
        return error.kind, digest_tree(capture(training.parts)) == before
    return "restored", False


@pytest.mark.parametrize(
    ("harm", "kind"), [("digest", "digest_mismatch"), ("shape", "state_mismatch")]
)
def test_harm_changes_nothing_on_any_rank(ranks, harm, kind):
    version = assemble([part for part, _ in ranks.run(save_only, "fsdp2", "adamw", 1)])
    if harm == "digest":
        for key, data in version.shards.items():
            version.shards[key] = data[:-1] + bytes([data[-1] ^ 1])
    assert ranks.run(refuse_and_compare, version, harm) == [(kind, True)] * 2


def test_all_ranks_hear_the_same_decision_with_its_grace(ranks: RankPool) -> None:
    first, second = ranks.run(agree_to_end)
    assert first == second
    assert (second.stop, second.save, second.grace_s) == ("interrupted", True, 5.25)
    assert (second.next_step, second.announce) == (7, 3)
