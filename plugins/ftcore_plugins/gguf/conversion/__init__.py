"""Writes a Hugging Face folder as a GGUF of whole weights: text, what sees images, or an adapter alone."""
