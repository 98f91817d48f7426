"""Why a prediction: class activation maps and split-attention weights."""
