"""What `pawl export` writes is opened by a process in which no module of Pawl can be imported, and is what was stored."""

import hashlib
import json
import subprocess
import sys
import textwrap

import pytest

from ray_workers.exporting import export_version
from ray_workers.loading import load, open_version
from tests.support.small_training import patient_process, small_loop

_STRANGER = """
import hashlib, importlib.abc, json, pathlib, sys, warnings

class NoPawl(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray_workers", "tasks", "flows", "deployments", "prefect", "ray"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, NoPawl())
folder = pathlib.Path(sys.argv[1])
import torch
"""
_OPEN = {
    "safetensors": """
        from safetensors.torch import load_file
        state = load_file(folder / "model.safetensors")
    """,
    "torch": """
        state = torch.load(folder / "model.pt", weights_only=True)
    """,
    "hf": """
        from safetensors import safe_open
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        state = {}
        for name, file in index["weight_map"].items():
            with safe_open(folder / file, framework="pt") as opened:
                state[name] = opened.get_tensor(name)
    """,
    "dcp": """
        import torch.distributed.checkpoint as dcp
        stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        state = {n: torch.empty(m.size, dtype=m.properties.dtype) for n, m in stored.items()}
        warnings.simplefilter("ignore")
        dcp.load(state, checkpoint_id=str(folder), no_dist=True)
    """,
}
_TELL = """
print(json.dumps({n: [list(t.shape), str(t.dtype), hashlib.sha256(t.numpy().tobytes()).hexdigest()] for n, t in state.items()}))
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    patient_process(folder).attempt(small_loop(), {"epochs": 1})
    return str(folder / "store")


def told(weights):
    return {
        name: [list(t.shape), str(t.dtype), hashlib.sha256(t.numpy().tobytes()).hexdigest()]
        for name, t in weights.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", _OPEN)
def test_a_process_without_pawl_reads_the_same_weights(url, tmp_path, kind):
    folder = tmp_path / "out"
    names = "*.weight" if kind == "safetensors" else "*"
    export_version(open_version("run@latest", url), folder, kind, names=names, largest_file=100)
    code = _STRANGER + textwrap.dedent(_OPEN[kind]) + _TELL
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False,
        cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = told(load("run@latest", storage=url, names=names))
    assert len(wanted) == (3 if kind == "safetensors" else 9)
    assert json.loads(done.stdout) == wanted
