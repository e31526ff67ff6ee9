"""The pages as one site: built strictly, complete, and readable without a network."""

import doctest
import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
MISSING = any(find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings", "latex2mathml"))
REQUIRED = bool(os.environ.get("CENTER_SMOOTHING_REQUIRE_DOCS"))
needs_mkdocs = pytest.mark.skipif(MISSING and not REQUIRED, reason='needs pip install -e ".[docs]"')


class Loaded(HTMLParser):
    """Addresses that a page loads by itself, and the text that stands in it outside of code and formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text: list[str] = []
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
        value = dict(attrs).get(names.get(tag, ""))
        if value is not None:
            self.addresses.append(value)
        self._code += tag in ("code", "pre", "script", "math")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "pre", "script", "math")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.text.append(data)


def formulas(markdown: str) -> list[str]:
    """Formulas in dollars, outside of code."""
    found = re.findall(r"```.*?```|`[^`\n]+`|(\$\$.+?\$\$|\$[^$\n]+\$)", markdown, flags=re.DOTALL)
    return [formula for formula in found if formula]


def build(folder: Path, *arguments: str, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    words = ["build", "--strict", f"--config-file={config}", f"--site-dir={folder}", *arguments]
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", *words],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Loaded]:
    found = {}
    for path in site.rglob("*.html"):
        loaded = found[str(path.relative_to(site))] = Loaded()
        loaded.feed(path.read_text())
    return found


@pytest.fixture
def hooks() -> ModuleType:
    spec = spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_mkdocs
def test_every_page_is_there(pages: dict[str, Loaded]) -> None:
    docs = ROOT / "docs"
    assert {str(path.relative_to(docs).with_suffix(".html")) for path in docs.rglob("*.md")} <= pages.keys()
    assert {"security.html", "contributing.html", "changelog.html"} <= pages.keys()


@needs_mkdocs
def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Loaded]) -> None:
    for name, page in pages.items():
        assert not [address for address in page.addresses if re.match(r"(?:https?:)?//", address)], name
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert styles
    assert not [style for style in styles if re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", style)]


@needs_mkdocs
def test_no_markup_is_left_over(pages: dict[str, Loaded]) -> None:
    for name, page in pages.items():
        text = "".join(page.text)
        assert not re.findall(r":(?:class|meth|func):|^- |\]\(|^\||\$", text, flags=re.MULTILINE), name


@needs_mkdocs
def test_formulas_are_typeset_without_a_script(site: Path) -> None:
    written = formulas((ROOT / "docs" / "theory.md").read_text())
    assert len(written) > 1000
    for path in site.rglob("*.html"):
        page = path.read_text()
        typeset = re.findall(r"<math .*?</math>", page, flags=re.DOTALL)
        assert not [formula for formula in typeset if "\\" in formula], f"{path.name}: a command that is not known"
        assert "arithmatex" not in page
        assert path.name != "theory.html" or len(typeset) == len(written)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_github_leaves_formulas_as_they_are(path: Path) -> None:
    r"""There, \ before punctuation is an escape, and _ after punctuation may begin an emphasis."""
    assert not [formula for formula in formulas(path.read_text()) if re.search(r"\\[^A-Za-z]|\W_|\*", formula)]


@needs_mkdocs
def test_the_reference_has_what_the_package_exports(site: Path) -> None:
    import center_smoothing

    reference = "".join(path.read_text() for path in (site / "api").glob("*.html"))
    missing = [name for name in center_smoothing.__all__ if f'id="center_smoothing.{name}"' not in reference]
    assert set(missing) <= {"DISTANCES", "NO_BOX", "SMOOTHERS"}  # constants: shown in words, and with BoxJaccard


@needs_mkdocs
def test_a_link_that_leads_nowhere_fails(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Page\n\n[a](#nothing)\n")
    settings = (ROOT / "mkdocs.yml").read_text()
    validation = settings[settings.index("validation:") : settings.index("nav:\n  - Home")]
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"site_name: test\ntheme: {{name: material, font: false}}\n{validation}")
    done = build(tmp_path / "site", config=config)
    assert done.returncode != 0
    assert "#nothing" in done.stderr


@needs_mkdocs
def test_the_hooks_do_what_their_examples_say(hooks: ModuleType) -> None:
    results = doctest.testmod(hooks)
    assert results.attempted >= 3
    assert results.failed == 0
    code = "text\n```python\n# a\nx = 1\n- 1\n```"
    assert hooks.lists_after_paragraphs(code) == code


def test_the_picture_is_drawn_from_a_certificate(tmp_path: Path) -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "pictures" / "certificate.py"))
    drawing["main"].__globals__.update(CURVE=[0.0, 0.25, 0.5], DIRECTIONS=2)
    assert drawing["main"]([str(tmp_path / "drawn.png")]).read_bytes().startswith(b"\x89PNG")
    certificate = drawing["smoother"](seed=0).certify(drawing["X"])
    moved = [float((there.center - certificate.center).norm()) for _, there in drawing["attacked"](0.25)]
    assert max(moved) <= certificate.eps_out(0.25)
