"""Tests on real Redis, an AWS emulator and real worker processes."""
