"""Pipelines: the stages that deals move through, in order."""
