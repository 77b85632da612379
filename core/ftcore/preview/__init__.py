"""Rows as the model will see them: as text, as JSON, or as a page with pictures."""
