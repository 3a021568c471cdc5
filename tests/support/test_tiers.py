from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiers import TIER_MISSING, TierCheck, required_tiers

TWO_TIERS = """
    import pytest

    def test_unit():
        pass

    @pytest.mark.s3
    def test_s3():
        {body}
"""


def run(pytester: pytest.Pytester, required: set[str], body: str = "pass") -> pytest.RunResult:
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nmarkers = ["s3", "ray", "prefect"]')
    pytester.makepyfile(TWO_TIERS.format(body=body))
    return pytester.runpytest_inprocess(plugins=[TierCheck(frozenset(required))])


def test_passes_when_each_required_tier_passed(pytester: pytest.Pytester):
    result = run(pytester, {"unit", "s3"})
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2)


def test_a_tier_without_tests_fails_the_session_and_its_last_line(pytester: pytest.Pytester):
    result = run(pytester, {"unit", "ray"})
    assert result.ret == TIER_MISSING
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*Tier 'ray' is required, and no test of it passed.*"])


def test_a_skipped_test_of_a_required_tier_fails_the_session(pytester: pytest.Pytester):
    result = run(pytester, {"s3"}, body="pytest.skip('no gateway')")
    assert result.ret == TIER_MISSING
    result.assert_outcomes(passed=1, skipped=1, failed=1)


def test_one_skip_among_passes_of_a_server_tier_fails_the_session(pytester: pytest.Pytester):
    body = "pass\n\n    @pytest.mark.s3\n    def test_other():\n        pytest.skip('no gateway')"
    result = run(pytester, {"s3"}, body=body)
    result.assert_outcomes(passed=2, skipped=1, failed=1)
    result.stdout.fnmatch_lines(["*1 of its tests were skipped.*"])


def test_a_failing_tier_is_not_called_covered(pytester: pytest.Pytester):
    result = run(pytester, {"s3"}, body="assert 0")
    result.assert_outcomes(passed=1, failed=2)


def test_tests_shared_between_processes_are_counted_together(pytester: pytest.Pytester):
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nmarkers = ["s3", "ray", "prefect"]')
    pytester.makeconftest(
        """
        from tests.support.tiers import TierCheck

        def pytest_configure(config):
            shared = hasattr(config, "workerinput")
            required = frozenset() if shared else frozenset({"unit", "s3", "ray"})
            config.pluginmanager.register(TierCheck(required))
        """
    )
    pytester.makepyfile(TWO_TIERS.format(body="pass"))
    root = str(Path(__file__).parents[2])
    result = pytester.runpytest_subprocess("--numprocesses=2", f"--override-ini=pythonpath={root}")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*Tier 'ray' is required, and no test of it passed.*"])


def test_no_test_at_all_is_a_gap(pytester: pytest.Pytester):
    result = pytester.runpytest_inprocess(plugins=[TierCheck(frozenset({"unit"}))])
    assert result.ret == TIER_MISSING
    result.assert_outcomes(failed=1)


def test_an_error_in_collection_is_not_drowned_in_gaps(pytester: pytest.Pytester):
    pytester.makepyfile("import nothing_of_that_name")
    result = pytester.runpytest_inprocess(plugins=[TierCheck(frozenset({"unit"}))])
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)


def test_nothing_is_required_by_default(pytester: pytest.Pytester):
    result = run(pytester, set(), body="pytest.skip('no gateway')")
    assert result.ret == pytest.ExitCode.OK


def test_units_run_before_what_needs_a_server(pytester: pytest.Pytester):
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nmarkers = ["s3", "ray", "prefect"]')
    pytester.makepyfile("""
        import pytest

        @pytest.mark.prefect
        @pytest.mark.s3
        def test_a(): pass

        @pytest.mark.s3
        def test_b(): pass

        def test_c(): pass
    """)
    result = pytester.runpytest_inprocess("-v", plugins=[TierCheck(frozenset())])
    result.stdout.fnmatch_lines(["*::test_c *", "*::test_b *", "*::test_a *"])


def test_an_unknown_tier_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAWL_REQUIRE_TIERS", "unit,s4")
    with pytest.raises(pytest.UsageError, match="s4"):
        required_tiers()
