"""Exact duplicates, near duplicates and contamination, found through files rather than in memory."""
