"""Celery's configuration: what this project decides. What users set is in ``tasks/settings/``."""

from kombu import Queue

from tasks import routing
from tasks.settings import settings
from tasks.settings.settlement_bound import RESTORE_INTERVAL
from tasks.sinks import SINKS
from tasks.worker import compat, transport

compat.verify()  # before anything is overridden
transport.install()
_settings = settings()

imports = ("tasks.process", "tasks.deliver", "tasks.settle", "tasks.sweep", "tasks.drain")
timezone = "UTC"

# Redis: transport of messages, and of the outcomes of a chord on their way to settle.
broker_url = _settings.redis_url
result_backend = f"tasks.worker.chord_backend:SettlingBackend+{_settings.redis_url}"
if _settings.redis_tls:
    broker_use_ssl = redis_backend_use_ssl = _settings.redis_tls
broker_connection_retry_on_startup = True
broker_transport_options = {
    "visibility_timeout": _settings.visibility_timeout,
    # How often to look for lost workers' messages; kombu's own default comes to 100 s.
    "unacked_restore_interval": RESTORE_INTERVAL,
    "unacked_restore_throttle": 1,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
}
redis_socket_connect_timeout = 2.0
redis_socket_timeout = 5.0

# One queue per task that can be held up on its own (tasks/routing.py).
task_queues = [Queue(name, routing_key=name) for name in routing.queues(SINKS)]
task_default_queue = routing.EVENTS_QUEUE
task_create_missing_queues = False
task_routes = routing.routes(SINKS)

# A message is gone only when its task is done; a killed child's message goes back.
task_acks_late = True
task_reject_on_worker_lost = True
worker_pool = "tasks.worker.pool:TaskPool"  # a stop forgets no job that a process may run
worker_prefetch_multiplier = 1  # a message held back by one worker could be done by another
worker_eta_task_limit = 10_000  # retries that wait in one worker's memory
worker_soft_shutdown_timeout = 20  # SIGQUIT: what runs may end; SIGTERM waits for it anyway
# A task that runs while Redis goes away is let finish: its event settles now, and the message
# that could not be acknowledged comes again later, with the same Idempotency-Key.
worker_cancel_long_running_tasks_on_connection_loss = False

# Nobody reads results: outcomes are on the claim. Errors are kept a while for Flower's API.
task_ignore_result = True
task_store_errors_even_if_ignored = True
result_expires = 3600
# How long a chord waits after its first delivery. Longer than a lease: queues may be long, too.
result_chord_expires = 86_400 + _settings.claim_lease

# Flower sees each task; arguments are shown as the event's id alone (tasks/celery.py).
worker_send_task_events = True

_each = {
    "schedule": _settings.sweep_interval,
    "options": {"expires": _settings.sweep_interval},  # they do not pile up
}
beat_schedule = {
    "sweep": {"task": routing.SWEEP, **_each},
    **{f"drain.{name}": {"task": routing.DRAIN, "args": (name,), **_each} for name in SINKS},
}
