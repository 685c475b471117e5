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

#: Seconds after which a message of a later release is offered to all workers again.
UNKNOWN_SCHEMA_DELAY = 10

_log = logging.getLogger(__name__)


class EventTask(Task[Any, Any]):
    """A task whose first argument is the event's dedup key.

    That key is all of its arguments that logs, task events and Flower get to see: the rest may
    be personal data (DESIGN 5).
    """

    abstract = True

    def apply_async(  # type: ignore[override] # the rest are options like any other
        self, args: tuple[Any, ...] | None = None, kwargs: Any = None, **options: Any
    ) -> Any:
        """Publish it, as ``celery.Task.apply_async`` does."""
        ours = publish.message_options(*(args or ())[:1])
        # A message that is put back keeps what it was first published with.
        ours["headers"] |= options.get("headers") or {}
        return super().apply_async(args, kwargs, **(options | ours))

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """Retry, as ``celery.Task.retry`` does; but a retry that Redis does not take loses nothing.

        Celery drops the message then. Ours goes back to its queue.
        """
        try:
            return super().retry(*args, **kwargs)
        except Reject as rejected:
            raise Reject(rejected.args[0], requeue=True) from rejected

    # A worker needs the text of a traceback. To give it the frames as well takes as long as all
    # else that a parked delivery costs.

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Drop the frames of an error that is expected; of others, they are logged after this."""
        if isinstance(exc, self.throws):
            einfo.tb = None

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Drop the frames."""
        einfo.tb = None

    def requeue_later(self, seconds: float, why: str) -> Retry:
        """Put the message back for so many seconds, which uses up no try. Raise what it returns.

        Raises:
            Reject: Redis did not take it; it goes back to its queue at once.
        """
        again = self.signature_from_request(countdown=seconds, retries=self.request.retries)
        try:
            again.apply_async()
        except OperationalError as error:
            raise Reject(error, requeue=True) from error
        return Retry(why, when=now() + timedelta(seconds=seconds))

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Put a message of a release newer than ours back, for workers of that release."""
        known = publish.MESSAGE_SCHEMA
        written = self.request.get("message_schema", known)
        if written > known:
            why = f"message schema {written}; known up to {known}"
            _log.error("%s is kept for workers of another release: %s", task_id, why)
            raise self.requeue_later(UNKNOWN_SCHEMA_DELAY, why)


settings()  # a process that cannot start says so before anything else
app: Celery = Celery("tasks", task_cls=EventTask)
app.config_from_object("celeryconfig")


@signals.heartbeat_sent.connect
@signals.after_task_publish.connect(sender="sweep")
def _touch_heartbeat(**_: Any) -> None:
    """A worker's loop turns, which it says every 2 s; or beat has sent a sweep."""
    if file := settings().heartbeat_file:
        file.touch()


@signals.after_setup_logger.connect
def _set_up_logs(loglevel: int = logging.INFO, **_: Any) -> None:
    json_lines.log_to_stdout()
    if loglevel > logging.DEBUG:  # a line a task is enough: the one that says how it ended
        logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells of every client made
