"""One of Prefect's two UIs in an open tab: where its pages are, and where they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tests.browser.forms import Form

__all__ = ["SHOWS", "UIS", "PrefectUi", "UiName"]

UiName = Literal["v1", "v2"]
"""v1 is the older UI, v2 the newer one."""
UIS: tuple[UiName, ...] = ("v1", "v2")

SHOWS = "text => document.body.innerText.includes(text)"
_DIALOGS = "[role=dialog], [role=alertdialog], .p-modal"
_CONFIRM: dict[tuple[UiName, str], str] = {
    ("v1", "Retry"): "Retry",
    ("v1", "Cancel"): "Confirm",
    ("v2", "Retry"): "Retry",
    ("v2", "Cancel"): "Cancel Flow Run",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefectUi:
    """A tab that shows one of the UIs.

    Args:
        url: of the server, without a path.
    """

    page: Any
    url: str
    name: UiName

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}{'/v2' if self.name == 'v2' else ''}{path}")

    def open_flow_run(self, flow_run_id: str) -> None:
        self.open(f"/runs/flow-run/{flow_run_id}")

    def choose(self, action: str) -> Any:
        """Retry, Cancel or Resume on a flow run's page; the dialog that opens. The newer UI keeps them in a menu."""
        if self.name == "v2":
            self.page.get_by_role("button", name="Open menu").first.click()
            self.page.get_by_role("menuitem", name=action).click()
        else:
            self.page.get_by_role("button", name=action, exact=True).first.click()
        return self.dialog()

    def dialog(self) -> Any:
        """The dialog that is open, or opens soon."""
        return self.page.locator(_DIALOGS).first

    def confirm(self, action: str) -> None:
        """Choose Retry or Cancel, and confirm it in the dialog."""
        dialog = self.choose(action)
        said = _CONFIRM[self.name, action]
        dialog.get_by_role("button", name=said, exact=True).first.click()
        dialog.wait_for(state="hidden")

    def answer(self, dialog: Any) -> None:
        """Send the form of a paused flow run."""
        name = "Resume" if self.name == "v2" else "Submit"
        dialog.get_by_role("button", name=name, exact=True).click()
        dialog.wait_for(state="hidden")

    def form(self) -> Form:
        return Form(within=self.page)

    def wait_for_text(self, text: str, timeout_ms: float | None = None) -> None:
        self.page.wait_for_function(SHOWS, arg=text, **({"timeout": timeout_ms} if timeout_ms else {}))  # fmt: skip

    def wait_for_state(self, state: str, timeout_ms: float) -> None:
        """Until the head of the flow run's page, left open, says that it is in that state."""
        self.page.get_by_text(state, exact=True).first.wait_for(timeout=timeout_ms)

    def open_artifact_of_run(self, key: str) -> None:
        """From the flow run's page to one of its artifacts, by its Artifacts tab; the newer UI lists its tries first."""
        tab = self.page.get_by_role("tab", name="Artifacts", exact=True)
        tab.or_(self.page.get_by_text("Artifacts", exact=True)).first.click()
        self.page.get_by_role("link").filter(has_text=key).first.click()
        if self.name == "v2":
            self.page.locator("a[href*='/artifacts/artifact/']").first.click()
