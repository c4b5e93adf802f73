"""Learners that adapt by comparing queries with the support set."""
