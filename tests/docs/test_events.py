"""docs/events.md names every event that the code can emit, and no other; its automation loads."""

import re
from pathlib import Path

import yaml
from prefect.events.schemas.automations import AutomationCore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "events.md").read_text()
OUTCOMES = ("completed", "failed", "interrupted")
_NAME = re.compile(
    r"\bpawl\.(?:actor|attempt|drill|objective|run|save|validator|version)\.[a-z_]+\b"
)


def emitted() -> set[str]:
    texts = [path.read_text() for path in (ROOT / "tasks").glob("*.py")]
    found = {name for text in texts for name in re.findall(rf'"({_NAME.pattern})"', text)}
    ending = (ROOT / "tasks" / "ending.py").read_text()
    assert all(f'"{outcome}"' in ending for outcome in OUTCOMES)
    return found | {f"pawl.attempt.{outcome}" for outcome in OUTCOMES}


def test_the_page_names_every_event_and_no_other():
    named = set(re.findall(rf"^\| `({_NAME.pattern})` \|", PAGE, re.MULTILINE))
    assert named == emitted()
    assert len(named) >= 16


def test_the_automation_on_the_page_loads_and_expects_events_that_there_are():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    text = text.replace("<id of a notification block>", "00000000-0000-0000-0000-000000000001")
    (automation,) = yaml.safe_load(text)["automations"]
    loaded = AutomationCore.model_validate(automation)
    assert loaded.trigger.expect <= emitted()  # type: ignore[union-attr]
