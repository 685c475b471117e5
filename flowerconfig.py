"""Flower's configuration, which ``celery -A tasks flower`` executes."""

from dashboard.flower.install import install
from tasks.settings import settings

# Without these, Flower would listen on every address, without authentication.
address = settings().flower_address
port = settings().flower_port
basic_auth = settings().flower_basic_auth.split(",") if settings().flower_basic_auth else []

install()
