"""From a GGUF of whole weights to one of a few bits a weight, as llama.cpp writes it."""
