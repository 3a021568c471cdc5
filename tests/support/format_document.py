"""FORMAT.md taken apart: its sections, tables, example objects and test vectors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ray_workers.store

__all__ = [
    "PATH",
    "citations",
    "example_block",
    "examples",
    "read",
    "sections",
    "table",
    "vectors",
]

PATH = Path(ray_workers.store.__path__[0]) / "FORMAT.md"

_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^( *)```(\w+) ([^\n]+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_BYTES_A_LINE = 16


def read() -> str:
    return PATH.read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Heading to what stands below it, up to the next one."""
    parts = _HEADING.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text: str, *header: str) -> list[tuple[str, ...]]:
    """The rows of the one table whose first cells are `header`; code marks are taken off single names."""
    rows = [_cells(line) for line in text.splitlines() if line.lstrip().startswith("|")]
    starts = [i for i, row in enumerate(rows) if row[: len(header)] == header]
    if len(starts) != 1:
        raise ValueError(f"{len(starts)} tables begin with {header}")
    found = []
    for row in rows[starts[0] + 2 :]:
        if len(row) != len(rows[starts[0]]) or set(row[0]) == {"-"}:
            break
        found.append(row)
    return found


def _cells(line: str) -> tuple[str, ...]:
    return tuple(
        re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in line.strip()[1:-1].split(" | ")
    )


def _blocks(text: str) -> list[tuple[str, str, str]]:
    """(language, words behind it, content) of every fenced block that has such words."""
    return [
        (m[2], m[3], re.sub(f"^{m[1]}", "", m[4], flags=re.MULTILINE))
        for m in _FENCE.finditer(text)
    ]


def examples(text: str) -> dict[str, bytes]:
    """Key to bytes of the objects shown."""
    found = {}
    for language, key, content in _blocks(text):
        if key.startswith(("pawl.json", "runs/")):
            found[key] = _from_hex(content) if language == "hex" else content.rstrip("\n").encode()
    return found


def example_block(key: str, data: bytes) -> str:
    """How the document shows one object."""
    if key.endswith(".json"):
        return f"```json {key}\n{data.decode()}\n```"
    lines = [
        f"{start:04x}  {part.hex(' '):<47}  {_visible(part)}\n"
        for start in range(0, len(data), _BYTES_A_LINE)
        for part in (data[start : start + _BYTES_A_LINE],)
    ]
    return f"```hex {key}\n{''.join(lines)}```"


def _visible(part: bytes) -> str:
    return "".join(chr(byte) if 0x20 < byte < 0x7F and byte != ord("`") else "." for byte in part)


def _from_hex(content: str) -> bytes:
    return b"".join(bytes.fromhex(line[6:53]) for line in content.splitlines())


def vectors(text: str, name: str) -> Any:
    """The content of the block `json vectors <name>`."""
    (content,) = [c for language, words, c in _blocks(text) if words == f"vectors {name}"]
    return json.loads(content)


def citations(source: str) -> list[str]:
    """What stands behind each mention of the document in a source: `§5, §8`, or anything else."""
    return [match.strip() for match in re.findall(r"FORMAT\.md((?: ?§\d+(?:,(?= §))?)*)", source)]
