"""Deliver again: because a lease ran out, a sink recovered, or an operator asks."""
