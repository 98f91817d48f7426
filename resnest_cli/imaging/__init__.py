"""Stored bytes to RGB images, and RGB images to a network's input."""
