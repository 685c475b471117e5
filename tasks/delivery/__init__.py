"""One attempt at one sink: limits and circuit breaker, the call, and what the response means."""
