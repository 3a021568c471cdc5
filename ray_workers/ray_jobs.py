"""Ray's job server, as much of it as Pawl needs: the only importer of Ray's job client."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self, TypeVar

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from ray_workers.job_lines import JobLine, LineReader
from ray_workers.store.errors import ClusterUnavailableError, InvalidInputError

__all__ = ["JobLog", "JobServer", "RayJobs"]

_Answer = TypeVar("_Answer")
_REQUEST_S = 60.0
_AGAIN_S = 1.0
_CUT = (requests.RequestException, ConnectionError, TimeoutError, aiohttp.ClientError)
_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}


class JobServer(Protocol):
    """What following a job asks of the cluster; a fake stands in for it in tests."""

    def submit(
        self,
        name: str,
        entrypoint: str,
        runtime_env: Mapping[str, Any],
        metadata: Mapping[str, str],
        /,
    ) -> None: ...
    def status(self, name: str, /) -> str | None: ...
    def metadata(self, name: str, /) -> Mapping[str, str]: ...
    def stop(self, name: str, /) -> None: ...
    def log(self, name: str, /) -> AbstractContextManager[JobLog]: ...


class JobLog(Protocol):
    def take(self, timeout_s: float, /) -> list[JobLine]:
        """New lines since the last call, waiting for the first one at most `timeout_s`."""


class RayJobs:
    """The job server at `address`, like http://host:8265.

    Every call raises `ClusterUnavailableError` when the server does not answer, and `InvalidInputError` when it refuses
    the token of this process.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = self._ask(lambda: _PatientClient(address))

    def submit(
        self,
        name: str,
        entrypoint: str,
        runtime_env: Mapping[str, Any],
        metadata: Mapping[str, str],
    ) -> None:
        """Start a job; if there is one of that name, an earlier try of ours has reached the server: nothing changes."""
        if self.status(name) is not None:
            return
        self._ask(
            lambda: self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=name,
                runtime_env=dict(runtime_env),
                metadata=dict(metadata),
            )
        )

    def status(self, name: str) -> str | None:
        """`PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED` or `STOPPED`; None: the cluster does not know it."""
        found = self._info(name)
        return None if found is None else str(found.status.value)

    def metadata(self, name: str) -> Mapping[str, str]:
        found = self._info(name)
        return {} if found is None else dict(found.metadata or {})

    def stop(self, name: str) -> None:
        """Ask it to end: SIGTERM, and after its grace SIGKILL. Returns at once."""
        self._ask(lambda: self._client.stop_job(name))

    def log(self, name: str) -> AbstractContextManager[JobLog]:
        return _TailedLog(self._client, name)

    def _info(self, name: str) -> Any | None:
        return self._ask(lambda: self._client.get_job_info(name), missing_is_none=True)

    def _ask(self, call: Callable[[], _Answer], *, missing_is_none: bool = False) -> _Answer | Any:
        try:
            return call()
        except AuthenticationError:
            raise InvalidInputError(
                f"The Ray cluster at {self._address} asks for a token, and this process has none or another one: set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, where the flow runs."
            ) from None
        except _CUT as error:
            raise ClusterUnavailableError(
                f"No Ray job server answers at {self._address}: {type(error).__name__}. Check the address; it is the "
                "dashboard's, like http://host:8265.",
                address=self._address,
            ) from error
        except RuntimeError as error:
            if missing_is_none and "status code 404" in str(error):
                return None
            raise ClusterUnavailableError(
                f"The Ray job server at {self._address} refused a request: {error}",
                address=self._address,
            ) from error


class _PatientClient(JobSubmissionClient):
    """Ray's client waits without end for a host that swallows packets."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": _REQUEST_S, **options})


class _TailedLog:
    """A job's log, read by a thread of its own; after a cut connection from the start again."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name
        self._lines: queue.Queue[JobLine] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"pawl-tail-{name}", daemon=True)
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the tail has ended by itself, and closed its loop
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join(5)

    def take(self, timeout_s: float) -> list[JobLine]:
        try:
            taken = [self._lines.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        while not self._lines.empty():
            taken.append(self._lines.get_nowait())
        return taken

    def _run(self) -> None:
        self._task = self._loop.create_task(self._tail())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _tail(self) -> None:
        reader = LineReader()
        while True:
            reader.begin_again()
            try:
                async for piece in self._client.tail_job_logs(self._name):
                    for line in reader.feed(piece):
                        self._lines.put(line)
                info = await asyncio.to_thread(self._client.get_job_info, self._name)
                if info.status.value in _ENDED:
                    return
            except (*_CUT, RuntimeError, AuthenticationError):
                pass  # whoever follows asks for the status too, and decides how long that may last
            await asyncio.sleep(_AGAIN_S)
