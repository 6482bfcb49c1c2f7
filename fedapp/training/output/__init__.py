"""What a model says of its next words: the logits that count."""
