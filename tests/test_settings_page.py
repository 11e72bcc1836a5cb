"""docs/settings.md says what the signatures say."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / 'scripts/settings_page.py'


def load():
    spec = importlib.util.spec_from_file_location('settings_page', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_signatures_say():
    script = load()
    assert script.PAGE.read_text('utf-8') == script.page(), 'run python scripts/settings_page.py'


def test_every_argument_of_the_data_has_a_meaning():
    page = load().page()
    rows = [line for line in page.splitlines() if line.startswith('| `')]
    assert len(rows) > 150
    assert not [row for row in rows if row.rstrip(' |').endswith('` |') or row.endswith('|  |')]
