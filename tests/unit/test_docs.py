"""What the documents refer to exists: linked files and headings, and paths of files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tasks", "ingest", "dashboard", "embedded", "tests", "benchmarks", "deploy", "docs")
PAGES = [
    path
    for found in (ROOT.glob("*.md"), *((ROOT / folder).rglob("*.md") for folder in FOLDERS))
    for path in found
    if path.name != "CHANGELOG.md"  # it names files of earlier releases
]

#: A file that the reader makes.
EXAMPLE = "tasks/sinks/billing.py"

LINK = re.compile(r"\]\(\s*<?(?!https?:|mailto:)([^)\s>]*)")
IMAGE = re.compile(r'src="([^"]+)"')
PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)}|requirements)/[\w./-]*\w")
TEST_FILE = re.compile(r"(?<![\w/])test_\w+\.py")
FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@by_page
def test_relative_links_lead_to_files_and_headings(page):
    text = FENCED.sub("", page.read_text("utf-8"))
    for link in LINK.findall(text) + IMAGE.findall(text):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@by_page
def test_mentioned_files_exist(page):
    mentioned = {
        path
        for path in PATH.findall(page.read_text("utf-8"))
        if path != EXAMPLE and Path(path).stem != "NAME"
    }
    assert [path for path in sorted(mentioned) if not (ROOT / path).exists()] == []


@by_page
def test_mentioned_test_files_exist(page):
    known = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(TEST_FILE.findall(page.read_text("utf-8"))) <= known


def test_the_documents_are_found():
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "docs/architecture.md", "docs/decisions/README.md"} <= names
