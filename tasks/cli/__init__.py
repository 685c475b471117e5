"""``celery -A tasks …``: one file per command, ``output`` and ``options`` are shared."""
