"""The operator's desk: what we add to Flower. ``flowerconfig.py`` calls ``install``.

In the order of a request: who is there (``guard``), what our pages have in common (``page``), then
the pages: ``overview``, ``events``, ``event``, ``task`` (Flower's own, with Retry), ``retry``,
``redrives`` (of many), ``runbook``, ``metrics``. What Flower is made of inside is known to
``install``, ``templates``, ``guard`` and ``task`` alone.
"""
