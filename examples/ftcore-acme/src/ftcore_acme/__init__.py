"""Plugins of the fictional Acme company, each in a module of its own."""
