"""One self-contained HTML page: sections, text, checks, tables and pictures. No script, nothing loaded from elsewhere.

All text is escaped here, so callers pass plain text, never markup.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from fokker.errors import InputError

PNG = b"\x89PNG\r\n\x1a\n"

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; color: #1a1a1a; background: #fff;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 0.6rem; padding-bottom: 0.2rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 0.4rem; }
p, ul { margin: 0.6rem 0; max-width: 46rem; }
.lede { font-size: 1.15rem; }
figure { margin: 1.2rem 0; }
figcaption { color: #444; font-size: 0.92rem; max-width: 46rem; }
.wide { overflow-x: auto; }
.wide img { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; margin: 0.6rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0.3rem 0; }
th, td { padding: 0.25rem 0.8rem 0.25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e2e2e2; }
table.numbers td:not(:first-child), table.numbers th:not(:first-child) { text-align: right; padding-left: 0.8rem; }
ul.checks { list-style: none; padding: 0; }
ul.checks li { margin: 0.5rem 0; padding-left: 0.7rem; border-left: 4px solid #999; }
ul.checks li.reached { border-color: #0072b2; }
ul.checks li.missed { border-color: #d55e00; }
ul.checks b { white-space: nowrap; }
@media (max-width: 40rem) { .wide img { min-width: 36rem; } body { padding: 0.7rem; } }
@media print { .wide { overflow: visible; } .wide img { min-width: 0; } figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Check:
    """A sentence about a result, and whether its target is reached (None: there is no target, or it cannot be told)."""

    text: str
    reached: bool | None = None

    @property
    def verdict(self) -> str:
        """ "reached", "not reached", or nothing where there is no target."""
        return {True: "reached", False: "not reached", None: ""}[self.reached]


@dataclass
class Page:
    """A page that is filled from top to bottom and then taken as text with `html`.

    title: of the page and its window. lede: the first sentence, in larger type.
    """

    title: str
    lede: str
    _parts: list[str] = field(default_factory=list)

    def section(self, heading: str) -> None:
        """Start a section."""
        self._parts.append(f"<h2>{escape(heading)}</h2>")

    def subsection(self, heading: str) -> None:
        """Start a part of a section."""
        self._parts.append(f"<h3>{escape(heading)}</h3>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def points(self, texts: Sequence[str]) -> None:
        """A list of points."""
        self._parts.append("<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>")

    def checks(self, checks: Sequence[Check]) -> None:
        """A list of sentences, each followed by its verdict in words and marked at its edge."""
        kinds = {True: ' class="reached"', False: ' class="missed"', None: ""}
        rows = [
            f"<li{kinds[c.reached]}>{escape(c.text)}"
            + (f" <b>{c.verdict.capitalize()}.</b></li>" if c.verdict else "</li>")
            for c in checks
        ]
        self._parts.append('<ul class="checks">' + "".join(rows) + "</ul>")

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", numbers: bool = True
    ) -> None:
        """A table of texts; with `numbers` all columns but the first are set flush right.

        Raises ValueError for a row that is not as long as the header.
        """
        if any(len(row) != len(header) for row in rows):
            raise ValueError(f"table: a row is not as long as the header {list(header)}")
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        kind = ' class="numbers"' if numbers else ""
        self._parts.append(
            f'<div class="wide"><table{kind}>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def figure(self, path: Path, alt: str, caption: str) -> None:
        """A picture from a PNG file, kept inside the page. alt: what it shows, for those who cannot see it.

        Raises InputError where the file is missing or is no PNG.
        """
        try:
            data = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise InputError(f"{path}: there is no such picture") from error
        if not data.startswith(PNG):
            raise InputError(f"{path}: is not a PNG picture")
        source = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
        self._parts.append(
            f'<figure><div class="wide"><img src="{source}" alt="{escape(alt)}"></div>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def html(self) -> str:
        """The whole page."""
        return "\n".join(
            [
                "<!DOCTYPE html>",
                '<html lang="en"><head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{escape(self.title)}</title>",
                f"<style>{STYLE}</style></head><body>",
                f'<h1>{escape(self.title)}</h1><p class="lede">{escape(self.lede)}</p>',
                *self._parts,
                "</body></html>\n",
            ]
        )
