"""Measuring a model on labelled images: metrics, reports, calibration, published figures."""
