"""Artifacts in, one report out."""
