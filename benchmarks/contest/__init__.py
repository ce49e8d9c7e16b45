"""Shared parts of the benchmarks: contenders that run in turn, and their inputs."""
