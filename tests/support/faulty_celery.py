"""The ``celery`` command, which dies at a named point: ``-m tests.support.faulty_celery``."""

from celery.__main__ import main

from . import faults

assert faults.POINTS

main()
