import base64
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from ray_workers.report import ReportProgress
from tasks.lineage_page import render
from tasks.markdown_text import DASH
from tests.support.made_up_reports import (
    BAD_DIGEST,
    NORM_JUMP,
    Life,
    killed_twice,
    made_up_report,
    with_version,
)
from tests.support.svg_elements import parse

PICTURE = re.compile(r"!\[([^\]]*)\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)")


def section(markdown, title):
    found = re.search(
        rf"^## {re.escape(title)}\n\n(.*?)(?=^## |\Z)", markdown, re.MULTILINE | re.DOTALL
    )
    return found and found.group(1).strip().replace("\u00a0", " ")


def cells(markdown, title):
    body = section(markdown, title)
    assert body is not None
    rows = [line for line in body.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def long_report(attempts=50, versions=10):
    reason = "x" * 400
    lives = [
        Life(
            resumed_from=str(index * versions) if index else None,
            until=(index + 1) * versions * 10 + 3,
            outcome="crashed",
            reason=reason,
            lr=0.001 / (index + 1),
            passed_over=tuple((f"other@{index}{n}", reason) for n in range(20)),
        )
        for index in range(attempts)
    ]
    retention, damaged = ("r" * 400,) * 500, tuple(range(500))
    return made_up_report(lives, every=10, retention=retention, damaged_slots=damaged)


def newest_sound(report):
    assert report.newest_sound is not None
    return report.newest_sound.number


def test_the_headline_says_status_step_loss_sound_version_and_resume_point():
    first, second = render(killed_twice()).headline.split("  \n")
    assert re.fullmatch(r"\*\*running\*\* · step 1,187 · loss 0\.0\d+", first)
    assert second == "newest sound v11 · resumed from v7"


def test_the_headline_fits_the_card():
    for report in (killed_twice(), long_report()):
        for line in render(report).headline.split("  \n"):
            assert len(line.replace("*", "")) <= 42


def test_the_headline_of_a_new_run_and_of_a_fork():
    assert render(made_up_report([])).headline == "**new** · step 0  \nno sound version"
    fork = made_up_report([Life(resumed_from="other@7", until=720)], start_step=700)
    assert render(fork).headline.endswith("no sound version · resumed from other@7")


def test_the_pictures_are_there_and_well_formed():
    pictures = PICTURE.findall(render(killed_twice()).markdown)
    assert [alt for alt, _ in pictures] == [
        "Loss over the steps",
        "Attempts and their versions",
        "Seconds lost by phase",
    ]
    for _, body in pictures:
        assert parse(base64.b64decode(body)).tag.endswith("svg")


def without_loss(report, **series):
    versions = tuple(replace(v, metrics={}) for v in report.versions)
    return replace(report, versions=versions, curve=(), series=series)


def test_a_run_without_loss_has_no_empty_picture_and_a_whole_headline():
    page = render(without_loss(killed_twice()))
    assert page.headline.split("  \n")[0] == "**running** · step 1,187"
    assert [alt for alt, _ in PICTURE.findall(page.markdown)] == [
        "Attempts and their versions",
        "Seconds lost by phase",
    ]
    assert section(page.markdown, "Loss") is None
    assert section(page.markdown, "Metrics") is None
    assert {row[3] for row in cells(page.markdown, "Versions")} == {DASH}
    assert "step 1,187, epoch 5 of 6\n" in page.markdown


def test_a_loss_under_another_name_is_drawn_and_told():
    report = killed_twice()
    page = render(without_loss(report, train_loss=report.curve, accuracy=report.curve))
    assert page.headline.split("  \n")[0].startswith("**running** · step 1,187 · train\\_loss 0.0")
    assert "epoch 5 of 6, train\\_loss 0.0" in page.markdown
    pictures = dict(PICTURE.findall(section(page.markdown, "Metrics")))
    assert b">train_loss<" in base64.b64decode(pictures["Other metrics over the steps"])
    long = render(without_loss(report, validation_loss_of_the_teacher=report.curve))
    assert long.headline.split("  \n")[0] == "**running** · step 1,187"


def test_other_metrics_stand_below_the_loss_and_those_not_drawn_are_named():
    report = killed_twice()
    page = render(replace(report, series={f"m{n}": report.curve for n in range(15)}))
    assert page.headline == render(report).headline
    titles = re.findall(r"^## (.*)$", page.markdown, re.MULTILINE)
    assert titles[:3] == ["Loss", "Metrics", "Lineage"]
    told = section(page.markdown, "Metrics")
    assert "Not drawn here: `m12`, `m13`, `m14`, `m2`, `m3`, `m4`, `m5`, `m6` and 3 more." in told
    assert "`pawl show digits@latest --json` has their values." in told


def test_where_they_would_make_the_page_too_long_other_metrics_are_named_alone():
    report = long_report(attempts=120, versions=40)
    noisy = tuple(replace(v, reason="y" * 5000, rung="quarantined") for v in report.versions)
    names = [f"metric {n} " + "ü" * 90 for n in range(40)]
    page = render(
        replace(report, versions=noisy, damaged_slots=(), series=dict.fromkeys(names, report.curve))
    )
    assert len(page.markdown.encode()) < 200_000
    told = section(page.markdown, "Metrics")
    assert told.startswith("Not drawn here: `metric 0 ")
    assert "and 32 more" in told


def test_nothing_needs_mermaid_or_inline_svg_or_html():
    markdown = PICTURE.sub("", render(killed_twice()).markdown)
    assert "```" not in markdown
    assert "<" not in markdown


def test_what_was_resumed_and_why():
    told = section(render(killed_twice()).markdown, "What was resumed, and why")
    assert told.startswith(
        "Attempt 3 resumed from **version 7** (step 600): the newest version at rung sound"
    )
    assert "Passed over, for the reasons below: 8, 5." in told
    assert "At least 137 steps are done again; 52 s of work and standstill are lost." in told


def test_a_first_attempt_started_from_nothing():
    report = made_up_report([Life(until=120)])
    assert (
        section(render(report).markdown, "What was resumed, and why")
        == "Attempt 1 started from nothing."
    )


def with_last_attempt(report, **changes):
    *others, last = report.attempts
    return replace(report, attempts=(*others, replace(last, **changes)))


def restarted():
    lives = [Life(until=250, outcome="lost"), Life(resumed_from="2", until=360)]
    return with_last_attempt(made_up_report(lives), restarted=True, steps_lost=0, seconds_lost=0.0)


def test_an_actor_started_again_is_told_as_training_that_went_on():
    page = render(restarted())
    assert page.headline.endswith("newest sound v3 · went on after v2")
    told = section(page.markdown, "What was resumed, and why")
    assert told == (
        "Attempt 2 went on after **version 2** (step 200) where attempt 1 was: the checkpoint actor was started again, "
        "training did not stop."
    )
    told = section(page.markdown, "Interruptions")
    assert "lost its checkpoint actor, which was started again." in told
    assert "- Resumed: nothing after version 2, step 200: training went on while" in told
    assert "- Steps and time lost: none" in told
    assert cells(page.markdown, "Attempts")[0][4] == "went on after 2"
    for words in ("started from nothing", "from the beginning", "in vain"):
        assert words not in page.markdown


def test_an_actor_started_again_before_any_version_is_not_said_to_have_begun_anew():
    page = render(with_last_attempt(restarted(), resumed_from=None, resume_step=None))
    assert page.headline.endswith("· went on")
    assert "Attempt 2 went on where attempt 1 was" in page.markdown
    assert cells(page.markdown, "Attempts")[0][4] == "went on"


def test_an_attempt_that_has_not_chosen_is_not_said_to_have_started_from_nothing():
    lives = [Life(until=250, outcome="crashed"), Life(until=0)]
    report = with_last_attempt(made_up_report(lives), resumed_at=None, steps_lost=None)
    page = render(report)
    assert page.headline.endswith("newest sound v2 · no version chosen")
    assert "Attempt 2 has not chosen yet what to resume." in page.markdown
    assert cells(page.markdown, "Attempts")[0][4] == DASH
    over = render(with_last_attempt(report, outcome="failed")).markdown
    assert "What attempt 2 resumed is not recorded" in over
    for words in ("started from nothing", "from the beginning"):
        assert words not in page.markdown + over


def test_a_later_attempt_that_found_nothing_says_so():
    report = made_up_report([Life(until=20, outcome="crashed"), Life(until=50)])
    told = section(render(report).markdown, "What was resumed, and why")
    assert told.startswith(
        "Attempt 2 started from nothing: there was no version yet. At least 20 steps are"
    )


def test_a_resume_that_lost_nothing():
    report = made_up_report(
        [Life(until=300, outcome="cancelled"), Life(resumed_from="3", until=350)]
    )
    told = section(render(report).markdown, "What was resumed, and why")
    assert told.endswith("No saved step is done again; 37 s of work and standstill are lost.")


def test_a_fork_names_the_other_run():
    fork = made_up_report(
        [Life(resumed_from="other@7", until=950)], start_step=700, forked_from="other@7"
    )
    markdown = render(fork).markdown
    assert "- Forked from: other@7" in markdown
    told = section(markdown, "What was resumed, and why")
    assert told == "Attempt 1 resumed from **other@7** (step 700), a version of another run."


def test_rejected_versions_are_listed_once_with_their_reason():
    body = section(render(killed_twice()).markdown, "Rejected versions").split("\n")
    assert len(body) == 2
    assert body[0].startswith("- **version 8**, passed over by attempt 3: the L2 norm")
    assert body[1].startswith("- **version 5**, passed over by attempts 2, 3: runs/")
    assert "quarantined" not in "".join(body)


def test_a_quarantined_version_is_rejected_before_any_resume_meets_it():
    report = made_up_report([Life(until=350)])
    report = with_version(report, 3, rung="quarantined", reason=NORM_JUMP)
    body = section(render(report).markdown, "Rejected versions")
    assert body.startswith("- **version 3**: the L2 norm")


def test_the_version_table_has_every_column():
    rows = cells(render(killed_twice()).markdown, "Versions")
    assert [row[0] for row in rows] == [f"**{n}**" for n in range(13, 0, -1)]
    number, step, epoch, loss, size, rung, digest, attempt, changed = rows[4]
    assert (number, step, epoch, size, rung, attempt) == (
        "**9**",
        "700",
        "3",
        "84.3 kB",
        "sound",
        "3",
    )
    assert float(loss) == pytest.approx(killed_twice().versions[8].metrics["loss"], rel=0.01)
    assert digest == f"`{killed_twice().versions[8].digest[:8]}`"
    assert changed == "lr 0.001 → 0.0005"


def test_hyperparameters_are_told_only_where_they_change():
    rows = cells(render(killed_twice()).markdown, "Versions")
    assert [row[8] for row in rows] == [*[""] * 4, "lr 0.001 → 0.0005", *[""] * 7, "lr 0.001"]


def test_unchanged_hyperparameters_are_those_listed():
    rows = cells(render(made_up_report([Life(until=250)])).markdown, "Versions")
    assert [row[8] for row in rows] == ["", "as listed below"]


def test_another_number_of_workers_counts_as_a_change():
    report = made_up_report(
        [Life(until=150, outcome="crashed"), Life(resumed_from="1", until=250, workers=4)]
    )
    assert cells(render(report).markdown, "Versions")[0][8] == "workers 2 → 4"


def test_a_version_whose_manifest_cannot_be_read_is_no_change():
    report = killed_twice()
    for number in (1, 9, 13):
        report = with_version(report, number, config={}, world_size=0, metrics={}, reason="gone")
    markdown = render(report).markdown
    changed = {row[0]: row[8] for row in cells(markdown, "Versions")}
    assert (changed["**13**"], changed["**9**"], changed["**1**"]) == ("unknown",) * 3
    assert changed["**10**"] == "lr 0.001 → 0.0005"
    assert changed["**2**"] == "lr 0.001"
    assert ["lr", "`0.0005`"] in cells(markdown, "Hyperparameters of the newest version")
    assert "- **version 13**: gone" in markdown


def test_without_any_readable_manifest_there_is_no_configuration():
    report = with_version(made_up_report([Life(until=150)]), 1, config={}, world_size=0)
    assert section(render(report).markdown, "Hyperparameters of the newest version") is None


def test_many_changes_are_counted():
    report = with_version(made_up_report([Life(until=250)]), 2, config={"a": 1})
    shown = cells(render(report).markdown, "Versions")[0][8]
    assert shown.endswith("and 3 more")
    assert shown.count("→") == 3


def test_the_full_configuration_stands_there_once():
    rows = cells(render(killed_twice()).markdown, "Hyperparameters of the newest version")
    assert ["lr", "`0.0005`"] in rows
    assert ["workers", "`2`"] in rows


def test_rung_status_and_tags_share_a_cell():
    report = with_version(killed_twice(), 4, status="retired")
    rows = {row[0]: row[5] for row in cells(render(report).markdown, "Versions")}
    assert rows["**4**"] == "sound, retired `before-lr`"
    assert rows["**8**"] == "**quarantined**"


def test_a_retired_sound_version_is_still_one_to_resume_but_a_condemned_one_is_not():
    report = killed_twice()
    assert newest_sound(with_version(report, 11, status="retired")) == 11
    assert newest_sound(with_version(report, 11, status="condemned")) == 10
    assert newest_sound(with_version(report, 11, status="abandoned")) == 10


def test_long_tables_end_with_a_count():
    markdown = render(long_report()).markdown
    assert len(cells(markdown, "Versions")) == 40
    assert "460 older versions not shown here; `pawl versions digits` lists them." in markdown
    assert "25 earlier attempts not shown here." in markdown


def test_the_change_of_the_oldest_shown_version_is_known_from_the_one_not_shown():
    rows = cells(render(made_up_report([Life(until=4150)])).markdown, "Versions")
    assert rows[-1][0] == "**2**"
    assert rows[-1][8] == ""


def test_attempts_tell_when_how_and_from_where():
    rows = cells(render(killed_twice()).markdown, "Attempts")
    assert rows[0][3:7] == ["running", "7", "137", "52 s"]
    assert rows[2] == [
        "**1**",
        "24 Nov 02:40:00",
        "60 s",
        "crashed",
        "nothing",
        DASH,
        DASH,
        "node\\-1",
    ]
    assert "- Attempt 2 failed: worker rank 1 died \\(SIGKILL\\)" in render(killed_twice()).markdown


def test_damaged_slots_and_retention_are_told():
    markdown = render(replace(killed_twice(), damaged_slots=(17, 18))).markdown
    assert "**Damaged log slots: 17, 18.**" in markdown
    assert "`pawl verify digits`" in markdown
    assert section(markdown, "Retention").split("\n")[0] == "- keep the newest 10"


def test_the_size_stays_bounded_for_500_versions_and_50_attempts():
    page = render(long_report())
    assert len(page.markdown.encode()) < 200_000


def test_the_size_stays_bounded_whatever_the_report():
    report = long_report(attempts=120, versions=40)
    noisy = tuple(
        replace(v, reason="y" * 5000, rung="quarantined", tags=("t" * 200,) * 50,
                config={f"k{n}" * 30: "v" * 900 for n in range(300)})
        for v in report.versions
    )  # fmt: skip
    page = render(replace(report, versions=noisy))
    assert len(page.markdown.encode()) < 200_000


def test_the_same_report_gives_the_same_page():
    assert render(killed_twice()) == render(killed_twice())


def test_hostile_text_stays_text():
    bad = "</td>|\n\n# x <script>alert(1)</script> ![p](http://evil) `"
    report = made_up_report(
        [Life(until=250, outcome="failed", reason=bad, passed_over=((bad, bad),))],
        run=bad,
        url=bad,
        forked_from=bad,
        retention=(bad,),
    )
    report = with_version(report, 1, reason=bad, rung="quarantined", tags=(bad,), config={bad: bad})
    markdown = PICTURE.sub("", render(report).markdown)
    outside_code = re.sub(r"`[^`\n]*`", "", markdown)
    assert "<" not in outside_code
    assert "![" not in outside_code.replace("\\!\\[", "")
    assert "\n# x" not in markdown
    assert {len(row) for row in cells(markdown.replace("\\|", ""), "Versions")} == {9}


def test_a_loss_that_is_not_a_number_is_shown_as_such():
    report = made_up_report([Life(until=120)])
    last = (121, float("nan"), 1)
    page = render(
        replace(report, curve=(*report.curve, last), progress=ReportProgress(step=121, epoch=0))
    )
    assert "loss NaN" in page.headline


def test_reasons_survive_word_for_word():
    markdown = render(killed_twice()).markdown
    for reason in (NORM_JUMP, BAD_DIGEST):
        assert reason in re.sub(r"\\(.)", r"\1", markdown).replace("\N{ZERO WIDTH SPACE}", "")


def test_rendering_needs_neither_prefect_nor_torch():
    script = (
        "import sys, tasks.lineage_page;"
        "print([m for m in ('prefect', 'torch', 'ray', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_interval_is_explained_line_by_line():
    report = made_up_report([Life(until=30)], every=10)
    assert section(render(report).markdown, "Interval between saves") is None
    told = replace(report, interval=(("interval", "5 min, by least waste"), ("in force", "")))
    assert (
        section(render(told).markdown, "Interval between saves")
        == "- interval: 5 min, by least waste"
    )
