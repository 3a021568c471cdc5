"""Look into a picture: its elements, texts and marks."""

from __future__ import annotations

import xml.etree.ElementTree as ET

__all__ = ["NS", "parse", "texts"]

NS = "{http://www.w3.org/2000/svg}"


def parse(svg: str | bytes | None) -> ET.Element:
    """The root element; a picture that is not there or not well-formed fails the test."""
    assert svg is not None
    return ET.fromstring(svg)  # noqa: S314 - made a moment ago by the code under test


def texts(root: ET.Element) -> list[str]:
    return ["".join(element.itertext()) for element in root.iter(f"{NS}text")]
