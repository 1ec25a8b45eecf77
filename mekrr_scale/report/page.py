"""Numbers to one HTML file that loads nothing from elsewhere, and the file to numbers again.

What comes from users (names of files, configuration types, remarks) is escaped in one place, here. The numbers
themselves stand at the end of the page as JSON, so that ``report`` can add a test to the page of a fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path

from mekrr_scale.errors import ConfigError
from mekrr_scale.figures import drawn_plainly, inline_svg
from mekrr_scale.files import publish_text
from mekrr_scale.outputs import PAGE, PAGE_MARK, check_output
from mekrr_scale.report.plots import write_figure
from mekrr_scale.report.results import Results, Table
from mekrr_scale.report.sections import Drawing, Heading, Lines, Section, sections

_NUMBERS = re.compile(r'<script type="application/json" id="numbers">(.*?)</script>', re.DOTALL)


def html_page(found: Results) -> str:
    """The whole file."""
    made = sections(found)
    title = escape(f"{found.about.name}: errors and coverage")
    links = " ".join(f'<a href="#{each.anchor}">{escape(each.title)}</a>' for each in made)
    numbers = found.to_json().replace("<", "\\u003c")
    body = "\n".join(_section(each) for each in made)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{PAGE_MARK}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
        f"<header><h1>{title}</h1><p>{escape(found.about.writer)}</p><nav>{links}</nav></header>\n<main>\n{body}\n"
        f'</main>\n<script type="application/json" id="numbers">{numbers}</script>\n</body>\n</html>\n'
    )


def save_html(found: Results, path: Path | str, overwrite: bool = False) -> None:
    """Write the page.

    Args:
        overwrite: a file that is no page of the package's may be replaced.

    Raises:
        ConfigError: a place that cannot or must not be written to.
    """
    target = check_output(path, PAGE, overwrite)
    publish_text(target, html_page(found))


def read_page(path: Path | str) -> Results:
    """The numbers of a page.

    Raises:
        ConfigError: it is none of the package's, or of another version.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        inside = _NUMBERS.search(text)
        if PAGE_MARK not in text or inside is None:
            raise ConfigError(f"{path} is no page of mekrr-scale's; name one that fit or report wrote")
        return Results.of_json(inside[1])
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({str(error).splitlines()[0]}); write it again with fit") from error


def save_figures(found: Results, folder: Path | str, overwrite: bool = False) -> list[Path]:
    """Every figure of the page as an SVG file of its own, in a folder that is made.

    Raises:
        ConfigError: a place that cannot or must not be written to.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for drawing in (part for each in sections(found) for part in each.parts if isinstance(part, Drawing)):
        path = folder / f"{drawing.name}.svg"
        write_figure(path, drawing.draw(), overwrite)
        written.append(path)
    return written


@cache
def _style() -> str:
    return files("mekrr_scale.report").joinpath("page.css").read_text(encoding="utf-8")


def _section(each: Section) -> str:
    return f'<section id="{each.anchor}">\n<h2>{escape(each.title)}</h2>\n{"".join(_parts(each))}</section>'


def _parts(each: Section) -> Iterator[str]:
    """Figures that follow one another stand side by side."""
    drawn: list[str] = []
    for part in each.parts:
        if isinstance(part, Drawing):
            drawn.append(_figure(part))
            continue
        yield from _side_by_side(drawn)
        drawn = []
        yield _text(part)
    yield from _side_by_side(drawn)


def _side_by_side(drawn: Sequence[str]) -> Iterator[str]:
    if drawn:
        yield f'<div class="figures">{"".join(drawn)}</div>\n'


def _text(part: str | Heading | Lines | Table) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>\n"
    if isinstance(part, Heading):
        return f"<h3>{escape(part.text)}</h3>\n"
    if isinstance(part, Lines):
        return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in part.items)}</ul>\n"
    return _table(part)


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        sides = ((' class="left"' if place in table.left else "", cell) for place, cell in enumerate(cells))
        return f"<tr>{''.join(f'<{tag}{side}>{escape(cell)}</{tag}>' for side, cell in sides)}</tr>"

    marked = [' class="saved"' if cells and cells[0] == "*" else "" for cells in table.rows]
    body = "".join(
        row(cells, "td").replace("<tr>", f"<tr{mark}>", 1) for cells, mark in zip(table.rows, marked, strict=True)
    )
    note = f'<p class="note">{escape(table.caption)}</p>' if table.caption else ""
    return (
        f'<div class="table"><table><caption>{escape(table.title)}</caption><thead>{row(table.columns, "th")}</thead>'
        f"<tbody>{body}</tbody></table>{note}</div>\n"
    )


def _figure(drawing: Drawing) -> str:
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    with drawn_plainly(drawing.name):
        figure = drawing.draw().get_figure()
        assert isinstance(figure, Figure)
        try:
            image = inline_svg(figure)
        finally:
            plt.close(figure)
    caption = escape(drawing.caption)
    return f'<figure role="img" aria-label="{caption}">{image}<figcaption>{caption}</figcaption></figure>'
