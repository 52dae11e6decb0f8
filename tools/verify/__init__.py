"""Prove the promises on a user's own configuration."""
