"""``python -m tasks.settings`` renders ``docs/settings.md``."""

import sys

from tasks.settings.docs import as_markdown

sys.stdout.write(as_markdown())
