"""The HTTP endpoint that EventBridge API destinations call: a thin WSGI application."""
