"""tests/README.md names every integration test and every helper."""

import pytest

from tests.support.nodes import ROOT

TESTS = ROOT / "tests"
FILES = [*TESTS.glob("integration/test_*.py"), *TESTS.glob("support/[!_]*.py")]


@pytest.mark.parametrize("name", sorted(file.name for file in FILES))
def test_the_readme_names_each_file(name):
    assert f"`{name}`" in (TESTS / "README.md").read_text()
