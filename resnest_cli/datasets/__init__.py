"""Labelled images: class folders, ground-truth lists, and class names matched to a network's."""
