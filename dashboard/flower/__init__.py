"""The parts of the dashboard that know Flower's internals."""
