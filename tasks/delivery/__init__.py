"""One attempt at one sink: the call, what may hold it back, and what its answer means."""
