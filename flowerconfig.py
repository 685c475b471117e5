"""Flower's configuration, which ``celery -A tasks flower`` executes."""

from tasks.settings import settings

# Without these, Flower would listen on every address, and would not ask who is there.
address = settings().flower_address
port = settings().flower_port
basic_auth = (settings().flower_basic_auth or "").split(",")
