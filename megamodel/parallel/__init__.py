"""How a model is cut. The model files know nothing of it."""
