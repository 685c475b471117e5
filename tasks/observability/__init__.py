"""What operators see of the whole: a snapshot of queues, claims and sinks, and metrics."""
