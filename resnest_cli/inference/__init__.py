"""Images to predictions: the classifier, the batcher, the resumable prediction job."""
