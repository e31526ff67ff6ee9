"""Makes one site of docs/ and of the pages at the top of the repository, which GitHub shows as they are."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Files at the top of the repository, and the pages that they become.
TOP_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
_LIST_ITEM = re.compile(r"(?:[-*]|\d+\.) ")
_FENCE = re.compile(r" *```")
# What pymdownx.arithmatex makes of $...$, with the text that no line may separate it from, and of $$...$$.
_INLINE = re.compile(r'(\(?)<span class="arithmatex">\\\((.*?)\\\)</span>([^\s<]*)', flags=re.DOTALL)
_DISPLAYED = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', flags=re.DOTALL)
# What latex2mathml writes, and what browsers typeset better.
_BETTER = (
    ("<mi>&#x02032;</mi>", '<mo class="prime">&#x02032;</mo>'),
    ("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>"),
    ("<mi>(:|&#x025B3;)</mi>", r"<mo>\1</mo>"),
    ("<mo>(?=&#x02016;|&#x0007C;)", '<mo stretchy="false" lspace="0" rspace="0">'),  # bars of norms
    ("(?<=&#x00028;</mo>)<mo>(?=&#x02212;)", '<mo form="prefix">'),  # a sign, not a difference
    ("<mo[^>]*>([a-z]+|&#x0221E;)</mo>", r"<mi>\1</mi>"),  # min, sup, infinity
    ("(?<=</m[in]>)(?=<mi>[a-z]{2})", '<mspace width="0.167em" />'),  # before ln, exp
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages at the top of the repository."""
    top = Path(config.config_file_path).parent
    for name, page in TOP_PAGES.items():
        files.append(File.generated(config, page, content=site_links_of_top((top / name).read_text())))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where the page is on the site, and let lists begin where GitHub lets them begin."""
    return lists_after_paragraphs(site_links_of_docs(markdown))


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Typeset formulas, without a script in the reader's browser."""
    html = _DISPLAYED.sub(lambda found: mathml(found[1], "block"), html)
    return _INLINE.sub(
        lambda found: f'<span class="formula">{found[1]}{mathml(found[2], "inline")}{found[3]}</span>', html
    )


def mathml(escaped_latex: str, display: str) -> str:
    r"""Convert a formula from LaTeX to MathML, which browsers show by themselves.

    Example:
        >>> mathml(r"\min h'", "inline").partition("<mrow>")[2]
        '<mi>min</mi><msup><mi>h</mi><mo class="prime">&#x02032;</mo></msup></mrow></math>'
    """
    formula = convert(unescape(escaped_latex), display=display)
    for written, better in _BETTER:
        formula = re.sub(written, better, formula)
    return formula


def site_links_of_top(markdown: str) -> str:
    """Rewrite the links of a page at the top of the repository, as docs/ is the top of the site.

    Example:
        >>> site_links_of_top("[a](docs/theory.md) ![b](docs/b.png) [c](SECURITY.md#what-is-not)")
        '[a](theory.md) ![b](b.png) [c](security.md#what-is-not)'
    """
    markdown = re.sub(r"\]\(docs/", "](", markdown)
    return _rename(markdown, "")


def site_links_of_docs(markdown: str) -> str:
    """Rewrite the links of a page in docs/ to those pages at the top of the repository that the site has; no others.

    Example:
        >>> site_links_of_docs("[a](../SECURITY.md#reporting) [b](../LICENSE)")
        '[a](security.md#reporting) [b](../LICENSE)'
    """
    return _rename(markdown, "../")


def lists_after_paragraphs(markdown: str) -> str:
    r"""Add an empty line before each list that follows a paragraph without one, which Python-Markdown needs.

    Example:
        >>> lists_after_paragraphs("Text:\n- one\n- two\n\n- three")
        'Text:\n\n- one\n- two\n\n- three'
    """
    lines: list[str] = []
    fenced = in_list = False
    for line in markdown.split("\n"):
        if _FENCE.match(line):
            fenced = not fenced
        item = not fenced and _LIST_ITEM.match(line) is not None
        if item and not in_list and lines and lines[-1].strip():
            lines.append("")
        in_list = item or (in_list and bool(line.strip()))
        lines.append(line)
    return "\n".join(lines)


def _rename(markdown: str, before: str) -> str:
    for name, page in TOP_PAGES.items():
        markdown = re.sub(rf"\]\({re.escape(before + name)}(?=[)#])", f"]({page}", markdown)
    return markdown
