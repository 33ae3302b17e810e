"""Shared code of the stages: audio reading, features, data set, networks, training, voting."""
