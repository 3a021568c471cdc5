"""What stands in a verdict is anybody's JSON."""

from ray_workers.store.attempts import read_run
from ray_workers.store.bodies import Verdict
from ray_workers.store.memory import MemoryStore
from tests.support.factories import MadeUpRun


def test_evidence_that_is_no_number_that_fits_takes_no_run_away():
    made = MadeUpRun(store=MemoryStore(), name="run", ranks=1)
    made.start()
    made.commit(10)
    for evidence in (
        {"parameter_norm": 10**400},
        {"update_rate": -(10**400)},
        {"parameter_norm": "x"},
    ):
        made.append(
            Verdict(
                versions=(made.version(1).name,),
                check="sound",
                passed=True,
                evidence=evidence,
                checker="t",
            )
        )
    [version] = read_run(made.store, "run").versions.values()
    assert (version.rung, version.norm, version.update_rate) == ("sound", None, None)
