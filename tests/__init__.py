"""Tests, in rings: unit (plain functions), integration (real services, no Docker)."""
