"""Evaluation: truths matched to classes, metrics, and the report of both."""
