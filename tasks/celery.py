"""The Celery app: ``celery -A tasks …`` finds it here."""

import logging
from datetime import timedelta
from typing import Any

from celery import Celery, Task, signals
from celery.exceptions import Reject, Retry
from kombu.exceptions import OperationalError

from tasks import json_lines
from tasks.clock import now
from tasks.settings import settings
from tasks.worker import publish
from tasks.worker.consumer import SendEventsTogether

#: Seconds after which a message of a later release is delivered again, to any worker.
UNKNOWN_SCHEMA_DELAY = 10

_log = logging.getLogger(__name__)


class EventTask(Task[Any, Any]):
    """A task whose first argument is the event's dedup key.

    Logs, task events and Flower see no other argument (``tasks.worker.publish``).
    """

    abstract = True

    def apply_async(  # type: ignore[override] # the rest are options like any other
        self, args: tuple[Any, ...] | None = None, kwargs: Any = None, **options: Any
    ) -> Any:
        """Publish it, as ``celery.Task.apply_async`` does."""
        added = publish.message_options(*(args or ())[:1])
        # A message that is requeued keeps what it was first published with.
        added["headers"] |= options.get("headers") or {}
        return super().apply_async(args, kwargs, **(options | added))

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """Retry, as ``celery.Task.retry`` does; if Redis does not answer, requeue the message.

        Celery would drop it.
        """
        try:
            return super().retry(*args, **kwargs)
        except Reject as rejected:
            raise Reject(rejected.args[0], requeue=True) from rejected

    # A worker needs the text of a traceback. To send it the frames as well takes as long as all
    # else that a parked delivery costs.

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Drop the frames of an expected error; those of others are logged after this."""
        if isinstance(exc, self.throws):
            einfo.tb = None

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Drop the frames."""
        einfo.tb = None

    def requeue_later(self, seconds: float, why: str) -> Retry:
        """Requeue the message with a delay in seconds, without counting a retry.

        The caller raises what it returns.

        Raises:
            Reject: Redis did not answer; the message goes back to its queue at once.
        """
        again = self.signature_from_request(countdown=seconds, retries=self.request.retries)
        try:
            again.apply_async()
        except OperationalError as error:
            raise Reject(error, requeue=True) from error
        return Retry(why, when=now() + timedelta(seconds=seconds))

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Requeue a message of a later release, for workers of that release."""
        known = publish.MESSAGE_SCHEMA
        written = self.request.get("message_schema", known)
        if written > known:
            why = f"message schema {written}; known up to {known}"
            _log.error("%s is kept for workers of another release: %s", task_id, why)
            raise self.requeue_later(UNKNOWN_SCHEMA_DELAY, why)


settings()  # a process that cannot start ends before anything else
app: Celery = Celery("tasks", task_cls=EventTask)
app.config_from_object("celeryconfig")
app.steps["consumer"].add(SendEventsTogether)


@signals.heartbeat_sent.connect
@signals.after_task_publish.connect(sender="sweep")
def _touch_heartbeat(**_: Any) -> None:
    """Record that a worker's loop runs (every 2 s), or that beat has sent a sweep."""
    if file := settings().heartbeat_file:
        file.touch()


@signals.after_setup_logger.connect
def _set_up_logs(loglevel: int = logging.INFO, **_: Any) -> None:
    json_lines.log_to_stdout()
    if loglevel > logging.DEBUG:  # one line per task is enough: how it ended
        logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it logs every client that is created
