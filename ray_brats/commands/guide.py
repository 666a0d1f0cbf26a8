"""The command `guide`: the manual that comes with the package, in the terminal."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated

from tyro.conf import Positional, arg

from ray_brats.errors import UsageError
from ray_brats.files.ledger import Summary

DOCS = resources.files("ray_brats") / "docs"
SUFFIX = ".md"


@dataclass(frozen=True, kw_only=True)
class GuideOptions:
    """Show a page of the manual, or list the pages; needs no network."""

    page: Annotated[str | None, Positional, arg(metavar="[PAGE]")] = None
    """Name of a page; without one all are listed with their first line."""


@dataclass(frozen=True, kw_only=True)
class Contents(Summary):
    """The pages of the manual, each with its `title`."""

    pages: Sequence[Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Page(Summary):
    """A page of the manual."""

    page: str
    title: str
    text: str


def guide(options: GuideOptions) -> Summary:
    """The text of a page, or all pages with their first lines."""
    texts = pages()
    if not texts:
        raise UsageError("this installation of ray-brats has no manual: install it from a wheel")
    if options.page is None:
        return Contents(
            pages=[{"page": name, "title": title(text)} for name, text in texts.items()]
        )
    name = options.page.removesuffix(SUFFIX)
    if name not in texts:
        nearest = difflib.get_close_matches(name, texts, 1)
        known = f"expected one of {', '.join(texts)}"
        advice = f"did you mean `ray-brats guide {nearest[0]}`?" if nearest else known
        raise UsageError(f"no page {name!r}: {advice}")
    return Page(page=name, title=title(texts[name]), text=texts[name])


def pages() -> dict[str, str]:
    """Name and text of every page, by name."""
    if not DOCS.is_dir():
        return {}
    files = sorted(DOCS.iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(SUFFIX): file.read_text("utf-8")
        for file in files
        if file.name.endswith(SUFFIX)
    }


def title(text: str) -> str:
    """The first line that says something, without the marks of a heading."""
    lines = (line.lstrip("#").strip() for line in text.splitlines())
    return next((line for line in lines if line), "")


def tell(summary: Summary) -> None:
    """Print it: rendered on a terminal, as it is written elsewhere."""
    if isinstance(summary, Contents):
        width = max(len(item["page"]) for item in summary.pages)
        for item in summary.pages:
            sys.stdout.write(f"{item['page']:{width}}  {item['title']}\n")
        return
    assert isinstance(summary, Page)
    if not sys.stdout.isatty():
        sys.stdout.write(summary.text)
        return
    import rich.console
    import rich.markdown

    rich.console.Console().print(rich.markdown.Markdown(summary.text))
