"""Finished work on disk: whole or absent, never half."""
