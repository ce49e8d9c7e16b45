"""Trainings that can be repeated: data, configuration, command, result."""
