"""Helpers that several built-in plugins share; no plugin lives here."""
