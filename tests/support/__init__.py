"""What tests, benchmarks and the soak share: processes, clients, samples, faults."""
