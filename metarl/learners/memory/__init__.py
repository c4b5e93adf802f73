"""Learners that adapt by reading the support set into a memory or into fast weights."""
