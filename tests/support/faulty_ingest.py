"""Ingest that dies at a named point: ``python -m tests.support.faulty_ingest``."""

from ingest.__main__ import main

from . import faults

assert faults.POINTS

main()
