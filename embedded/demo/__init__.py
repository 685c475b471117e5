"""The demonstration: sample events (``samples``), sent (``runner``) and checked (``check``)."""
