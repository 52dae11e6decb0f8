"""The stages of a preparation, one module a kind."""
