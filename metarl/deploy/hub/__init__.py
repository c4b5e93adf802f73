"""Runs to share and to get: a folder with a model card, or the Hugging Face hub."""
