"""What tests and benchmarks run on: the servers."""
