"""A check at the start of a process: are Celery and kombu made as this package expects?

What is overridden here is no public API (docs/decisions/0014-pins-and-guards.md). pyproject.toml
pins the versions; this check reports a change in one that is installed all the same, before it
loses a message.
"""

import inspect
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pkgutil import resolve_name
from typing import Any

from tasks.errors import ProcessorError

#: The versions that the tables below describe.
SUPPORTED = {"celery": "5.7", "kombu": "5.7"}

#: Methods that this package overrides or calls, with their parameters.
METHODS = {
    "kombu.transport.redis:Channel._brpop_read": "self, **options",
    "kombu.transport.redis:Channel._brpop_start": "self, timeout=None",
    "kombu.transport.redis:Channel._connparams": "self, asynchronous=False",
    "kombu.transport.redis:Channel._create_client": "self, asynchronous=False",
    "kombu.transport.redis:Channel._flush_brpop_reauth": "self",
    "kombu.transport.redis:Channel._put": "self, queue, message, **kwargs",
    "kombu.transport.redis:Channel.basic_consume": "self, queue, *args, **kwargs",
    "kombu.transport.redis:Channel.conn_or_acquire": "self, client=None",
    "kombu.transport.redis:PublishBatch.add": "self, name, *args",
    "kombu.transport.redis:QoS.ack": "self, delivery_tag",
    "kombu.transport.redis:QoS.append": "self, message, delivery_tag",
    "kombu.transport.redis:QoS.reject": "self, delivery_tag, requeue=False",
    "kombu.transport.virtual:QoS.ack": "self, delivery_tag",
    "kombu.transport.virtual:QoS.append": "self, message, delivery_tag",
    "kombu.transport.virtual:QoS.can_consume": "self",
    "kombu.transport.virtual:Transport._deliver": "self, message, queue",
    "celery.backends.redis:RedisBackend.add_pending_result": (
        "self, result, weak=False, start_drainer=True"
    ),
    "celery.backends.redis:RedisBackend.apply_chord": "self, header_result_args, body, **kwargs",
    "celery.backends.redis:RedisBackend.chord_error_from_stack": "self, callback, exc=None",
    "celery.backends.redis:RedisBackend.ensure": "self, fun, args, **policy",
    "celery.backends.redis:RedisBackend.get_key_for_group": "self, group_id, key=''",
    "celery.backends.redis:RedisBackend.mark_as_failure": (
        "self, task_id, exc, traceback=None, request=None, store_result=True, call_errbacks=True, "
        "state='FAILURE'"
    ),
    "celery.backends.redis:RedisBackend.on_chord_part_return": (
        "self, request, state, result, propagate=None, **kwargs"
    ),
    "celery.backends.redis:RedisBackend.set_chord_size": "self, group_id, chord_size",
    "celery.concurrency.asynpool:AsynPool.flush": "self",
    "celery.events.dispatcher:EventDispatcher.flush": "self, errors=True, groups=True",
}

#: Names that these libraries' own code uses, and this package with the same meaning.
NAMES = {
    "kombu.transport.redis:Channel._brpop_read": "_deliver _in_poll _queue_cycle parse_response",
    "kombu.transport.redis:Channel._brpop_start": (
        "_brpop_sent_at _in_poll _queue_cycle active_queues brpop_timeout"
    ),
    "kombu.transport.redis:Channel._put": "_publish_batch lpush",
    "kombu.transport.redis:Channel._q_for_pri": "priority",
    "kombu.transport.redis:Channel.priority": "priority_steps",
    "kombu.transport.redis:QoS.append": "unacked_index_key unacked_key",
    "celery.concurrency.asynpool:AsynPool.flush": "_cache _is_alive _write_to outbound_buffer",
    "celery.concurrency.prefork:TaskPool.on_start": "Pool",
    "celery.events.dispatcher:EventDispatcher.send": "on_send_buffered",
}


class LibraryChangedError(ProcessorError):
    """Raised when a library is not made as this release expects; lists every difference."""


def verify(
    supported: Mapping[str, str] = SUPPORTED,
    methods: Mapping[str, str] = METHODS,
    names: Mapping[str, str] = NAMES,
) -> None:
    """Compare installed libraries with what this release expects of them.

    Raises:
        LibraryChangedError: they differ.
    """
    problems = dict.fromkeys([*_changed_methods(methods), *_missing_names(names)])
    if problems:
        versions = ", ".join(
            f"{name} {known} (installed: {version(name)})" for name, known in supported.items()
        )
        raise LibraryChangedError("\n  ".join([f"this release supports {versions}:", *problems]))


def _changed_methods(methods: Mapping[str, str]) -> Iterator[str]:
    for path, expected in methods.items():
        if not (method := _resolve(path)):
            yield f"{path} is missing"
            continue
        if not inspect.isfunction(method):
            yield f"{path} is not a function"
            continue
        signature = inspect.signature(method)
        plain = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
        found = str(signature.replace(parameters=plain, return_annotation=signature.empty))
        if found != f"({expected})":
            yield f"{path} has parameters {found} instead of ({expected})"


def _missing_names(names: Mapping[str, str]) -> Iterator[str]:
    for path, expected in names.items():
        if not (method := _resolve(path)):
            yield f"{path} is missing"
            continue
        if not inspect.isfunction(inspect.unwrap(method)):
            yield f"{path} is not a function"
            continue
        code = inspect.unwrap(method).__code__
        if missing := set(expected.split()).difference(code.co_names, code.co_consts):
            yield f"{path} does not use {', '.join(sorted(missing))}"


def _resolve(path: str) -> Any:
    try:
        return resolve_name(path)
    except (ImportError, AttributeError):
        return None
