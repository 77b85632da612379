"""What is shipped: artifacts, their proofs and cards, exporting again, and where all of it goes."""
