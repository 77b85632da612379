"""How an artifact is proved: a reference of the tuned model, and a runtime that answers the same questions.

Nothing here imports torch: an artifact is compared in a process of its own runtime. Imports numpy.
"""
