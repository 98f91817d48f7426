"""What is published and bundled: variants, labels, model configurations, weights."""
