"""Saved adapters on disk: written as one state, and checked before anything reads them. Knows no model."""
