"""Tests, in rings: unit (plain functions), integration (real services), docker (containers)."""
