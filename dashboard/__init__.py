"""The dashboard: the pages and rules that this project adds to Flower.

- ``flower``: everything that knows Flower's internals; ``flowerconfig.py`` calls its ``install``
- ``pages``: the pages that Flower does not have
- ``timeline``, ``charts``, ``formatting``: what the pages show; pure

``flower.install`` and ``flower.task_page`` import pages; a page imports only ``flower.auth``, the
authorization check that every handler is derived from.
"""
