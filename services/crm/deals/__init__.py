"""Deals: what may be sold, on its way through the stages of a pipeline."""
