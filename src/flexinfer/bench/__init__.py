"""Measure a model on this machine: budgets times strategies, against the bound and plain mmap."""
